"""A world of twelve drawings whose colours and company are mostly what one expects.

    P(scene) = P(theme) · Π P(object | theme) · P(color | object) · 1/9 per cell,   1 to 3 objects on a 3×3 grid;
    an object comes from the scene's theme with probability 0.9 and wears its typical colour with probability 0.8.

Source: this project's own design; the prior stands for what text pre-training gives a language model (a fox is brown,
a frog lives near trees). Question negatives follow POPE (arXiv:2305.10355): random, popular, adversarial.
Knows: NumPy, Pillow. Does not know: torch, models, question formats, files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

Prior = Literal["typical", "counterfactual"]
Split = Literal["train", "dev", "test", "counterfactual"]
Negatives = Literal["random", "popular", "adversarial"]

#: Themes with their objects, most frequent first. The order and the weights make some objects "popular".
THEMES: dict[str, tuple[str, ...]] = {
    "kitchen": ("apple", "banana", "carrot", "eggplant"),
    "forest": ("tree", "fox", "frog", "mushroom"),
    "street": ("bus", "hydrant", "mailbox", "tire"),
}
THEME_WEIGHTS: dict[str, float] = {"kitchen": 0.38, "forest": 0.35, "street": 0.27}
RANK_WEIGHTS: tuple[float, ...] = (0.38, 0.28, 0.20, 0.14)
#: What everybody would say with no image at all.
TYPICAL_COLOR: dict[str, str] = {
    "apple": "red", "banana": "yellow", "carrot": "orange", "eggplant": "purple",
    "tree": "green", "fox": "brown", "frog": "green", "mushroom": "red",
    "bus": "yellow", "hydrant": "red", "mailbox": "blue", "tire": "black",
}  # fmt: skip
OBJECTS: tuple[str, ...] = tuple(TYPICAL_COLOR)
THEME_OF: dict[str, str] = {name: theme for theme, names in THEMES.items() for name in names}
#: RGB, 0 to 255.
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 35), "orange": (250, 140, 20), "yellow": (245, 215, 40), "green": (50, 155, 60),
    "blue": (45, 95, 215), "purple": (135, 55, 165), "brown": (135, 80, 35), "black": (35, 35, 40),
}  # fmt: skip
#: Cells in reading order.
POSITIONS: tuple[str, ...] = (
    "at the top left", "at the top", "at the top right",
    "on the left", "in the center", "on the right",
    "at the bottom left", "at the bottom", "at the bottom right",
)  # fmt: skip
#: Disjoint ranges: a scene of one split can never be drawn with a seed of another.
SEEDS: dict[str, range] = {
    "train": range(10_000_000),
    "dev": range(10_000_000, 11_000_000),
    "test": range(11_000_000, 12_000_000),
    "counterfactual": range(12_000_000, 13_000_000),
}
IMAGE_SIZE = 96  # pixels per side
CELL = IMAGE_SIZE // 3
BACKGROUND = (246, 246, 244)
SUPERSAMPLE = 4  # silhouettes are drawn this many times larger, then reduced: smooth edges


@dataclass(frozen=True)
class Item:
    """One drawing: an object of `OBJECTS`, a colour of `COLORS`, a cell 0 to 8 in reading order."""

    object: str
    color: str
    cell: int

    @property
    def typical(self) -> bool:
        """Whether the colour is the one that everybody expects."""
        return TYPICAL_COLOR[self.object] == self.color


@dataclass(frozen=True)
class Scene:
    """One to three items in reading order, all different objects; `seed` settles sizes, shades and small shifts."""

    items: tuple[Item, ...]
    theme: str
    seed: int = 0

    @property
    def objects(self) -> tuple[str, ...]:
        """The objects in reading order."""
        return tuple(item.object for item in self.items)


def sample_scene(
    rng: np.random.Generator,
    *,
    prior: Prior = "typical",
    count: int | None = None,
    company: float = 0.9,
    typical: float = 0.8,
) -> Scene:
    """Draw a scene.

    Args:
        rng: the only source of randomness; advanced.
        prior: "typical" follows the world's prior; "counterfactual" breaks it: one object per theme, never in its
            typical colour.
        count: number of objects, 1 to 3; None draws it uniformly.
        company: probability that an object comes from the scene's theme; "typical" only.
        typical: probability that an object wears its typical colour; "typical" only.

    Raises:
        ValueError: on an unknown prior, or a count outside 1 to 3.
    """
    if prior not in ("typical", "counterfactual"):
        raise ValueError(f'sample_scene: prior is {prior!r}; it must be "typical" or "counterfactual".')
    if count is not None and not 1 <= count <= len(THEMES):
        raise ValueError(f"sample_scene: count is {count}; a scene holds 1 to {len(THEMES)} objects.")
    themes = list(THEMES)
    theme = themes[_draw(rng, [THEME_WEIGHTS[name] for name in themes])]
    size = int(rng.integers(1, 4)) if count is None else count
    names: list[str] = []
    foreign = [themes[i] for i in rng.permutation(len(themes))]
    for place in range(size):
        if prior == "counterfactual":
            source = foreign[place]
        elif rng.random() < company:
            source = theme
        else:
            others = [name for name in themes if name != theme]
            source = others[_draw(rng, [THEME_WEIGHTS[name] for name in others])]
        weights = [0.0 if name in names else RANK_WEIGHTS[i] for i, name in enumerate(THEMES[source])]
        names.append(THEMES[source][_draw(rng, weights)])
    cells = sorted(int(cell) for cell in rng.choice(9, size=size, replace=False))
    items = []
    for name, cell in zip((names[i] for i in rng.permutation(size)), cells, strict=True):
        usual = TYPICAL_COLOR[name]
        if prior == "typical" and rng.random() < typical:
            color = usual
        else:
            color = [c for c in COLORS if c != usual][int(rng.integers(len(COLORS) - 1))]
        items.append(Item(name, color, cell))
    return Scene(tuple(items), theme, int(rng.integers(2**31)))


def _draw(rng: np.random.Generator, weights: Sequence[float]) -> int:
    """An index drawn with these relative weights."""
    total = np.cumsum(weights)
    return int(np.searchsorted(total, rng.random() * total[-1], side="right"))


def scene_at(split: Split, index: int) -> Scene:
    """Scene number `index` of a split: the same one on every machine. "counterfactual" scenes break the prior.

    Raises:
        ValueError: on an unknown split, or an index outside its seeds.
    """
    if split not in SEEDS:
        raise ValueError(f"scene_at: split is {split!r}; it must be one of {', '.join(SEEDS)}.")
    seeds = SEEDS[split]
    if not 0 <= index < len(seeds):
        raise ValueError(f"scene_at: index {index} is outside 0 to {len(seeds) - 1} of split {split!r}.")
    prior: Prior = "counterfactual" if split == "counterfactual" else "typical"
    return sample_scene(np.random.default_rng(seeds[index]), prior=prior)


def article(word: str) -> str:
    """`a` or `an`, as the word that follows asks."""
    return "an" if word[0] in "aeiou" else "a"


def sentences(scene: Scene) -> list[str]:
    """One sentence per item in reading order, e.g. "there is a brown fox at the top left."."""
    return [f"there is {article(i.color)} {i.color} {i.object} {POSITIONS[i.cell]}." for i in scene.items]


def caption(scene: Scene) -> str:
    """The true description: the sentences of the scene, in reading order."""
    return " ".join(sentences(scene))


@lru_cache(maxsize=1)
def statistics(scenes: int = 4000) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """How often each object, and each ordered pair, occurs in the first training scenes (POPE counts its images so)."""
    single = dict.fromkeys(OBJECTS, 0)
    pairs = {(a, b): 0 for a in OBJECTS for b in OBJECTS if a != b}
    for index in range(scenes):
        names = scene_at("train", index).objects
        for a in names:
            single[a] += 1
            for b in names:
                if a != b:
                    pairs[a, b] += 1
    return single, pairs


def negatives(scene: Scene, kind: Negatives, count: int, rng: np.random.Generator) -> list[str]:
    """`count` different absent objects to ask about.

    Args:
        scene: what is in the image.
        kind: "random" draws any; "popular" takes the most frequent objects; "adversarial" those seen most often
            together with the scene's own objects. Ties fall by `OBJECTS` order.
        count: how many, 0 to 12 − present.
        rng: used by "random" alone.

    Raises:
        ValueError: on an unknown kind or when fewer objects are absent.
    """
    absent = [name for name in OBJECTS if name not in scene.objects]
    if not 0 <= count <= len(absent):
        raise ValueError(f"negatives: {count} asked for but {len(absent)} objects are absent.")
    if kind == "random":
        return [absent[i] for i in rng.permutation(len(absent))[:count]]
    single, pairs = statistics()
    if kind == "popular":
        return sorted(absent, key=lambda name: -single[name])[:count]
    if kind == "adversarial":
        return sorted(absent, key=lambda name: -sum(pairs[name, seen] for seen in scene.objects))[:count]
    raise ValueError(f'negatives: kind is {kind!r}; it must be "random", "popular" or "adversarial".')


def render(scene: Scene) -> Image.Image:
    """Draw a scene: RGB, 96×96, the same pixels for equal scenes. Sizes, shades and shifts follow `scene.seed`."""
    rng = np.random.default_rng(scene.seed)
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), BACKGROUND)
    for item in scene.items:
        size = int(rng.integers(26, 31))
        left, top = (int(v) for v in rng.integers(0, CELL - size + 1, size=2))
        shade = rng.integers(-14, 15, size=3)
        red, green, blue = (int(v) for v in np.clip(np.add(COLORS[item.color], shade), 0, 255))
        row, column = divmod(item.cell, 3)
        corner = (column * CELL + left, row * CELL + top)
        image.paste((red, green, blue), corner, silhouette(item.object, size))
    return image


@cache
def silhouette(name: str, size: int) -> Image.Image:
    """The object's shape as a mask, mode "L", size×size pixels: 255 inside, 0 outside and in eyes and windows."""
    large = Image.new("L", (size * SUPERSAMPLE, size * SUPERSAMPLE), 0)
    draw = ImageDraw.Draw(large)
    scale = size * SUPERSAMPLE / 100  # shapes are given on a 100×100 board
    for kind, fill, points in SHAPES[name]:
        board = [value * scale for value in points]
        if kind == "polygon":
            draw.polygon(board, fill=fill)
        elif kind == "ellipse":
            draw.ellipse(board, fill=fill)
        else:
            draw.rectangle(board, fill=fill)
    return large.resize((size, size), Image.Resampling.BOX)


