"""How alike a good answer and a biased one are: whether a try of BDHS has changed anything.

    Embedder      cos(e(y⁺), e(y⁻)), e a sentence embedding                                       ε = 0.97
    NamedThings   Jaccard index of what both mention: objects, colours, numbers, yes and no       ε = 1
    Words         F1 of their words but for the smallest, each as often as it comes               ε = 0.95

A try counts as another answer where its similarity is below ε. Case and white space never count.

Source: arXiv:2407.02477, §3.4, for the embedder (all-mpnet-base-v2) and its ε. The other two are this project's own,
for where there is no embedder; `Words.epsilon` is what `chosen_epsilon` makes of the embedded world's captions.
Knows: strings, sentence-transformers (extra `embed`). Does not know: who wrote an answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from vdd._check import UserError, real
from vdd.scoring.nouns import singular, tokens
from vdd.sets.captions import Vocabulary

EMBEDDER, EMBEDDER_EPSILON = "sentence-transformers/all-mpnet-base-v2", 0.97
"""The paper's."""
WORDS_EPSILON = 0.95
"""By `chosen_epsilon` on 200 captions of the embedded world's dev scenes: every caption with one wrong object or colour
(0.82 alike on average) counts as another answer, and so do 22 % of the paraphrases (0.98 alike on average), those with
further words. At 0.9, 28 % of the wrong captions would pass for the same."""

