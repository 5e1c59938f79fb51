"""The embedded model: a LLaVA of about two million parameters, made of the classes that LLaVA-1.5 is made of.

    image 96×96 → CLIP tower (4 layers, 36 patches) → two-layer projector → Llama (4 layers, 128 wide) → words

Source: LLaVA-1.5 (arXiv:2310.03744): its chat template, its layer −2 features without the class token.
Knows: transformers, tokenizers. Does not know: training, scenes beyond their words, image-free branches.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from vdd.toy.scenes import COLORS, IMAGE_SIZE, OBJECTS, POSITIONS

#: Where the shipped weights live: `llava/`, `clip/` and `training_log.json`.
WEIGHTS = Path(__file__).parent / "weights"
PATCH = 16  # pixels; 36 patches, four to each cell of the grid
WIDTH = 128
PAD, UNK, BOS, EOS, IMAGE, NEWLINE = "<pad>", "<unk>", "<s>", "</s>", "<image>", "\n"
USER, ASSISTANT = "USER:", "ASSISTANT:"
#: Every word of the questions and answers; anything else becomes <unk>.
WORDS = (
    "is there a an in the this image picture photo please answer yes or no question with one word "
    "what which color object letter describe detail . , ? : ( ) b c d and"
)
#: LLaVA-1.5's template; unlike it, an assistant's turn closes with </s>, which preference training needs.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% if message['content'] is string %}"
    "{{ message['content'] + ('</s>' if message['role'] == 'assistant' else ' ') }}"
    "{% else %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ part['text'] + '</s>' }}{% endgeneration %}"
    "{% else %}{{ part['text'] + ' ' }}{% endif %}"
    "{% endfor %}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def load(
    dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu", weights: Path | None = None
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The trained model in eval mode with its processor, from the package's own files, without a network.

    Args:
        dtype: the parameters' type; they are stored as float16.
        device: where the model goes.
        weights: a folder that `vdd.toy.train.train` wrote; None takes the shipped one.

    Raises:
        FileNotFoundError: if the folder holds no `llava/`.
    """
    folder = _part(weights, "llava")
    model: Any = LlavaForConditionalGeneration.from_pretrained(folder, dtype=dtype, local_files_only=True)
    processor = LlavaProcessor.from_pretrained(folder, local_files_only=True)
    return model.to(device).eval(), processor


def load_clip(
    dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu", weights: Path | None = None
) -> tuple[CLIPModel, CLIPProcessor]:
    """The CLIP whose vision tower is the embedded LLaVA's, in eval mode, with its processor. Arguments as `load`."""
    folder = _part(weights, "clip")
    model: Any = CLIPModel.from_pretrained(folder, dtype=dtype, local_files_only=True)
    processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
    return model.to(device).eval(), processor


def _part(weights: Path | None, name: str) -> Path:
    folder = (weights or WEIGHTS) / name
    if not folder.is_dir():
        raise FileNotFoundError(f"load: {folder} does not exist; `vdd.toy.train.train` writes it.")
    return folder


def vocabulary() -> list[str]:
    """Every token in the order of its id: special ones, the chat's two roles, then words, sorted.

    `</s>` must not be number 2: transformers' CLIP takes that for the sign of an old configuration and pools elsewhere.
    """
    words = {*WORDS.split(), *OBJECTS, *COLORS, *" ".join(POSITIONS).split()}
    return [PAD, UNK, BOS, EOS, IMAGE, NEWLINE, USER, ASSISTANT, *sorted(words)]


