"""MMMU: accuracy over all questions, in each of thirty subjects and in six disciplines.

Parsers: `official` reads a letter out of a multiple-choice answer (`choice_of`); where it finds none, one is drawn by
`random.Random(42)`, one `choice` a question, subjects by name and within a subject in the order given. `letters` takes
the answer for the letter, and for wrong where it is none. Open answers are read by one rule (`is_right_open`).

Source: MMMU (arXiv:2311.16502); `official`: main_parse_and_eval.py; `letters`: main_eval_only.py.

Knows: keys, texts. Does not know: files, images, how answers were generated, tensors.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vdd._check import UserError, choice
from vdd.records import Question, Score
from vdd.scoring.mmmu_words import choice_of, is_right_open, letters
from vdd.scoring.score import Array, Statistic, interval, resample, signature
from vdd.sets.mmmu import KeyItem

DISCIPLINES: Mapping[str, tuple[str, ...]] = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine", "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics", "Energy_and_Power",
        "Materials", "Mechanical_Engineering",
    ),
}  # fmt: skip
SUBJECTS = tuple(sorted(subject for subjects in DISCIPLINES.values() for subject in subjects))
"""By name, which is the order in which the official scripts evaluate them."""

PARSERS = ("official", "letters")

_SEED = 42  # eval_utils.py


class Judged(NamedTuple):
    """Whether an answer is right, and whether its letter could not be read from it."""

    right: bool
    unparsed: bool


def subject_of(question_id: str) -> str:
    """The subject of `validation_Art_Theory_3`.

    Raises:
        UserError: if it names none of SUBJECTS.

    >>> subject_of("validation_Art_Theory_3")
    'Art_Theory'
    """
    subject = "_".join(question_id.split("_")[1:-1])
    if subject not in SUBJECTS:
        raise UserError(f"MMMU: id {question_id!r}; wanted SPLIT_SUBJECT_NUMBER, such as validation_Accounting_1.")
    return subject


def parser_for(key: Sequence[KeyItem]) -> str:
    """The parser of a key: "official" where it has options, "letters" where it has none."""
    return "official" if any(item.options for item in key) else "letters"


def judge(key: Sequence[KeyItem], texts: Sequence[str | None], *, parser: str = "official") -> list[Judged]:
    """Each answer's verdict.

    Args:
        key: with ids that `subject_of` understands; with options for `official`.
        texts: their answers in the same order; None is wrong, and draws nothing.
        parser: of PARSERS.

    Raises:
        UserError: on unequal lengths, an unknown parser or subject, or missing options.
    """
    choice("judge", "parser", parser, PARSERS)
    if len(texts) != len(key):
        raise UserError(f"judge: {len(texts)} texts for {len(key)} questions; wanted one for each.")
    if parser == "official":
        bare = [item.question_id for item in key if not item.is_open and not item.options]
        if bare:
            raise UserError(
                f"judge: {len(bare)} multiple-choice questions without options, {bare[0]} first; parser 'official' "
                "wants them in the key. For answers that are letters already, use parser 'letters'."
            )
    rng = random.Random(_SEED)
    judged = [Judged(right=False, unparsed=False)] * len(key)
    for row in sorted(range(len(key)), key=lambda row: subject_of(key[row].question_id)):
        item, text = key[row], texts[row]
        if text is None:
            continue
        if item.is_open:
            judged[row] = Judged(is_right_open(text, item.answers), unparsed=False)
        elif parser == "letters":
            judged[row] = Judged(text in item.answers, unparsed=re.fullmatch("[A-Z]", text) is None)
        else:
            letter = choice_of(text, item.options)
            drawn = letter is None
            if letter is None:
                letter = rng.choice(letters(len(item.options)))
            judged[row] = Judged(letter in item.answers, unparsed=drawn)
    return judged


def outcomes(key: Sequence[KeyItem], right: Sequence[bool]) -> NDArray[np.int64]:
    """One row of counts per question: the rows that every figure and its bootstrap come from.

    Returns:
        (n, 30, 2): by SUBJECTS; asked, right.

    Raises:
        UserError: on unequal lengths, or an unknown subject.
    """
    if len(right) != len(key):
        raise UserError(f"outcomes: {len(right)} verdicts for {len(key)} questions; wanted one for each.")
    table = np.zeros((len(key), len(SUBJECTS), 2), dtype=np.int64)
    rows, columns = np.arange(len(key)), [SUBJECTS.index(subject_of(item.question_id)) for item in key]
    table[rows, columns, 0] = 1
    table[rows, columns, 1] = right
    return table


def figures(counts: ArrayLike) -> dict[str, Array]:
    """The figures of a table of counts, or of many at once.

    Args:
        counts: (…, 30, 2), sums of `outcomes`.

    Returns:
        (…) each, in [0, 1]: accuracy, then that of each discipline, each followed by its subjects; 0 without questions.
    """
    table = np.asarray(counts, dtype=np.float64)
    values = {}
    for name, subjects in _GROUPS.items():
        asked, right = np.moveaxis(table[..., [SUBJECTS.index(subject) for subject in subjects], :].sum(axis=-2), -1, 0)
        values[name] = np.divide(right, asked, out=np.zeros(asked.shape), where=asked != 0)
    return values


_GROUPS = {"accuracy": SUBJECTS} | {
    name: subjects
    for discipline, members in DISCIPLINES.items()
    for name, subjects in [(discipline, members), *((member, (member,)) for member in members)]
}

FIGURES = tuple(_GROUPS)
"""The names of the figures."""


def statistic(name: str) -> Statistic:
    """A figure, for `bootstrap_interval` and `paired_bootstrap` on rows made by `outcomes`.

    Raises:
        UserError: if it is none of FIGURES.
    """
    choice("statistic", "figure", name, FIGURES)
    return lambda totals, n: figures(totals)[name]


def score_mmmu(
    key: Sequence[KeyItem],
    texts: Sequence[str | None],
    *,
    parser: str = "official",
    decoding: str = "",
    rng: np.random.Generator | None = None,
    samples: int = 2000,
) -> Score:
    """Score answers to MMMU's questions.

    Args:
        key: of one subject at least.
        texts: their answers in the same order, None where a question stayed unanswered.
        parser: how multiple-choice answers are read, of PARSERS.
        decoding: how the answers came about, as `Leg.signature()` says it; "" where that is unknown.
        rng: with it, 95 % bootstrap intervals over questions, for every figure; there are none for a single question.
        samples: resamples of these, ≥ 1.

    Returns:
        Values: the FIGURES that have questions, then n, random (letters that were drawn), unparsed (multiple-choice
        answers without a letter; drawn under `official`, wrong under `letters`), unanswered (None), and `…_n`, the
        questions of each discipline and subject.

    Raises:
        UserError: without questions, and as `judge` does.
    """
    if not key:
        raise UserError("score_mmmu: no questions; wanted at least one.")
    judged = judge(key, texts, parser=parser)
    rows = outcomes(key, [verdict.right for verdict in judged])
    counts = rows.sum(axis=0)
    asked = {name: int(sum(counts[SUBJECTS.index(s), 0] for s in subjects)) for name, subjects in _GROUPS.items()}
    observed = figures(counts)
    names = [name for name in FIGURES if asked[name]]
    values: dict[str, float] = {name: float(observed[name]) for name in names}
    unparsed = sum(verdict.unparsed for verdict in judged)
    values |= {"n": len(key), "random": unparsed if parser == "official" else 0, "unparsed": unparsed}
    values |= {"unanswered": sum(text is None for text in texts)}
    values |= {f"{name}_n": asked[name] for name in names if name != "accuracy"}
    intervals: Mapping[str, tuple[float, float]] = {}
    if rng is not None and len(key) > 1:
        totals, _ = resample(rows, range(len(key)), rng=rng, samples=samples)
        drawn = figures(totals)
        intervals = {name: interval(drawn[name]) for name in names}
    return Score(values, signature(["mmmu"], _signed(key), parser=parser, decoding=decoding), intervals)


def _signed(key: Sequence[KeyItem]) -> list[Question]:
    return [
        Question(item.question_id, "", json.dumps([item.is_open, *item.options]), json.dumps(item.answers))
        for item in key
    ]