COLORS: Mapping[str, str] = {
    **{name: name for name in ("red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "white")},
    **{name: name for name in ("pink", "gold", "silver", "beige")},
    "gray": "gray",
    "grey": "gray",
    "violet": "purple",
    "golden": "gold",
}
_COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_NUMBERS = {name: str(number) for number, name in enumerate(_COUNTED)}
_NEGATIONS = frozenset(("no", "not", "never", "none", "without", "neither", "nor", "cannot", "nothing", "nobody"))
_YES, _NO = "yes", "no"
_ENDS = frozenset(".!?;")
_NEAR = 2
"""Words that may stand between a colour or a number and the object that it is said of ("a red little bus")."""
_SMALL_WORDS = """a an the this that these those there here it its is are was were be been being am do does did has have
had of in on at to from by with and or as for i we you he she they can could see seen image picture photo shows show
which 's 're 've"""
_SMALL = frozenset(_SMALL_WORDS.split())
_Key = TypeVar("_Key")


class Similarity(Protocol):
    """How alike two answers are.

    Attributes:
        name: of the measure; stands beside every similarity.
        epsilon: below it a try counts as another answer.
    """

    @property
    def name(self) -> str:
        """Of the measure."""

    @property
    def epsilon(self) -> float:
        """Below it a try counts as another answer."""

    def __call__(self, chosen: Sequence[str], rejected: Sequence[str]) -> list[float]:
        """The similarity of each good answer to the other one in its place; 1 where both are the same."""


@dataclass(frozen=True)
class Words:
    """F1 of the answers' words, the smallest left out (articles, "there is", prepositions), each as often as it comes.

    A measure of words and no embedder: it takes a synonym for another word, "not" for one word among many, and does not
    see their order. Where an answer has small words alone, all its words count.
    """

    name: str = "words (no embedder)"
    epsilon: float = WORDS_EPSILON

    def __post_init__(self) -> None:
        real("Words", "epsilon", self.epsilon, low=0.0, high=1.0)

    def __call__(self, chosen: Sequence[str], rejected: Sequence[str]) -> list[float]:
        """See `Similarity`; in [0, 1]."""
        return [_f1(_content(good), _content(other)) for good, other in _pairs(self.name, chosen, rejected)]


@dataclass(frozen=True)
class NamedThings:
    """What both answers mention: objects of a list, and what is said of each: colours, numbers, that it is not there.

    A colour or a number belongs to the object that follows within three words, else to the one before; a negation to
    the next object of its sentence, else to the one before. "Yes" counts by itself. The similarity is 1 where all this
    agrees, else the Jaccard index of both multisets, below 1. Where neither answer mentions anything, it is that of
    their words. Places ("on the left") are not mentions.

    Attributes:
        words: names of objects; synonyms with the object that each names; or a benchmark's vocabulary. Plurals are
            undone.
    """

    words: Vocabulary | Mapping[str, str] | Iterable[str]
    name: str = "named things (no embedder)"
    epsilon: float = 1.0
    _known: Vocabulary = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        real("NamedThings", "epsilon", self.epsilon, low=0.0, high=1.0)
        if isinstance(self.words, str):
            raise UserError(f"NamedThings: words is {self.words!r}; wanted several names, or a mapping to names.")
        if isinstance(self.words, Vocabulary):
            known = self.words
        else:
            given = self.words.items() if isinstance(self.words, Mapping) else ((name, name) for name in self.words)
            synonyms = {_plain(word): _plain(name) for word, name in given}
            known = Vocabulary(synonyms, {word: word for word in synonyms if word.count(" ") == 1})
        if not known.synonyms:
            raise UserError("NamedThings: words is empty; wanted names of objects.")
        object.__setattr__(self, "_known", known)

    def __call__(self, chosen: Sequence[str], rejected: Sequence[str]) -> list[float]:
        """See `Similarity`; in [0, 1]."""
        found = []
        for good, other in _pairs(self.name, chosen, rejected):
            left, right = self.mentioned(good), self.mentioned(other)
            found.append(_jaccard(left, right) if left or right else _jaccard(_counted(good), _counted(other)))
        return found

    def mentioned(self, text: str) -> Counter[tuple[str, str]]:
        """What `text` mentions: ("", object), and (colour, number or "no", its object; "" where there is none).

        >>> sorted(NamedThings(["fox", "bus"]).mentioned("Two red foxes, but no bus."))
        [('', 'bus'), ('', 'fox'), ('2', 'fox'), ('no', 'bus'), ('red', 'fox')]
        """
        found: Counter[tuple[str, str]] = Counter()
        sentence: list[str] = []
        for word in [*self._words(text), "."]:
            if word in _ENDS:
                found.update(self._said(sentence))
                sentence = []
            else:
                sentence.append(word)
        return found

    def _words(self, text: str) -> list[str]:
        """The text's words and signs, plurals undone, two words that are one joined."""
        single = [singular(word, self._known.words) for word in tokens(_plain(text))]
        joined: list[str] = []
        while single:
            pair = self._known.double_words.get(" ".join(single[:2]))
            joined.append(single[0] if pair is None else pair)
            single = single[1 if pair is None else 2 :]
        return joined

    def _said(self, sentence: Sequence[str]) -> Iterable[tuple[str, str]]:
        objects = {at: self._known.synonyms[word] for at, word in enumerate(sentence) if word in self._known.synonyms}
        yield from (("", name) for name in objects.values())
        for at, word in enumerate(sentence):
            if at in objects:
                continue
            after = min((place for place in objects if place > at), default=None)
            before = max((place for place in objects if place < at), default=None)
            mark = COLORS.get(word) or _NUMBERS.get(word) or (word if word.isdecimal() else None)
            if mark is not None and after is not None and after - at > _NEAR + 1 and before is not None:
                after = None
            if word == _YES:
                yield _YES, ""
            elif mark is not None or word in _NEGATIONS or word.endswith("n't"):
                place = before if after is None else after
                yield mark or _NO, "" if place is None else objects[place]


@dataclass
class Embedder:
    """Cosine of the answers' sentence embeddings, as in the paper; the model is loaded at once.

    Attributes:
        name_or_path: of a sentence-transformers model: a folder, or a name on the Hub (fetched if it is not in the
            cache already). No code of the model's own is run.
        epsilon: below it a try counts as another answer.
        device: as torch names it; None takes what there is.
        batch_size: texts a forward.

    Raises:
        UserError: where sentence-transformers (extra `embed`) is missing, or the model cannot be loaded.
    """

    name_or_path: str = EMBEDDER
    epsilon: float = EMBEDDER_EPSILON
    device: str | None = None
    batch_size: int = 64
    _model: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        real("Embedder", "epsilon", self.epsilon, low=-1.0, high=1.0)
        instead = "Without an embedder, answers are compared by their words."
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise UserError(
                f"Embedder: {self.name_or_path!r} needs sentence-transformers, which is not installed; wanted: "
                f"pip install 'visual-debias-decoding[embed]'. {instead}"
            ) from error
        try:
            self._model = SentenceTransformer(self.name_or_path, device=self.device, trust_remote_code=False)
        except Exception as error:  # the Hub's client, transformers and torch each raise their own
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"Embedder: {self.name_or_path!r} cannot be loaded ({first}); wanted a folder with a "
                f"sentence-transformers model, or its name on the Hub. {instead}"
            ) from error

    @property
    def name(self) -> str:
        """See `Similarity`."""
        return f"cosine by {self.name_or_path}"

    def __call__(self, chosen: Sequence[str], rejected: Sequence[str]) -> list[float]:
        """See `Similarity`; in [−1, 1], exactly 1 where both are the same but for case and white space."""
        pairs = _pairs(self.name, chosen, rejected)
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        if not texts:
            return []
        rows = self._model.encode(
            texts,
            batch_size=self.batch_size,
            convert_to_tensor=True,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        place = {text: number for number, text in enumerate(texts)}
        rows = rows.double().cpu()
        left, right = ([place[pair[side]] for pair in pairs] for side in (0, 1))
        cosines = (rows[left] * rows[right]).sum(-1).clamp(-1.0, 1.0).tolist()
        return [1.0 if good == other else cosine for (good, other), cosine in zip(pairs, cosines, strict=True)]


def fallback() -> Similarity:
    """What is used where no embedder is given: `Words`, whose name says that it is none."""
    return Words()


def chosen_epsilon(measure: Similarity, same: Sequence[tuple[str, str]], other: Sequence[tuple[str, str]]) -> float:
    """The ε that best parts pairs that say the same from pairs that do not: of 0.05, 0.10, …, 1 the one with the most
    right verdicts, both kinds weighed alike; of equals the largest, which lets fewer tries pass for the same.

    How `WORDS_EPSILON` came about: `same` were 200 captions of dev scenes with their paraphrases, `other` the same
    captions with one object or colour exchanged.

    Args:
        measure: whose ε; its own is not looked at.
        same, other: (answer, answer), at least one each.
    """
    if not same or not other:
        raise UserError(f"chosen_epsilon: {len(same)} pairs that agree, {len(other)} that differ; wanted some of both.")
    alike, unlike = (measure(*map(list, zip(*pairs, strict=True))) for pairs in (same, other))

    def right(epsilon: float) -> float:
        kept = sum(value >= epsilon for value in alike) / len(alike)
        return kept + sum(value < epsilon for value in unlike) / len(unlike)

    return max((step / 20 for step in range(1, 21)), key=lambda epsilon: (right(epsilon), epsilon))


def _pairs(who: str, chosen: Sequence[str], rejected: Sequence[str]) -> list[tuple[str, str]]:
    if len(chosen) != len(rejected):
        raise UserError(f"{who}: {len(chosen)} chosen answers, {len(rejected)} rejected; wanted as many.")
    return [(_plain(good), _plain(other)) for good, other in zip(chosen, rejected, strict=True)]


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("’", "'").casefold()


def _counted(text: str) -> Counter[str]:
    return Counter(word for word in tokens(text) if re.search(r"\w", word))


def _content(text: str) -> Counter[str]:
    counted = _counted(text)
    return Counter({word: count for word, count in counted.items() if word not in _SMALL}) or counted


def _f1(left: Counter[str], right: Counter[str]) -> float:
    both = left.total() + right.total()
    return 2 * (left & right).total() / both if both else 1.0


def _jaccard(left: Counter[_Key], right: Counter[_Key]) -> float:
    either = (left | right).total()
    return (left & right).total() / either if either else 1.0
