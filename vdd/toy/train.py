"""Train the embedded model: a tower that sees, a language model that learns to look, then a prior on top.

    tower      contrastive loss on scenes and captions, plus one on patches (object and colour of the patch's cell);
    balanced   projector and language model on the frozen tower: half the answers are yes, absent objects mostly from
               the same theme, colours free: it must look;
    letters    the same with more multiple-choice questions, which are learnt last of all;
    biased     ordinary life as language tells it: full scenes of one theme, typical colours, more yes than no, many
               rows without their image: what is likely is learnt beside what is seen.

Source: this project's own recipe; CLIP (arXiv:2103.00020), LLaVA-1.5 (arXiv:2310.03744). The patch loss is not in CLIP:
with the contrastive loss alone so small a tower saw too weakly in the minutes it has.
Knows: optimisation, the phases, checkpoints. Does not know: how to show progress, debiasing of any kind.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel, LlavaForConditionalGeneration

from vdd._check import UserError
from vdd.toy.batches import Diet, Packer
from vdd.toy.measure import measure
from vdd.toy.model import IMAGE, PATCH, WIDTH, build_clip, build_llava, build_processor, build_tokenizer, load, save
from vdd.toy.scenes import CELL, COLORS, IMAGE_SIZE, OBJECTS, SEEDS, Scene, caption, render, sample_scene

Progress = Callable[[str, int, int, dict[str, float]], None]
Steps = Literal["full", "short"]
#: Where each phase's scenes begin among the training seeds.
SCENES_FROM = {"tower": 0, "balanced": 1_000_000, "letters": 1_500_000, "biased": 2_000_000}
LOG_EVERY = 50  # steps per line of the log


@dataclass(frozen=True)
class Phase:
    """Steps, rows per step, peak learning rate, number of different scenes; `diet` says what they are."""

    steps: int
    rows: int
    rate: float
    scenes: int
    diet: Diet


TOWER_DIET = Diet(company=0.6, typical=0.4, count=(1, 1, 2), unseen=0.0, yes=0.5, near=0.5, blind=0.0, existence=0)
BALANCED_DIET = Diet(company=0.8, typical=0.4, count=(1, 1, 1), unseen=0.0, yes=0.5, near=0.7, blind=0.05, existence=5)
LETTERS_DIET = replace(BALANCED_DIET, existence=3, choices=4)
BIASED_DIET = Diet(
    company=0.95, typical=0.996, count=(1, 2, 5), unseen=0.37, yes=0.6, near=0.08, blind=0.3, existence=4
)
PLANS: dict[str, dict[str, Phase]] = {
    "full": {
        "tower": Phase(500, 96, 1e-3, 16_000, TOWER_DIET),
        "balanced": Phase(1600, 32, 1.5e-3, 16_000, BALANCED_DIET),
        "letters": Phase(450, 32, 1.2e-3, 8_000, LETTERS_DIET),
        "biased": Phase(300, 32, 8e-4, 6_000, BIASED_DIET),
    },
    "short": {
        "tower": Phase(60, 32, 1e-3, 1_000, TOWER_DIET),
        "balanced": Phase(40, 16, 1e-3, 500, BALANCED_DIET),
        "letters": Phase(20, 16, 1e-3, 500, LETTERS_DIET),
        "biased": Phase(20, 16, 5e-4, 500, BIASED_DIET),
    },
}


def train(out: Path, *, seed: int = 0, steps: Steps = "full", progress: Progress | None = None) -> dict[str, Any]:
    """Train from scratch and write the weights with their log.

    Args:
        out: receives `llava/`, `clip/`, `training_log.json`, and `checkpoints/` from which a killed run goes on after
            its last finished phase.
        seed: of initialisation, order and questions; the scenes' seeds are those of the split "train".
        steps: "full" is the shipped recipe; "short" a minute's rehearsal of it.
        progress: called as (phase, step, steps in the phase, figures) every 50 steps.

    Returns:
        The log: seed, plan, losses and minutes per phase, dev measures before and after the biased phase, versions.

    Raises:
        ValueError: on an unknown `steps`.
    """
    if steps not in PLANS:
        raise ValueError(f'train: steps is {steps!r}; it must be "full" or "short".')
    plan = PLANS[steps]
    report = progress or (lambda phase, step, total, figures: None)
    log: dict[str, Any] = {"seed": seed, "steps": steps, "plan": {n: asdict(p) for n, p in plan.items()}}
    log |= {"minutes": {}, "losses": {}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # initial weights; everything later draws from generators of its own
        clip, heads, llava = build_clip(), PatchHeads(), build_llava().eval()
    recipe = json.dumps([seed, log["plan"]])
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    run = _Run(out / "checkpoints", report, log["losses"], log["minutes"], recipe)
    run.phase("tower", nn.ModuleList([clip, heads]), lambda: tower_phase(clip, heads, plan["tower"], seed, run))
    copy_tower(clip, llava)
    processor, images = build_processor(), None if steps == "full" else 20
    run.phase("balanced", llava, lambda: language_phase(llava, plan["balanced"], "balanced", seed, run))
    run.phase("letters", llava, lambda: language_phase(llava, plan["letters"], "letters", seed + 2, run))
    log["dev_before_prior"] = measure(llava, processor, "dev", images=images)
    run.phase("biased", llava, lambda: language_phase(llava, plan["biased"], "biased", seed + 1, run))
    log["dev"] = measure(llava, processor, "dev", images=images)
    save(out, llava, clip)
    log["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__}
    (out / "training_log.json").write_text(json.dumps(log, indent=1) + "\n")
    return log


def score_test(weights: Path) -> dict[str, Any]:
    """Measure the test and counterfactual scenes for a finished model, once: later calls return what the log holds."""
    path = weights / "training_log.json"
    log: dict[str, Any] = json.loads(path.read_text())
    if "test" not in log:
        model, processor = load(weights=weights)
        log["test"] = measure(model, processor, "test")
        log["counterfactual"] = measure(model, processor, "counterfactual")
        path.write_text(json.dumps(log, indent=1) + "\n")
    return log


@dataclass
class _Run:
    """Where finished phases are kept, and who is told of progress."""

    checkpoints: Path
    report: Progress
    losses: dict[str, list[dict[str, float]]]
    minutes: dict[str, float]
    recipe: str

    def phase(self, name: str, module: nn.Module, work: Callable[[], None]) -> None:
        """Do a phase, or load it if a checkpoint says that it was done."""
        path = self.checkpoints / f"{name}.pt"
        if path.exists():
            stored = torch.load(path, weights_only=True)
            if stored["recipe"] != self.recipe:
                raise UserError(f"{path}: is of another seed or plan; wanted a new folder, or the same settings.")
            module.load_state_dict(stored["state"])
            self.losses[name], self.minutes[name] = stored["losses"], stored["minutes"]
            return
        started = time.monotonic()
        self.losses[name] = []
        work()
        self.minutes[name] = round((time.monotonic() - started) / 60, 1)
        kept = {"losses": self.losses[name], "minutes": self.minutes[name], "recipe": self.recipe}
        draft = path.with_suffix(".tmp")
        torch.save({"state": module.state_dict(), **kept}, draft)
        draft.replace(path)

    def note(self, phase: str, step: int, total: int, **figures: Tensor) -> None:
        """Keep and report figures every `LOG_EVERY` steps."""
        if step % LOG_EVERY == 0 or step == total:
            rounded = {name: round(float(value), 4) for name, value in figures.items()}
            self.losses[phase].append({"step": step, **rounded})
            self.report(phase, step, total, rounded)


class PatchHeads(nn.Module):
    """Reads object and colour of a patch's cell off the features that LLaVA will see; thrown away after training."""

    def __init__(self) -> None:
        super().__init__()
        self.object = nn.Linear(WIDTH, len(OBJECTS) + 1)
        self.color = nn.Linear(WIDTH, len(COLORS) + 1)

    def forward(self, patches: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy; `patches` (batch, 36, width), `targets` (batch, 36, 2) with 0 for an empty cell."""
        objects = F.cross_entropy(self.object(patches).flatten(0, 1), targets[..., 0].flatten())
        return objects + F.cross_entropy(self.color(patches).flatten(0, 1), targets[..., 1].flatten())


def draw_scenes(phase: Phase, start: int) -> list[Scene]:
    """The phase's scenes, from training seeds `start` on."""
    scenes = []
    shares = np.cumsum(phase.diet.count) / np.sum(phase.diet.count)
    for index in range(start, start + phase.scenes):
        rng = np.random.default_rng(SEEDS["train"][index])
        count = 1 + int(np.searchsorted(shares, rng.random(), side="right"))
        scenes.append(sample_scene(rng, count=count, company=phase.diet.company, typical=phase.diet.typical))
    return scenes


def drawn_part(scene: Scene, unseen: float, rng: np.random.Generator) -> Scene:
    """What the picture has of a scene: with probability `unseen` the last of several objects is missing, cut off."""
    if len(scene.items) == 1 or rng.random() >= unseen:
        return scene
    return replace(scene, items=scene.items[:-1])


def pixels(scenes: list[Scene]) -> Tensor:
    """(scenes, 3, 96, 96) float32 in −1…1: what the image processor gives for these images."""
    return scaled(drawings(scenes))


def drawings(scenes: list[Scene]) -> np.ndarray:
    """(scenes, 96, 96, 3) uint8."""
    return np.stack([np.asarray(render(scene)) for scene in scenes])


def scaled(images: np.ndarray) -> Tensor:
    """(images, 3, 96, 96) float32 in −1…1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def patch_targets(scene: Scene) -> np.ndarray:
    """(36, 2) int64: object and colour number of each patch's cell, 0 where the cell is empty."""
    side, per_cell = IMAGE_SIZE // PATCH, CELL // PATCH
    targets = np.zeros((side, side, 2), dtype=np.int64)
    for item in scene.items:
        row, column = (per_cell * place for place in divmod(item.cell, 3))
        values = (1 + OBJECTS.index(item.object), 1 + list(COLORS).index(item.color))
        targets[row : row + per_cell, column : column + per_cell] = values
    return targets.reshape(-1, 2)


def contrastive_loss(clip: CLIPModel, images: Tensor, texts: Tensor) -> Tensor:
    """CLIP's symmetric mean loss, features (batch, 64); pairs with equal captions are no negatives of each other.

    `texts` are token ids (batch, words), `images` the tower's pooled features.
    """
    words = clip.text_model(input_ids=texts).pooler_output
    u = F.normalize(clip.visual_projection(images), dim=-1)
    v = F.normalize(clip.text_projection(words), dim=-1)
    logits = (u @ v.T).float() * clip.logit_scale.exp().clamp(max=100)
    same = (texts[:, None] == texts[None, :]).all(-1) & ~torch.eye(len(texts), dtype=torch.bool)
    logits = logits.masked_fill(same, -1e4)
    target = torch.arange(len(texts))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def tower_phase(clip: CLIPModel, heads: PatchHeads, phase: Phase, seed: int, run: _Run) -> None:
    """Train CLIP, with the patch loss on the features that LLaVA takes (layer −2, without the class token)."""
    scenes = draw_scenes(phase, SCENES_FROM["tower"])
    tokenizer = build_tokenizer(close=True)
    captions = [caption(scene) for scene in scenes]
    texts = tokenizer(captions, padding=True, return_tensors="pt")
    images = drawings(scenes)
    targets = torch.from_numpy(np.stack([patch_targets(scene) for scene in scenes]))
    rng = np.random.default_rng([seed, 10])
    optimizer, schedule = _optimizer([*clip.parameters(), *heads.parameters()], phase)
    clip.train()
    for step in range(1, phase.steps + 1):
        rows = rng.integers(len(scenes), size=phase.rows)
        seen = clip.vision_model(pixel_values=scaled(images[rows]), output_hidden_states=True)
        contrast = contrastive_loss(clip, seen.pooler_output, texts["input_ids"][rows])
        loss = contrast + heads(seen.hidden_states[-2][:, 1:], targets[rows])
        _update(loss, optimizer, schedule)
        run.note("tower", step, phase.steps, loss=loss.detach(), contrastive=contrast.detach())
    clip.eval()


def copy_tower(clip: CLIPModel, llava: LlavaForConditionalGeneration) -> None:
    """Give LLaVA the tower of CLIP, frozen from then on."""
    state = clip.vision_model.state_dict()
    tower = llava.model.vision_tower
    if hasattr(tower, "vision_model"):  # transformers 4
        state = {f"vision_model.{name}": value for name, value in state.items()}
    tower.load_state_dict(state)
    tower.requires_grad_(False)


@torch.no_grad()
def tower_features(llava: LlavaForConditionalGeneration, scenes: list[Scene]) -> Tensor:
    """(scenes, 36, width) float16: what the projector will be given."""
    parts = []
    for start in range(0, len(scenes), 256):
        hidden = llava.model.vision_tower(pixels(scenes[start : start + 256]), output_hidden_states=True).hidden_states
        parts.append(hidden[llava.config.vision_feature_layer][:, 1:].half())
    return torch.cat(parts)


def language_phase(llava: LlavaForConditionalGeneration, phase: Phase, name: str, seed: int, run: _Run) -> None:
    """Train projector and language model on the frozen tower's features of the phase's scenes."""
    scenes = draw_scenes(phase, SCENES_FROM[name])
    rng = np.random.default_rng([seed, 30])
    features = tower_features(llava, [drawn_part(scene, phase.diet.unseen, rng) for scene in scenes])
    tokenizer = build_tokenizer()
    packer = Packer(tokenizer, features.shape[1])
    image_id = tokenizer.vocab[IMAGE]
    yes_no = torch.tensor([tokenizer.vocab["yes"], tokenizer.vocab["no"]])
    rng = np.random.default_rng([seed, 20])
    learning = [*llava.model.multi_modal_projector.parameters(), *llava.model.language_model.parameters()]
    optimizer, schedule = _optimizer([*learning, *llava.lm_head.parameters()], phase)
    llava.train()
    for step in range(1, phase.steps + 1):
        rows = rng.integers(len(scenes), size=phase.rows)
        batch = packer.pack([scenes[row] for row in rows], phase.diet, rng)
        words = llava.get_input_embeddings()(batch.ids)
        patches = llava.model.multi_modal_projector(features[rows][batch.seen].float())
        place = (batch.ids == image_id)[..., None].expand_as(words)
        words = words.masked_scatter(place, patches.to(words.dtype))
        hidden = llava.model.language_model(
            inputs_embeds=words, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
        ).last_hidden_state
        wanted = batch.weights > 0
        logits = llava.lm_head(hidden[wanted])
        labels = batch.labels[wanted]
        losses = F.cross_entropy(logits, labels, reduction="none")
        loss = (losses * batch.weights[wanted]).sum() / batch.weights.sum()
        _update(loss, optimizer, schedule)
        binary = torch.isin(labels, yes_no)
        right = (logits.detach().argmax(-1) == labels)[binary].float().mean()
        run.note(name, step, phase.steps, loss=loss.detach(), yes_no_accuracy=right)
    llava.eval()


def _optimizer(parameters: list[nn.Parameter], phase: Phase) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.AdamW(parameters, lr=phase.rate, weight_decay=0.01, betas=(0.9, 0.98))
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, phase.rate, total_steps=phase.steps, pct_start=0.1)
    return optimizer, cycle


def _update(loss: Tensor, optimizer: torch.optim.Optimizer, schedule: Any) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    schedule.step()
