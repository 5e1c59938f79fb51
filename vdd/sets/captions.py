"""Read captions, the objects of their images, and the words that name an object: what CHAIR compares.

    captions  {"image_id": 42, "caption": "A dog …"}, LLaVA's and our own answers: JSON lines or one JSON array
    objects   {"42": ["dog", "person"], …}: what the instances and the five reference captions of an image name
    words     {"synonyms": {"puppy": "dog", …}, "double_words": {"hot dog": "hot dog", …}}, or the `synonyms.txt` of
              CHAIR's authors: a line for each object, its name and then its synonyms, parted by commas

Knows: these forms. Does not know: how captions are scored, models, images.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from vdd._check import UserError
from vdd.data import read_records
from vdd.sets.values import read_lines, read_object

_COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?0*(\d+)(?:\.\w+)?")
_PAIRS = """motor bike, motor cycle, air plane, traffic light, street light, traffic signal, stop light, fire hydrant,
stop sign, parking meter, suit case, sports ball, baseball bat, baseball glove, tennis racket, wine glass, hot dog,
cell phone, mobile phone, teddy bear, hair drier, potted plant, laptop computer, home plate, train track"""
_ANIMALS = "bird cat dog horse sheep cow elephant bear zebra giraffe animal cub"

DOUBLE_WORDS: Mapping[str, str] = {
    **{pair: pair for pair in " ".join(_PAIRS.split()).split(", ")},
    **{f"{age} {animal}": animal for age in ("baby", "adult") for animal in _ANIMALS.split()},
    **{f"passenger {vehicle}": vehicle for vehicle in ("jet", "train")},
    "bow tie": "tie",
    "toilet seat": "toilet",
}
"""Two words that are one, and what they are: those of CHAIR's own script, which a `synonyms.txt` goes with."""


class Caption(NamedTuple):
    """What was said about an image; None where it could not be."""

    image_id: str
    text: str | None


@dataclass(frozen=True)
class Vocabulary:
    """The words that name objects.

    Attributes:
        synonyms: word or pair of words → object; every object is a synonym of itself.
        double_words: two words → the one that stands for them; that need not name an object ("train track").
    """

    synonyms: Mapping[str, str]
    double_words: Mapping[str, str]

    @cached_property
    def words(self) -> frozenset[str]:
        """Every single word in it: what a plural can be undone to."""
        return frozenset(word for name in (*self.synonyms, *self.double_words) for word in name.split())

    @cached_property
    def objects(self) -> frozenset[str]:
        """What a caption can mention."""
        return frozenset(self.synonyms.values())


def image_id_of(value: object, where: str) -> str:
    """An image's id as it stands in every file: 42, "42", "000000000042.jpg" and COCO's own file name are "42".

    Raises:
        UserError: naming `where`, if it is no whole number and no string, or empty.

    >>> image_id_of("val2014/COCO_val2014_000000226988.jpg", ""), image_id_of(226988, "")
    ('226988', '226988')
    """
    if isinstance(value, bool) or not isinstance(value, (int, str)) or not str(value).strip():
        raise UserError(f"{where}: the image is {value!r}; wanted its id or its file's name.")
    name = str(value).strip().replace("\\", "/").rsplit("/", 1)[-1]
    number = _COCO_NAME.fullmatch(name)
    return number.group(1) if number else name


def load_captions(path: str | os.PathLike[str]) -> list[Caption]:
    """The captions of a file, in the file's order.

    Args:
        path: records with the image as `image_id`, `image` or `question_id` (the first of them that is there), and the
            caption as `caption`, `text` or `answer`, a string that may be empty. A record with an `error` has none.

    Raises:
        UserError: on anything else, or an image that comes twice; see `vdd.data.read_records`.
    """
    captions: dict[str, Caption] = {}
    for where, record in read_records(path):
        key = next((name for name in ("image_id", "image", "question_id") if record.get(name) not in (None, "")), None)
        if key is None:
            raise UserError(f"{where}: no image in it (it has {_keys(record)}); wanted image_id, image or question_id.")
        image_id = image_id_of(record[key], where)
        if image_id in captions:
            raise UserError(f"{where}: image {image_id} again; wanted one caption for each image.")
        captions[image_id] = Caption(image_id, None if record.get("error") is not None else _said(record, where))
    return list(captions.values())


def load_objects(path: str | os.PathLike[str]) -> dict[str, frozenset[str]]:
    """What is in each image, by its id; an image may have no objects.

    Raises:
        UserError: if the file is not one JSON object from image ids to lists of names, or names an image twice.
    """
    found: dict[str, frozenset[str]] = {}
    for key, names in read_object(path, wanted="one JSON object from image ids to the names of their objects").items():
        image_id = image_id_of(key, f"{path}, image {key!r}")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{path}, image {key!r}: its objects are {names!r:.80}; wanted a list of names.")
        if image_id in found:
            raise UserError(f"{path}, image {key!r}: this is image {image_id} again; wanted each image once.")
        found[image_id] = frozenset(names)
    return found


def load_vocabulary(path: str | os.PathLike[str]) -> Vocabulary:
    """The words that name objects: a `.json` file in the form above, or any other as `synonyms.txt`.

    A `synonyms.txt` goes with DOUBLE_WORDS. A second space before a word stays part of it, as in the authors' script,
    which never finds the two such words of their file (" motor bike", " cheesecake").

    Raises:
        UserError: on anything else, or a word that names two objects.
    """
    if Path(path).suffix.lower() == ".json":
        wanted = "a JSON object with `synonyms` and `double_words`, each from words to words"
        tables = read_object(path, wanted=wanted)
        parts = [tables.get(name) for name in ("synonyms", "double_words")]
        if not all(isinstance(part, dict) and all(isinstance(v, str) for v in part.values()) for part in parts):
            raise UserError(f"{path}: found {_keys(tables)}; wanted {wanted}.")
        synonyms, double_words = parts
        return Vocabulary(synonyms or {}, double_words or {})
    names: dict[str, str] = {}
    for where, line in read_lines(path, wanted="lines of an object's name and its synonyms, parted by commas"):
        words = [word.removeprefix(" ") for word in line.split(",")]
        for word in words:
            if not word.strip():
                raise UserError(f"{where}: nothing between two commas; wanted words.")
            if names.setdefault(word, words[0]) != words[0]:
                raise UserError(f"{where}: {word!r} names {names[word]!r} already; wanted each word for one object.")
    return Vocabulary(names, DOUBLE_WORDS)


def _said(record: Mapping[str, Any], where: str) -> str:
    text = next((record[key] for key in ("caption", "text", "answer") if key in record), None)
    if not isinstance(text, str):
        raise UserError(
            f"{where}: no caption in it (it has {_keys(record)}); wanted a string as caption, text or answer."
        )
    return text


def _keys(record: Mapping[str, Any]) -> str:
    return ", ".join(record) or "nothing"
