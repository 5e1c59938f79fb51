"""CHAIR: how many of the objects that a caption names are not in its image.

    CHAIRs = captions with a hallucinated object / captions      CHAIRi = hallucinated mentions / mentions
    recall = objects of the images that were mentioned / objects of the images

Source: CHAIR's script (arXiv:1809.02156), recall as in the versions in use since. A caption is parted into tokens, its
plurals are undone, pairs of words become one ("hot dog"), "seat" goes where "toilet" stands too, and what is left of
the vocabulary are its mentions, each as often as it comes. A shorter caption names fewer wrong objects, so the mean
length in words stands beside every figure, and `length_matched` cuts two runs to one length before they are compared.

Knows: captions, objects, words. Does not know: how captions were generated, COCO's files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vdd._check import UserError, choice
from vdd.records import Question, Score
from vdd.scoring.nouns import singular, tokens
from vdd.scoring.score import Array, Statistic, interval, resample, signature
from vdd.sets.captions import Caption, Vocabulary

COUNTS = ("captions", "with_hallucination", "mentions", "hallucinated", "objects", "recalled", "words")
"""What is counted for each caption: the columns of `outcomes`."""

_WORD = re.compile(r"\S+")


def mentions(text: str, vocabulary: Vocabulary) -> list[str]:
    """The objects that `text` names, in order, each as often as it does.

    >>> words = Vocabulary({"dog": "dog", "puppy": "dog", "hot dog": "hot dog"}, {"hot dog": "hot dog"})
    >>> mentions("Two puppies and a dog eat hot dogs.", words)
    ['dog', 'dog', 'hot dog']
    """
    single = [singular(word, vocabulary.words) for word in tokens(text)]
    merged: list[str] = []
    at = 0
    while at < len(single):
        pair = vocabulary.double_words.get(" ".join(single[at : at + 2]))
        merged.append(single[at] if pair is None else pair)
        at += 1 if pair is None else 2
    if "toilet" in merged:
        merged = [word for word in merged if word != "seat"]
    return [vocabulary.synonyms[word] for word in merged if word in vocabulary.synonyms]


def word_count(text: str) -> int:
    """The length of `text`: what spaces part."""
    return len(text.split())


def outcomes(
    captions: Sequence[Caption], objects: Mapping[str, frozenset[str]], vocabulary: Vocabulary
) -> NDArray[np.int64]:
    """The counts that every figure and its bootstrap come from.

    Args:
        captions: about images that `objects` knows.
        objects: what is in each image, by id, in the vocabulary's names.
        vocabulary: the words that name them.

    Returns:
        (n, 7): COUNTS for each caption; zeros where there is none.

    Raises:
        UserError: on an image whose objects are unknown, or an object that no word names.
    """
    unknown = [caption.image_id for caption in captions if caption.image_id not in objects]
    if unknown:
        shown = ", ".join(unknown[:5])
        raise UserError(
            f"chair: {len(unknown)} of {len(captions)} images have no objects listed ({shown}); wanted all."
        )
    table = np.zeros((len(captions), len(COUNTS)), dtype=np.int64)
    for row, (image_id, text) in zip(table, captions, strict=True):
        present = objects[image_id]
        if not present <= vocabulary.objects:
            name = min(present - vocabulary.objects)
            raise UserError(
                f"chair: image {image_id} has {name!r}, which no synonym names; do both files belong together?"
            )
        if text is None:
            continue
        named = mentions(text, vocabulary)
        wrong = sum(name not in present for name in named)
        recalled = len(present.intersection(named))
        row[:] = 1, wrong > 0, len(named), wrong, len(present), recalled, word_count(text)
    return table


def _ratio(above: Array, below: Array) -> Array:
    """above / below, 0 where `below` is 0."""
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=np.asarray(below) != 0)


def figures(counts: ArrayLike) -> dict[str, Array]:
    """The figures of counts, or of many at once.

    Args:
        counts: (…, 7), sums of `outcomes`.

    Returns:
        (…) each: chair_s, chair_i and recall in [0, 1]; words, the mean length. 0 where nothing was counted.
    """
    captions, with_hallucination, named, wrong, present, recalled, words = np.moveaxis(np.asarray(counts, float), -1, 0)
    return {
        "chair_s": _ratio(with_hallucination, captions),
        "chair_i": _ratio(wrong, named),
        "recall": _ratio(recalled, present),
        "words": _ratio(words, captions),
    }


FIGURES = tuple(figures(np.zeros(len(COUNTS))))
"""The names of the figures."""


def statistic(name: str) -> Statistic:
    """A figure, for `bootstrap_interval` and `paired_bootstrap` on rows made by `outcomes`.

    Raises:
        UserError: if it is none of FIGURES.
    """
    choice("statistic", "figure", name, FIGURES)
    return lambda totals, n: figures(totals)[name]


def score_chair(
    captions: Sequence[Caption],
    objects: Mapping[str, frozenset[str]],
    vocabulary: Vocabulary,
    *,
    name_parts: Sequence[str] = ("chair",),
    decoding: str = "",
    rng: np.random.Generator | None = None,
    samples: int = 2000,
) -> Score:
    """Score captions.

    Args:
        captions: at least one; without a text they are left out of every figure.
        objects, vocabulary: as for `outcomes`.
        name_parts: what opens the signature.
        decoding: how the captions came about, as `Leg.signature()` says it; "" where that is unknown.
        rng: with it, 95 % bootstrap intervals clustered by image, for every figure; there are none for a single image.
        samples: resamples of these, ≥ 1.

    Returns:
        Values: the FIGURES, then n, mentions, hallucinated and unanswered (captions without a text).

    Raises:
        UserError: without captions, and as `outcomes`.
    """
    if not captions:
        raise UserError("score_chair: no captions; wanted at least one.")
    rows = outcomes(captions, objects, vocabulary)
    counts = dict(zip(COUNTS, rows.sum(axis=0).tolist(), strict=True))
    values: dict[str, float] = {name: float(value) for name, value in figures(rows.sum(axis=0)).items()}
    values |= {"n": len(captions), "mentions": counts["mentions"], "hallucinated": counts["hallucinated"]}
    values["unanswered"] = len(captions) - counts["captions"]
    images = [caption.image_id for caption in captions]
    intervals = {}
    if rng is not None and len(set(images)) > 1:
        totals, _ = resample(rows, images, rng=rng, samples=samples)
        intervals = {name: interval(drawn) for name, drawn in figures(totals).items()}
    asked = [Question(image, image, "", ", ".join(sorted(objects[image]))) for image in images]
    names = (*name_parts, f"synonyms:{_sha(vocabulary)}")
    return Score(values, signature(names, asked, decoding=decoding), intervals)


def length_matched(captions: Sequence[Caption], others: Sequence[Caption]) -> tuple[list[Caption], list[Caption]]:
    """Two runs on the same images with both captions of each image cut to the length of the shorter one.

    Args:
        captions, others: one caption for each image, in any order.

    Returns:
        Both, in the order of `captions`, with as many words in both of each pair; where one has no text, neither has.

    Raises:
        UserError: if the runs are not about the same images, each once.
    """
    by_id = {other.image_id: other.text for other in others}
    ids = {caption.image_id for caption in captions}
    if not len(captions) == len(ids) == len(others) == len(by_id) or ids != set(by_id):
        raise UserError(
            f"length_matched: {len(captions)} and {len(others)} captions, {len(ids & set(by_id))} images in both; "
            "wanted the same images, each once."
        )
    pairs = [_cut_both(text, by_id[image_id]) for image_id, text in captions]
    return (
        [Caption(caption.image_id, pair[0]) for caption, pair in zip(captions, pairs, strict=True)],
        [Caption(caption.image_id, pair[1]) for caption, pair in zip(captions, pairs, strict=True)],
    )


def _cut_both(text: str | None, other: str | None) -> tuple[str | None, str | None]:
    if text is None or other is None:
        return None, None
    length = min(word_count(text), word_count(other))
    return _cut(text, length), _cut(other, length)


def _cut(text: str, length: int) -> str:
    """The first `length` words of `text`, spaced as they were."""
    ends = [word.end() for word in _WORD.finditer(text)][:length]
    return text[: ends[-1]] if ends else ""


def _sha(vocabulary: Vocabulary) -> str:
    tables = json.dumps([dict(vocabulary.synonyms), dict(vocabulary.double_words)], sort_keys=True)
    return hashlib.sha256(tables.encode()).hexdigest()[:8]
