"""Images in a prompt's token ids: where they are, the prompt without them, the prompt with `<unk>` in their place.

The text that a chat template puts around an image is found by rendering a message with and without one. It is cut from
the prompt's text, which is tokenised anew. Where a tokenizer does not give back the same ids from its own text, the
image's tokens and those of the residue are cut out instead; without a template, the image's alone.

Source: arXiv:2403.05262. Knows: token ids, a tokenizer, a chat template. Does not know: tensors, models, references.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from vdd.families import Family, placeholder_of, tokenizer_of

Row = list[int]
_LONGEST_GAP = 24  # tokens; what a processor writes between the parts of one image


@dataclass(frozen=True)
class Block:
    """One or more adjoining images in a row of ids: `row[start:stop]`."""

    start: int
    stop: int
    images: int


@dataclass(frozen=True)
class Residue:
    """Text that comes and goes with an image.

    Attributes:
        before, after: what is written around it.
        instead: white space that is written only where there is none.
    """

    before: str = ""
    after: str = ""
    instead: str = ""


_NO_RESIDUE = Residue()


class Placeholders:
    """Finds images in prompts and takes them out; what template and tokenizer say is looked up once.

    Args:
        family: the model's facts.
        processor: its multimodal processor, a tokenizer, or None.
        derive: "template" also cuts what the chat template writes around an image, "ids" leaves it.
    """

    def __init__(self, family: Family, processor: Any = None, *, derive: str = "template") -> None:
        self.family = family
        self.tokenizer = tokenizer_of(processor)
        self.pieces = family.image_ids | family.frame_ids
        self.residue = _template_residue(processor, self._texts(processor)) if derive == "template" else _NO_RESIDUE

    def is_image(self, row: Sequence[int]) -> list[bool]:
        """Which ids image features replace: the image tokens, and where a family has none, what its span encloses."""
        if self.family.image_ids:
            return [token in self.family.image_ids for token in row]
        inside = [False] * len(row)
        for block in self.blocks(row):
            inside[block.start + 1 : block.stop - 1] = [True] * (block.stop - block.start - 2)
        return inside

    def blocks(self, row: Sequence[int]) -> list[Block]:
        """The images of a row, in order; a frame without an image in it is none."""
        found = []
        start = 0
        while start < len(row):
            stop = self._stop(row, start)
            own = row[start:stop]
            if stop > start and (not self.family.image_ids or self.family.image_ids.intersection(own)):
                found.append(Block(start, stop, self._count(own)))
            start = max(stop, start + 1)
        return found

    def without(self, row: Row) -> Row:
        """A prompt's ids as the chat template renders them without its images."""
        before, after = self.family.adapter.around
        residue = Residue(self.residue.before + before, after + self.residue.after, self.residue.instead)
        return self._replaced(row, None, residue)

    def with_unk(self, row: Row, unk: int) -> Row:
        """A prompt's ids with one `<unk>` for each image; what the template writes around an image stays."""
        return self._replaced(row, unk, Residue(*self.family.adapter.around))

    def _replaced(self, row: Row, unk: int | None, residue: Residue) -> Row:
        blocks = self.blocks(row)
        if residue == _NO_RESIDUE or not blocks or self.tokenizer is None:
            return _substituted(row, blocks, [[] if unk is None else [unk] * block.images for block in blocks])
        marked = _substituted(row, blocks, [[row[block.start]] * block.images for block in blocks])
        text = self.tokenizer.decode(marked, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if self._encoded(text) != marked:
            return self._replaced_by_token(row, blocks, unk, residue)
        marks = sorted({self.tokenizer.decode([row[block.start]]) for block in blocks})
        put = residue.instead if unk is None else self.tokenizer.decode([unk])
        return self._encoded(_pattern(residue, marks, together=unk is None).sub(lambda _: put, text))

    def _replaced_by_token(self, row: Row, blocks: list[Block], unk: int | None, residue: Residue) -> Row:
        wider = []
        for block in blocks:
            before = self._length_of(residue.before, [row[max(block.start - n, 0) : block.start] for n in (1, 2, 3)])
            after = self._length_of(residue.after, [row[block.stop : block.stop + n] for n in (1, 2, 3)])
            wider.append(Block(block.start - before, block.stop + after, block.images))
        return _substituted(row, wider, [[] if unk is None else [unk] * block.images for block in wider])

    def _length_of(self, text: str, candidates: list[Sequence[int]]) -> int:
        """The length of the first candidate that is `text` but for spaces; 0 where there is none."""
        wanted = text.strip(" ")
        same = (len(ids) for ids in candidates if wanted and self.tokenizer.decode(ids).strip(" ") == wanted)
        return next(same, 0)

    def _encoded(self, text: str) -> Row:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _stop(self, row: Sequence[int], start: int) -> int:
        """Where the run of image pieces that begins at `start` ends; `start` where none does."""
        family = self.family
        if row[start] in family.opens:
            return next((n + 1 for n in range(start, len(row)) if row[n] in family.closes), start)
        position = start
        while position < len(row) and row[position] in self.pieces:
            position += 1
            if row[position - 1] in family.closes:
                break
            position = self._behind_gap(row, position)
        return position

    def _behind_gap(self, row: Sequence[int], position: int) -> int:
        """Where the image goes on behind text that its processor writes within it; `position` where it does not."""
        inner = self.family.adapter.inner
        if not inner or self.tokenizer is None:
            return position
        near = range(position, min(position + _LONGEST_GAP, len(row)))
        behind = next((n for n in near if row[n] in self.pieces), position)
        text = self.tokenizer.decode(row[position:behind], skip_special_tokens=False)
        return behind if re.fullmatch(f"(?:{inner}| )*", text) else position

    def _count(self, own: Sequence[int]) -> int:
        """How many images adjoin in one block."""
        adapter = self.family.adapter
        if adapter.each and self.tokenizer is not None:
            return max(self.tokenizer.decode(own, skip_special_tokens=False).replace(" ", "").count(adapter.each), 1)
        length = self.family.image_length
        return len(own) // length if length and len(own) % length == 0 else 1

    def _texts(self, processor: Any) -> list[str]:
        """How an image's pieces are written: its placeholder and the tokens around it."""
        written = {placeholder_of(processor), getattr(processor, "boi_token", None)}
        if self.tokenizer is not None:
            written |= {self.tokenizer.decode([token]) for token in self.pieces}
        return sorted(filter(None, written), key=len, reverse=True)


def _substituted(row: Row, blocks: Sequence[Block], by: Sequence[Row]) -> Row:
    out: Row = []
    end = 0
    for block, put in zip(blocks, by, strict=True):
        out += row[end : block.start] + put
        end = block.stop
    return out + row[end:]


def _template_residue(processor: Any, pieces: Sequence[str]) -> Residue:
    """What the chat template writes around an image, found by leaving the image out."""
    if not getattr(processor, "chat_template", None) or not hasattr(processor, "apply_chat_template"):
        return _NO_RESIDUE
    text = {"type": "text", "text": "\u2042"}
    chats = ([{"role": "user", "content": content}] for content in ([{"type": "image"}, text], [text]))
    try:
        seen, blind = (
            processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in chats
        )
    except (TemplateError, TypeError):  # it knows no images, and writes nothing around them
        return _NO_RESIDUE
    start = _shared(seen, blind)
    stop = _shared(seen[start:][::-1], blind[start:][::-1])
    added, instead = seen[start : len(seen) - stop], blind[start : len(blind) - stop]
    ends = [(added.find(piece), added.rfind(piece) + len(piece)) for piece in pieces if piece in added]
    if not ends or instead.strip():  # a system prompt for messages without images is no residue of the image
        return _NO_RESIDUE
    return Residue(added[: min(first for first, _ in ends)], added[max(last for _, last in ends) :], instead)


def _shared(one: str, other: str) -> int:
    """The length of the text that both begin with."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _pattern(residue: Residue, marks: Sequence[str], *, together: bool) -> re.Pattern[str]:
    """One image (or several, `together`), with its residue where that is there; tokenizers differ in their spaces."""
    before, after = residue.before, residue.after
    mark = "(?:" + "|".join(map(re.escape, marks)) + ")"
    several = rf"(?:{mark}\s*)*{mark}" if together else mark
    head = "(?:" + re.escape(before.rstrip(" ")) + " *)?" if before.strip(" ") else ""
    tail = "(?:" + (" *" if after.strip(" ") else "") + re.escape(after) + ")?" if after else ""
    return re.compile(f"{head}{several}{tail}")
