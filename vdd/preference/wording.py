"""An answer as the tokens that stand behind its prompt, and the places where both its text and its tokens can be cut.

    prompt + glue + answer  →  ids;   a place in the text is a cut where the ids of the text before it begin the ids

What a chat template writes between the prompt and an answer (the glue) is found by rendering one.

Source: this project's own design. Knows: tokenizers, chat templates. Does not know: models, images, chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from vdd.families import Family, tokenizer_of
from vdd.placeholders import Row
from vdd.preference.sentences import cuts, ends_sentence, sentences

_PROBE = "Apples"
"""An answer that no template writes by itself."""


@dataclass(frozen=True)
class Sentence:
    """One sentence of an answer.

    Attributes:
        text: with the white space around it.
        start: tokens of the answer before it.
        cuts: where it may be cut: letters, and tokens of the answer up to there.
    """

    text: str
    start: int
    cuts: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Worded:
    """An answer's tokens and its sentences; their texts joined are the answer."""

    ids: Row
    sentences: tuple[Sentence, ...]


class Wording:
    """Puts answers into tokens and back.

    Args:
        processor: multimodal processor.
        family: the model's facts.
    """

    def __init__(self, processor: Any, family: Family) -> None:
        self.tokenizer = tokenizer_of(processor)
        self._processor, self._family = processor, family

    def of(self, prompt: str, answer: str) -> Worded:
        """The answer behind a prompt.

        Args:
            prompt: its text, with image placeholders.
            answer: with something in it.
        """
        parts = sentences(answer)
        starts = [sum(map(len, parts[:number])) for number in range(len(parts))]
        places = sorted({start + cut for start, part in zip(starts, parts, strict=True) for cut in (0, *cuts(part))})
        ids, *before = self._behind(prompt, [answer, *(answer[:place] for place in places)])
        tokens = {place: len(own) for place, own in zip(places, before, strict=True) if ids[: len(own)] == own}
        found: list[Sentence] = []
        for number, start in enumerate(starts):
            stop = number + 1
            if start not in tokens:
                continue
            while stop < len(starts) and starts[stop] not in tokens:  # no token ends there: one with the next
                stop += 1
            text = "".join(parts[number:stop])
            inside = [place for place in tokens if start <= place < start + len(text)]
            found.append(Sentence(text, tokens[start], tuple((place - start, tokens[place]) for place in inside)))
        return Worded(ids, tuple(found))

    def ids(self, prompt: str, before: str, text: str) -> Row:
        """The tokens of `text` behind the prompt and what was answered before."""
        known, whole = self._behind(prompt, [before, before + text])
        return whole[len(known) :] if whole[: len(known)] == known else self._plain([text])[0]

    def text(self, before: Row, tokens: Row) -> str:
        """What `tokens` say behind the answer's tokens `before`."""
        known, whole = (self._decoded(row) for row in (before, [*before, *tokens]))
        return whole[len(known) :] if before and whole.startswith(known) else self._decoded(tokens)

    @cached_property
    def closing(self) -> frozenset[int]:
        """The tokens whose text has a sign in it that may end a sentence."""
        texts = self.tokenizer.batch_decode([[token] for token in range(len(self.tokenizer))])
        return frozenset(token for token, text in enumerate(texts) if any(sign in text for sign in ".!?。！？\n"))

    def closes(self, tokens: Row) -> bool:
        """Whether a text that ends in these tokens has come to the end of a sentence."""
        return tokens[-1] in self.closing and ends_sentence(self._decoded(tokens))

    def special(self, text: str) -> str:
        """The first token in `text` that is no text: it ends one, or stands for an image; "" where there is none."""
        tokenizer = self.tokenizer
        marks = self._family.image_ids | self._family.frame_ids | set(tokenizer.all_special_ids)
        marks -= {tokenizer.unk_token_id}
        return next((self.tokenizer.decode([token]) for token in self._plain([text])[0] if token in marks), "")

    def _behind(self, prompt: str, texts: list[str]) -> list[Row]:
        glue = self._glue(prompt)
        base, *rows = self._plain([prompt, *(prompt + glue + text if text else prompt for text in texts)])
        if all(row[: len(base)] == base for row in rows):
            return [row[len(base) :] for row in rows]
        return [self._plain([glue + text])[0] if text else [] for text in texts]

    def _glue(self, prompt: str) -> str:
        """What stands between the prompt and an answer."""
        if self._family.adapter.prefix or not prompt or prompt[-1].isspace():
            return ""
        return self._templates_glue if getattr(self._processor, "chat_template", None) else " "

    @cached_property
    def _templates_glue(self) -> str:
        asked = {"role": "user", "content": [{"type": "text", "text": "?"}]}
        answered = {"role": "assistant", "content": [{"type": "text", "text": _PROBE}]}
        render = self._processor.apply_chat_template
        try:
            whole = str(render([asked, answered], tokenize=False))
            prompt = str(render([asked], add_generation_prompt=True, tokenize=False))
        except (TemplateError, ValueError, TypeError):
            return " "
        return whole[len(prompt) :].partition(_PROBE)[0] if whole.startswith(prompt) and _PROBE in whole else ""

    def _plain(self, texts: list[str]) -> list[Row]:
        return [list(row) for row in self.tokenizer(texts, add_special_tokens=False).input_ids]

    def _decoded(self, row: Row) -> str:
        return str(self.tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False))
