"""AMBER: what a description invents, leaves out and imagines as people do, and how yes/no questions are answered.

    CHAIR = hallucinated mentions / mentions       Cover = present objects that were mentioned / present objects
    Hal   = responses with a hallucination / n     Cog   = imagined objects that were mentioned / imagined objects
    questions: accuracy, and precision, recall and F1 on "no"            AMBER = ½·(1 − CHAIR + F1)

Source: AMBER's inference.py (arXiv:2311.07397), which adds counts over all responses, where the paper means over them.
Everything is a fraction here. A mention is a noun among the benchmark's own words; it is hallucinated if it is neither
a safe word, nor a present object or associated with one, nor similar to one of these. How nouns are found and what is
similar are named strategies of `vdd.scoring.nouns`; the script's own, "nltk" and "spacy", need libraries and models.

Knows: items, words. Does not know: files, images, how responses were generated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vdd._check import UserError, choice
from vdd.records import Question, Score
from vdd.scoring.nouns import NOUNS, SIMILAR, Nouns, Similar
from vdd.scoring.score import Array, interval, resample, signature
from vdd.scoring.words import PARSERS, is_unparsed
from vdd.sets.amber import Item

Association = Mapping[str, tuple[str, ...]]

TYPES: Mapping[str, tuple[str, ...]] = {
    "": ("existence", "state", "number", "action", "relation"),
    "existence_": ("existence",),
    "attribute_": ("state", "number", "action"),
    "state_": ("state",),
    "number_": ("number",),
    "action_": ("action",),
    "relation_": ("relation",),
}
"""What stands before a figure's name → the kinds of questions that it is of."""

COUNTS = ("responses", "with_hallucination", "mentions", "hallucinated", "present", "covered", "imagined", "met")
"""What is counted for each description: the columns of `outcomes`."""


def outcomes(
    items: Iterable[Item],
    texts: Iterable[str],
    *,
    association: Association,
    safe_words: frozenset[str],
    nouns: Nouns,
    similar: Similar,
) -> NDArray[np.int64]:
    """The counts of descriptions that the figures and their bootstrap come from.

    A word met twice among an item's objects and their associated words stands for the first: associated words come
    before objects, in the annotation's order.

    Args:
        items: generative ones.
        texts: a description for each.
        association: word → words that may stand for it; a word that is not in it has none.
        safe_words: never hallucinated, and in no cover.
        nouns: text → its mentions.
        similar: whether two words are.

    Returns:
        (n, 8): COUNTS for each description.
    """
    rows = [
        _counts(item, nouns(text), association, safe_words, similar) for item, text in zip(items, texts, strict=True)
    ]
    return np.array(rows, dtype=np.int64).reshape(-1, len(COUNTS))


def _counts(
    item: Item, mentions: list[str], association: Association, safe_words: frozenset[str], similar: Similar
) -> tuple[int, ...]:
    present, imagined = _stand_ins(item.present, association), _stand_ins(item.imagined, association)
    covered: set[int] = set()
    met: set[int] = set()
    hallucinated = 0
    for word in mentions:
        if word in safe_words:
            continue
        if word in present:
            covered.add(present[word])
            continue
        if word in imagined:
            met.add(imagined[word])
        met.update(_first(word, imagined, similar))
        like = _first(word, present, similar)
        covered.update(like)
        hallucinated += not like
    wrong = int(hallucinated > 0)
    shares = (len(item.present), len(covered), len(item.imagined), len(met))
    return (1, wrong, len(mentions), hallucinated, *shares)


def _stand_ins(objects: tuple[str, ...], association: Association) -> dict[str, int]:
    """Word → the object it stands for, by its place; the first one where there are several."""
    places: dict[str, int] = {}
    for place, name in enumerate(objects):
        for word in association.get(name, ()):
            places.setdefault(word, place)
    for place, name in enumerate(objects):
        places.setdefault(name, place)
    return places


def _first(word: str, places: Mapping[str, int], similar: Similar) -> list[int]:
    """The place of the first word that is similar to `word`, alone in a list, or none."""
    return next(([place] for other, place in places.items() if similar(word, other)), [])


def generative_figures(counts: ArrayLike) -> dict[str, Array]:
    """chair, cover, hal and cog, (…) each in [0, 1], of sums (…, 8) of `outcomes`; 0 where nothing was counted."""
    responses, wrong, mentions, hallucinated, present, covered, imagined, met = np.moveaxis(
        np.asarray(counts, float), -1, 0
    )
    return {
        "chair": _ratio(hallucinated, mentions),
        "cover": _ratio(covered, present),
        "hal": _ratio(wrong, responses),
        "cog": _ratio(met, imagined),
    }