def build_tokenizer(*, close: bool = False) -> PreTrainedTokenizerFast:
    """A word-level tokenizer: lower-cases words, splits punctuation off, ignores spaces, adds `<s>` once in front.

    `close` appends `</s>` as well, where CLIP reads a caption's meaning, and pads on the right.

    Decoding and encoding again gives the same ids; letter case and spaces are not kept.
    """
    tokens = vocabulary()
    core = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=UNK))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\s+"), "removed"), pre_tokenizers.Punctuation("isolated")]
    )
    core.decoder = decoders.WordPiece(prefix="##", cleanup=True)  # joins with spaces, "here ." → "here."
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}" if close else f"{BOS} $A",
        special_tokens=[(BOS, tokens.index(BOS)), (EOS, tokens.index(EOS))],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="right" if close else "left",
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
    exact = [AddedToken(token, normalized=False) for token in (NEWLINE, USER, ASSISTANT)]  # their letter case counts
    tokenizer.add_tokens(exact)
    return tokenizer


def build_image_processor() -> Any:
    """CLIP's image processor for 96 pixels: the shorter side to 96, centre crop, values to −1…1."""
    pillow = getattr(transformers, "CLIPImageProcessorPil", None)  # transformers ≥ 5
    return (pillow or transformers.CLIPImageProcessor)(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def build_processor() -> LlavaProcessor:
    """LLaVA's processor: one `<image>` in the text becomes one per patch of the tower (the class token is dropped)."""
    return LlavaProcessor(
        image_processor=build_image_processor(),
        tokenizer=build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def vision_config() -> CLIPVisionConfig:
    """The tower that CLIP and LLaVA share."""
    return CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
        projection_dim=64,
    )


def build_clip() -> CLIPModel:
    """A fresh CLIP with the shared tower and a two-layer text encoder over the same vocabulary."""
    tokens = vocabulary()
    text = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        projection_dim=64,
        bos_token_id=tokens.index(BOS),
        eos_token_id=tokens.index(EOS),
        pad_token_id=tokens.index(PAD),
    )
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision_config().to_dict(), projection_dim=64))


def build_llava() -> LlavaForConditionalGeneration:
    """A fresh LLaVA; its tower is to be filled from a trained CLIP's."""
    tokens = vocabulary()
    ids: dict[str, Any] = {
        "bos_token_id": tokens.index(BOS),
        "eos_token_id": tokens.index(EOS),
        "pad_token_id": tokens.index(PAD),
    }
    text = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=WIDTH,
        intermediate_size=5 * WIDTH // 2,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        **ids,
    )
    config = LlavaConfig(
        vision_config=vision_config(),
        text_config=text,
        image_token_index=tokens.index(IMAGE),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=(IMAGE_SIZE // PATCH) ** 2,
        **ids,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=48, **ids)
    return model


def save(folder: Path, llava: LlavaForConditionalGeneration, clip: CLIPModel) -> None:
    """Write both models as float16 safetensors with their processors; `load` and `load_clip` read them back.

    The models themselves are left as they are.
    """
    processor = build_processor()
    pair = CLIPProcessor(image_processor=build_image_processor(), tokenizer=build_tokenizer(close=True))
    for name, model, tools in (("llava", llava, processor), ("clip", clip, pair)):
        half: Any = copy.deepcopy(model)
        half.to(torch.float16).save_pretrained(folder / name)
        tools.save_pretrained(folder / name)
        tools.image_processor.save_pretrained(folder / name)  # transformers 4.57 reads it from a file of its own
        _plain_tokenizer_config(folder / name / "tokenizer_config.json")
    _plain_names(folder / "llava" / "model.safetensors")


def _plain_names(path: Path) -> None:
    """Name the tower's weights as published LLaVA files do, which transformers 4.57 and 5 both read."""
    tower, inner = "vision_tower.", "vision_tower.vision_model."
    named = {name if inner in name else name.replace(tower, inner): value for name, value in load_file(path).items()}
    save_file(named, path, metadata={"format": "pt"})
    path.chmod(0o644)


def _plain_tokenizer_config(path: Path) -> None:
    """Say what transformers 5 writes in words that 4.57 knows too."""
    config = json.loads(path.read_text())
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "extra_special_tokens": {"image_token": IMAGE}}
    config |= {"model_input_names": ["input_ids", "attention_mask"]}
    path.write_text(json.dumps(config, indent=2) + "\n")
