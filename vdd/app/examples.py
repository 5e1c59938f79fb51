"""Scenes of the embedded world with questions: some that break its habits, some that follow them, and their answers.

Knows: scenes. Does not know: models, pages.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from vdd.toy.questions import DESCRIBE
from vdd.toy.scenes import COLORS, Split, render, scene_at

ENLARGED = 3
"""How many times larger than the embedded model's images they are drawn, so that they can be looked at."""


@dataclass(frozen=True)
class Example:
    """A question about a scene.

    Attributes:
        split, index: the scene; of "counterfactual" ones every colour and company is unusual.
        question: what is asked.
        truth: the right answer.
        labels: possible answers; none where yes and no, or free.
    """

    split: Split
    index: int
    question: str
    truth: str
    labels: tuple[str, ...] = ()

    @property
    def image(self) -> Image.Image:
        """The drawing, as the embedded model was shown such."""
        return render(scene_at(self.split, self.index))

    @property
    def caption(self) -> str:
        """Under the picture."""
        return f"{self.question} ({self.truth})" if self.question != DESCRIBE else self.question


COLOR_LABELS = tuple(COLORS)

EXAMPLES = (
    Example("counterfactual", 26, "What color is the fox?", "red", COLOR_LABELS),
    Example("counterfactual", 17, DESCRIBE, "an apple and a fox"),
    Example("counterfactual", 50, "Is there a frog in the image?", "no"),
    Example("counterfactual", 87, "What color is the tire?", "purple", COLOR_LABELS),
    Example("counterfactual", 5, "Is there a tree in the image?", "no"),
    Example("counterfactual", 79, "Is there a tree in the image?", "yes"),
    Example("test", 106, "Is there a fox in the image?", "no"),
    Example("test", 14, "What color is the fox?", "brown", COLOR_LABELS),
)
"""The plain model is wrong on the first five, of which the fifth wants α = 3; the sixth is one that debiasing breaks;
the last two are ordinary scenes: one where company misleads, one where habit is right."""