def question_figures(labels: ArrayLike, said: ArrayLike) -> dict[str, float]:
    """Accuracy, and precision, recall and F1 with "no" as the positive class; 0 where a denominator is 0.

    Args:
        labels, said: (n,) "yes" or "no"; `said` may hold other strings, which are wrong.
    """
    truth, answer = np.asarray(labels, dtype=str), np.asarray(said, dtype=str)
    right, no, said_no = truth == answer, truth == "no", answer == "no"
    precision, recall = _ratio((no & said_no).sum(), said_no.sum()), _ratio((no & said_no).sum(), no.sum())
    return {
        "accuracy": float(_ratio(right.sum(), right.size)),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(_ratio(2 * precision * recall, precision + recall)),
    }


def score_amber(
    items: Mapping[int, Item],
    responses: Mapping[int, str],
    *,
    association: Association | None = None,
    safe_words: frozenset[str] = frozenset(),
    nouns: str = "vocabulary",
    similar: str = "exact",
    parser: str = "exact",
    name_parts: tuple[str, ...] = ("amber",),
    decoding: str = "",
    rng: np.random.Generator | None = None,
    samples: int = 2000,
) -> Score:
    """Score responses to AMBER's items, all of them or those of some kinds.

    Args:
        items: by id.
        responses: by id, at least one.
        association: of `relation.json`; its words and theirs are what can be a mention. None: no word stands for
            another, and mentions are what some item's image holds or could be imagined to.
        safe_words: of `safe_words.txt`.
        nouns, similar: of NOUNS and SIMILAR; the script's own are "nltk" and "spacy".
        parser: how answers are read, of PARSERS; the script knows only "Yes" and "No", which is "exact".
        name_parts: what opens the signature.
        decoding: how the responses came about; "" where that is unknown.
        rng: with it, 95 % bootstrap intervals of the generative figures, over images; there are none for a single one.
        samples: resamples of these, ≥ 1.

    Returns:
        Values: chair, cover, hal, cog where there are descriptions; accuracy, precision, recall, f1, and the same of
        each of TYPES that occurs, where there are questions; amber where there are both; n_generative,
        n_discriminative, and unparsed (answers on which the parser had nothing to go by).

    Raises:
        UserError: without responses, on one to an unknown id, an unknown strategy, or one whose library is missing.
    """
    finder, likeness = choice("score_amber", "nouns", nouns, NOUNS), choice("score_amber", "similar", similar, SIMILAR)
    read = PARSERS[choice("score_amber", "parser", parser, PARSERS)]
    unknown = [item_id for item_id in responses if item_id not in items]
    if unknown or not responses:
        told = f"{len(unknown)} responses to unknown items ({unknown[0]}, …)" if unknown else "no responses"
        raise UserError(f"score_amber: {told}; wanted responses to the annotations' items.")
    chosen = [(items[item_id], text) for item_id, text in responses.items()]
    described = [(item, text) for item, text in chosen if item.kind == "generative"]
    asked = [(item, text) for item, text in chosen if item.kind != "generative"]
    values: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    if described:
        known = _known(items, association)
        rows = outcomes(
            [item for item, _ in described],
            [text for _, text in described],
            association=association or {},
            safe_words=safe_words,
            nouns=NOUNS[finder](known),
            similar=SIMILAR[likeness](),
        )
        values |= {name: float(value) for name, value in generative_figures(rows.sum(axis=0)).items()}
        if rng is not None and len(described) > 1:
            totals, _ = resample(rows, [item.item_id for item, _ in described], rng=rng, samples=samples)
            intervals = {name: interval(drawn) for name, drawn in generative_figures(totals).items()}
    for prefix, kinds in TYPES.items():
        some = [(str(item.label), read(text, str(item.label))) for item, text in asked if item.kind in kinds]
        if some:
            labels, said = zip(*some, strict=True)
            values |= {f"{prefix}{name}": value for name, value in question_figures(labels, said).items()}
    if described and asked:
        values["amber"] = (1 - values["chair"] + values["f1"]) / 2
    values |= {"n_generative": len(described), "n_discriminative": len(asked)}
    values["unparsed"] = sum(is_unparsed(text, parser=parser) for _, text in asked)
    names = (*name_parts, *((f"nouns:{nouns}", f"similar:{similar}") if described else ()))
    return Score(
        values,
        signature(names, [_question(item) for item, _ in chosen], parser=parser if asked else "", decoding=decoding),
        intervals,
    )


def _known(items: Mapping[int, Item], association: Association | None) -> set[str]:
    if association is None:
        return {word for item in items.values() for word in (*item.present, *item.imagined)}
    return set(association).union(*association.values())


def _question(item: Item) -> Question:
    truth = item.label or f"{', '.join(item.present)} / {', '.join(item.imagined)}"
    return Question(item.item_id, "", item.kind, truth)


def _ratio(above: ArrayLike, below: ArrayLike) -> Array:
    """above / below, 0 where `below` is 0."""
    top, bottom = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    return np.divide(top, bottom, out=np.zeros(top.shape), where=bottom != 0)
