"""A word-level tokenizer of a family's own special tokens and the words of the tests' questions."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.tiny import WORDS

__all__ = ["WORDS", "one_unk", "word_tokenizer"]


def word_tokenizer(
    specials: Sequence[str],
    plain: Sequence[str] = ("\n",),
    unk: str | None = "<unk>",
    bos: bool = True,
    **named: str,
) -> PreTrainedTokenizerFast:
    """Ids 0, 1, 2 … are `specials` (the first three: pad, bos, eos), then `plain`, then `WORDS`.

    Args:
        specials: special tokens; the unknown one is among them if there is one.
        plain: other strings that are cut out of the text whole, such as a newline or a role's name.
        unk: the unknown token; None: there is none, and a word outside the vocabulary is an error.
        bos: whether the second special token is a beginning of the text; else there is none.
        named: tokens that the tokenizer names as attributes, as in `image_token="<image>"`.
    """
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys([*specials, *plain, *WORDS]))}
    backend = Tokenizer(models.WordLevel(vocabulary, **({"unk_token": unk} if unk else {})))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(" +"), behavior="removed"),
            pre_tokenizers.Split(Regex("[?.,]"), behavior="isolated"),
        ]
    )
    backend.add_special_tokens([AddedToken(word, normalized=False) for word in specials])
    backend.add_tokens([AddedToken(word, normalized=False) for word in plain])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=specials[0],
        bos_token=specials[1] if bos else None,
        eos_token=specials[2],
        **({"unk_token": unk} if unk else {}),
        **({"extra_special_tokens": named} if named else {}),
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def one_unk(tokenizer: PreTrainedTokenizerFast, text: str, placeholder: str) -> list[int]:
    """The ids of a prompt's text, each `placeholder` in it read as one unknown token."""
    return list(tokenizer(text.replace(placeholder, tokenizer.unk_token), add_special_tokens=False).input_ids)
