"""LLaVA-Bench: how many points a judge gives a model, in per cent of those it gives the reference answers.

    figure = 100 · mean(points of the model) / mean(points of the reference)

over all reviews and over those of each category. Source: LLaVA's eval_gpt_review_bench.py, which reads the points, and
summarize_gpt_review.py, which means them (arXiv:2304.08485). That script prints a quotient of means rounded to three
digits, rounded to one: `printed`.

How points are read, by the name that the signature carries:
    | review begins with | official   | tolerant |
    | "8 7" or "8,7"     | 8, 7       | 8, 7     |
    | "8, 7" or "8 7 "   | unreadable | 8, 7     |
    | "Both are good."   | unreadable | unreadable |
What is unreadable counts as −1 for both under `official`, as it does there, and is left out under `tolerant`.

Knows: texts, numbers. Does not know: who judged, HTTP, files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vdd._check import UserError, choice
from vdd.records import Question, Score
from vdd.scoring.score import Array, interval, resample, signature
from vdd.sets.llava_bench import CATEGORIES, Review

Pair = tuple[float, float]

UNREADABLE: Pair = (-1.0, -1.0)
"""What LLaVA's script writes for a review in which it finds no points."""

GROUPS = ("all", *CATEGORIES)
"""What there is a figure of."""


def official(content: str) -> Pair:
    """The points of the reference and of the model by LLaVA's rule, or UNREADABLE.

    The first line, commas made spaces, split at each single space, must be two numbers. NaN and infinity, which that
    rule takes, are none here.

    >>> official("8 7\\nBoth …"), official("8,7"), official("8, 7"), official("8 7 ")
    ((8.0, 7.0), (8.0, 7.0), (-1.0, -1.0), (-1.0, -1.0))
    """
    return _pair(content.split("\n", maxsplit=1)[0].replace(",", " ").split(" "))


def tolerant(content: str) -> Pair:
    """The points on the first line that is not blank, with any commas and spaces around them, or UNREADABLE.

    >>> tolerant("\\n8, 7 "), tolerant("Assistant 1: 8")
    ((8.0, 7.0), (-1.0, -1.0))
    """
    return _pair(content.strip().split("\n", maxsplit=1)[0].replace(",", " ").split())


PARSERS: Mapping[str, Callable[[str], Pair]] = {"official": official, "tolerant": tolerant}
"""The rules by the name that a score's signature carries."""


def points(reviews: Sequence[Review | None], *, parser: str = "official") -> list[Pair | None]:
    """The points of each review; None where there is none, UNREADABLE where it has none.

    Args:
        reviews: as `load_reviews` gives them.
        parser: of PARSERS. "official" takes the points that the file has, as summarize_gpt_review.py does, and reads
            the judge's words only where it has none; "tolerant" reads the words wherever there are any.

    Raises:
        UserError: on an unknown parser.
    """
    read = PARSERS[choice("points", "parser", parser, PARSERS)]

    def of(one: Review) -> Pair:
        if one.pair is not None and (parser == "official" or one.content is None):
            return one.pair
        return read(one.content or "")

    return [None if one is None else of(one) for one in reviews]


def sums(categories: Sequence[str], pairs: Sequence[Pair], *, parser: str = "official") -> NDArray[np.float64]:
    """What each review adds to each group: the rows that every figure and its bootstrap come from.

    Args:
        categories: (n,) of CATEGORIES.
        pairs: (n,) points.
        parser: of PARSERS; says whether unreadable reviews count.

    Returns:
        (n, 4, 4): group by GROUPS; points of the reference, points of the model, 1, and 1 if it was readable.

    Raises:
        UserError: on unequal lengths, another category or an unknown parser.
    """
    choice("sums", "parser", parser, PARSERS)
    if len(categories) != len(pairs):
        raise UserError(f"sums: {len(pairs)} pairs for {len(categories)} categories; wanted one for each.")
    group = [GROUPS.index(choice("sums", "category", category, CATEGORIES)) for category in categories]
    values = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    readable = ~(values == UNREADABLE).all(axis=1)
    row = np.column_stack([values, np.ones(len(values)), readable])
    if parser == "tolerant":
        row[~readable] = 0.0
    table = np.zeros((len(values), len(GROUPS), 4))
    table[:, 0] = row
    table[np.arange(len(values)), group] = row
    return table