Shape = tuple[Literal["polygon", "ellipse", "rectangle"], int, tuple[float, ...]]
#: Each object as filled (255) and cut-out (0) pieces, painted in order on a 100×100 board.
SHAPES: dict[str, tuple[Shape, ...]] = {
    "apple": (
        ("ellipse", 255, (6, 26, 60, 96)), ("ellipse", 255, (40, 26, 94, 96)), ("rectangle", 255, (46, 8, 53, 36)),
        ("ellipse", 255, (53, 2, 84, 20)), ("polygon", 0, (38, 24, 46, 24, 46, 36)),
        ("polygon", 0, (62, 24, 53, 24, 53, 36)),
    ),
    "banana": (("ellipse", 255, (2, -44, 98, 90)), ("ellipse", 0, (2, -66, 98, 52)), ("rectangle", 0, (0, 0, 100, 8))),
    "carrot": (
        ("polygon", 255, (2, 98, 40, 28, 72, 60)), ("ellipse", 255, (38, 26, 74, 62)),
        ("polygon", 255, (56, 44, 58, 2, 70, 2, 66, 40)), ("polygon", 255, (56, 44, 98, 30, 98, 42, 60, 50)),
        ("polygon", 255, (56, 44, 86, 6, 94, 14, 62, 48)),
    ),
    "eggplant": (
        ("ellipse", 255, (18, 44, 82, 100)), ("ellipse", 255, (32, 18, 68, 74)),
        ("polygon", 255, (20, 30, 80, 30, 50, 12)), ("rectangle", 255, (45, 0, 55, 20)),
        ("polygon", 0, (20, 31, 80, 31, 68, 38, 32, 38)),
    ),
    "tree": (
        ("polygon", 255, (50, 0, 78, 30, 22, 30)), ("polygon", 255, (50, 18, 88, 56, 12, 56)),
        ("polygon", 255, (50, 40, 98, 82, 2, 82)), ("rectangle", 255, (41, 82, 59, 100)),
    ),
    "fox": (
        ("polygon", 255, (4, 0, 36, 28, 64, 28, 96, 0, 98, 56, 50, 100, 2, 56)),
        ("ellipse", 0, (24, 44, 38, 58)), ("ellipse", 0, (62, 44, 76, 58)), ("ellipse", 0, (43, 80, 57, 92)),
    ),
    "frog": (
        ("ellipse", 255, (2, 34, 98, 98)), ("ellipse", 255, (8, 8, 46, 56)), ("ellipse", 255, (54, 8, 92, 56)),
        ("ellipse", 0, (18, 20, 36, 40)), ("ellipse", 0, (64, 20, 82, 40)), ("rectangle", 0, (24, 72, 76, 78)),
    ),
    "mushroom": (
        ("ellipse", 255, (2, 4, 98, 104)), ("rectangle", 0, (0, 56, 100, 100)),
        ("polygon", 255, (38, 52, 62, 52, 70, 100, 30, 100)),
        ("ellipse", 0, (24, 26, 40, 42)), ("ellipse", 0, (58, 20, 76, 38)),
    ),
    "bus": (
        ("rectangle", 255, (0, 18, 100, 80)), ("rectangle", 0, (8, 28, 28, 48)), ("rectangle", 0, (36, 28, 56, 48)),
        ("rectangle", 0, (64, 28, 92, 48)), ("ellipse", 255, (12, 66, 38, 94)), ("ellipse", 255, (62, 66, 88, 94)),
        ("ellipse", 0, (20, 74, 30, 86)), ("ellipse", 0, (70, 74, 80, 86)),
    ),
    "hydrant": (
        ("rectangle", 255, (32, 22, 68, 90)), ("ellipse", 255, (30, 4, 70, 44)), ("rectangle", 255, (12, 44, 88, 62)),
        ("rectangle", 255, (20, 86, 80, 100)), ("ellipse", 0, (43, 46, 57, 60)), ("rectangle", 0, (28, 26, 72, 30)),
    ),
    "mailbox": (
        ("ellipse", 255, (0, 8, 36, 60)), ("rectangle", 255, (18, 8, 84, 60)), ("rectangle", 255, (0, 34, 36, 60)),
        ("rectangle", 255, (40, 60, 56, 100)), ("rectangle", 0, (10, 30, 30, 36)),
        ("rectangle", 255, (88, 2, 93, 50)), ("rectangle", 255, (88, 2, 100, 16)),
    ),
    "tire": (("ellipse", 255, (2, 2, 98, 98)), ("ellipse", 0, (28, 28, 72, 72)), ("ellipse", 255, (42, 42, 58, 58))),
}  # fmt: skip
