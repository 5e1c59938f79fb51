"""Words of a text as the caption benchmarks count them: tokens, singulars, nouns, and which words are similar.

Tokens part as in the Penn Treebank: hyphens, slashes and inner full stops join ("man-made", "cup/bowl"), a clitic ('s,
'm, 'd, 'll, 're, 've) comes off, and every sign is a token of its own, so that it keeps two words apart.
Singulars by WordNet's detachment rules for nouns, with the vocabulary in the lexicon's place: a rule holds only where
what it leaves is a known word. How nouns are found (NOUNS) and what is similar (SIMILAR) are named strategies:
"vocabulary" and "exact" need nothing, "nltk" and "spacy" are those of AMBER's inference.py and need these libraries and
their models.

Knows: strings. Does not know: captions, objects, files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Mapping
from functools import cache

from vdd._check import UserError

Nouns = Callable[[str], list[str]]
"""Text → its mentions, in order."""

Similar = Callable[[str, str], bool]
"""Whether two words are similar."""

SIMILARITY = 0.8  # inference.py's default; above it two words are similar
_NO_NOUNS = frozenset({"can", "hot"})  # among AMBER's words, but in a description "can be seen" and "hot dog"

_TOKEN = re.compile(r"\w+(?:[-/.]\w+|'(?!(?:s|m|d|ll|re|ve)\b)\w+)*|[^\w\s]")

_ENDINGS = (
    ("s", ""),
    ("ses", "s"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("oes", "o"),
    ("ies", "y"),
    ("ves", "f"),
    ("ves", "fe"),
    ("men", "man"),
)
_IRREGULAR = {
    "children": "child",
    "feet": "foot",
    "geese": "goose",
    "mice": "mouse",
    "oxen": "ox",
    "people": "person",
    "teeth": "tooth",
}


def tokens(text: str) -> list[str]:
    """The words and signs of `text`, in lower case and in order.

    >>> tokens("Two dogs' toys, a man-made kite.")
    ['two', 'dogs', "'", 'toys', ',', 'a', 'man-made', 'kite', '.']
    """
    return _TOKEN.findall(text.lower().replace("’", "'"))


def singular(word: str, known: Container[str]) -> str:
    """The word of `known` that `word` is, or is a plural of; `word` itself where there is none.

    >>> singular("buses", {"bus", "tie"}), singular("ties", {"bus", "tie"}), singular("cares", {"car"})
    ('bus', 'tie', 'cares')
    """
    if word in known:
        return word
    if (irregular := _IRREGULAR.get(word, word)) in known:
        return irregular
    for ending, instead in _ENDINGS:
        if word.endswith(ending) and (found := word.removesuffix(ending) + instead) in known:
            return found
    return word


def vocabulary_nouns(known: Iterable[str]) -> Nouns:
    """Every known word of a text, singular or plural, in any case; "can" and "hot" are not counted as nouns."""
    by_lower = {word.lower(): word for word in known}

    def nouns(text: str) -> list[str]:
        found = [singular(word, by_lower) for word in tokens(text) if word not in _NO_NOUNS]
        return [by_lower[word] for word in found if word in by_lower]

    return nouns


def nltk_nouns(known: Iterable[str]) -> Nouns:
    """The known words among what nltk tags as nouns, lemmatized by WordNet: the script's own rule."""
    try:
        import nltk
    except ImportError:
        raise UserError(
            "nouns='nltk' needs nltk: pip install 'visual-debias-decoding[amber]', or take nouns='vocabulary'."
        ) from None
    words = frozenset(known)
    lemmatize = nltk.stem.WordNetLemmatizer().lemmatize

    def nouns(text: str) -> list[str]:
        try:
            tagged = nltk.pos_tag(nltk.word_tokenize(text))
            found = [lemmatize(word) for word, tag in tagged if tag.startswith("NN")]
        except LookupError as error:
            name = str(error).partition("nltk.download(")[2].partition(")")[0] or "its data"
            raise UserError(f"nouns='nltk': nltk lacks {name}; fetch it with python -m nltk.downloader.") from None
        return [word for word in found if word in words]

    return nouns


def exact() -> Similar:
    """Two words are similar if they are the same."""
    return str.__eq__


def spacy_vectors() -> Similar:
    """Two words are similar if spaCy's `en_core_web_lg` says more than SIMILARITY: the script's own rule."""
    try:
        import spacy

        model = cache(spacy.load("en_core_web_lg"))
    except (ImportError, OSError):
        raise UserError(
            "similar='spacy' needs spaCy (spacy) and its model: pip install 'visual-debias-decoding[amber]', "
            "python -m spacy download en_core_web_lg, or take similar='exact'."
        ) from None
    return cache(lambda word, other: bool(model(word).similarity(model(other)) > SIMILARITY))


NOUNS: Mapping[str, Callable[[Iterable[str]], Nouns]] = {"vocabulary": vocabulary_nouns, "nltk": nltk_nouns}
SIMILAR: Mapping[str, Callable[[], Similar]] = {"exact": exact, "spacy": spacy_vectors}