def figures(totals: ArrayLike) -> dict[str, Array]:
    """The figures of a table of sums, or of many at once.

    Args:
        totals: (…, 4, 4), sums of `sums`.

    Returns:
        (…) for each of GROUPS, in per cent: 100 · the model's points / the reference's. NaN where no review was
        readable, or the reference has no points above 0.
    """
    table = np.asarray(totals, dtype=np.float64)
    reference, model, readable = table[..., 0], table[..., 1], table[..., 3]
    known = (readable > 0) & (reference > 0)
    ratio = np.divide(model, reference, out=np.full(reference.shape, np.nan), where=known) * 100
    return {name: ratio[..., number] for number, name in enumerate(GROUPS)}


def printed(reference: float, model: float) -> float:
    """What summarize_gpt_review.py prints for these means of points; NaN where the reference's is not above 0.

    >>> printed(8.53333, 6.26666)
    73.4
    """
    if not round(reference, 3) > 0:
        return math.nan
    return round(round(model, 3) / round(reference, 3) * 100, 1)


def score_llava_bench(
    questions: Sequence[Question],
    categories: Sequence[str],
    reviews: Sequence[Review | None],
    *,
    parser: str = "official",
    name_parts: Sequence[str] = ("llava-bench",),
    decoding: str = "",
    rng: np.random.Generator | None = None,
    samples: int = 2000,
) -> Score:
    """Score a judge's reviews.

    Args:
        questions: at least one.
        categories: theirs, of CATEGORIES, in the same order.
        reviews: in the same order, None where there is none (yet).
        parser: how points are read and whether unreadable reviews count, of PARSERS.
        name_parts: what opens the signature: who judged, what it was shown.
        decoding: how the answers came about, as `Leg.signature()` says it; "" where that is unknown.
        rng: with it, 95 % bootstrap intervals clustered by image, for every figure; there are none for a single image.
            Resamples in which a category does not occur are left out of its interval.
        samples: resamples of these, ≥ 1.

    Returns:
        Values: for each of GROUPS its figure in per cent, the mean points of the reference (`all_reference`) and of the
        model (`all_model`); n, missing (no review) and unreadable.

    Raises:
        UserError: without questions, on unequal lengths, an unknown parser or category.
    """
    if not questions or not len(questions) == len(categories) == len(reviews):
        raise UserError(
            f"score_llava_bench: {len(reviews)} reviews, {len(categories)} categories for {len(questions)} questions; "
            "wanted one of each for each, and one question at least."
        )
    pairs = points(reviews, parser=parser)
    there = [number for number, pair in enumerate(pairs) if pair is not None]
    rows = sums([categories[n] for n in there], [pair for pair in pairs if pair is not None], parser=parser)
    totals = rows.sum(axis=0)
    values: dict[str, float] = {}
    for (name, figure), total in zip(figures(totals).items(), totals, strict=True):
        values[name] = float(figure)
        readable = bool(total[3])
        values[f"{name}_reference"] = float(total[0] / total[2]) if readable else math.nan
        values[f"{name}_model"] = float(total[1] / total[2]) if readable else math.nan
    values["n"] = len(questions)
    values["missing"] = len(questions) - len(there)
    values["unreadable"] = sum(pair == UNREADABLE for pair in pairs)
    images = [questions[n].image for n in there]
    intervals: Mapping[str, tuple[float, float]] = {}
    if rng is not None and len(set(images)) > 1:
        drawn, _ = resample(rows, images, rng=rng, samples=samples)
        known = {name: found[np.isfinite(found)] for name, found in figures(drawn).items()}
        intervals = {name: interval(found) for name, found in known.items() if len(found)}
    return Score(values, signature(name_parts, questions, parser=parser, decoding=decoding), intervals)


def _pair(words: Sequence[str]) -> Pair:
    if len(words) != 2:
        return UNREADABLE
    try:
        first, second = float(words[0]), float(words[1])
    except ValueError:
        return UNREADABLE
    return (first, second) if math.isfinite(first) and math.isfinite(second) else UNREADABLE
