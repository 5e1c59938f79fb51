"""Models by name, opened once and shared by all visitors; one answer at a time; a newer question ends an older one.

Knows: names, locks. Does not know: how a model is opened, answers, pages.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator

from vdd._check import UserError
from vdd.config import REFERENCES
from vdd.pipeline import Pipeline

KEPT = 2
"""Models in memory at most: the one that the page began with, and the one opened last."""

WAIT = 0.1
"""Seconds between two looks at whether a waiting question is still wanted."""

VISITORS = 1000
"""Visitors whose last question is remembered, so that their next one ends it."""


class Stopped(Exception):
    """The answer is no longer wanted."""


class House:
    """What all visitors share.

    Args:
        opener: a name → the model, ready to answer.
        first: name of the model that the page begins with; opened here.
        guests: whether visitors may open others.
    """

    def __init__(self, opener: Callable[[str], Pipeline], first: str, *, guests: bool = True) -> None:
        self.first, self.guests = first, guests
        self._opener = opener
        self._opening, self._model = threading.Lock(), threading.Lock()
        self._asking = threading.Lock()
        self._open: OrderedDict[str, Pipeline] = OrderedDict({first: opener(first)})
        self._last: OrderedDict[str, threading.Event] = OrderedDict()

    def open(self, name: str) -> Pipeline:
        """Open a model, which may fetch it; the one opened before, where it is not the first, is put away.

        Raises:
            UserError: where there is no such model, or guests open none here.
        """
        name = name.strip()
        if not name:
            raise UserError("No model's name came; wanted a name on the Hub or a folder.")
        if name not in self._open and not self.guests:
            raise UserError(f"{name}: models are not opened from here; wanted {self.first}, which this page shows.")
        with self._opening:
            if name not in self._open:
                for other in [other for other in self._open if other != self.first][KEPT - 2 :]:
                    del self._open[other]
                self._open[name] = self._opener(name)
            return self._open[name]

    def model(self, name: str) -> Pipeline:
        """A model that is open.

        Raises:
            UserError: where it is not, or no longer.
        """
        found = self._open.get(name)
        if found is None:
            raise UserError(f"{name}: this model is not open any more, since another was opened. Load it again.")
        return found

    def ask(self, visitor: str) -> threading.Event:
        """A visitor's next question: the last one's answer ends. What is returned is set when this one is to end."""
        wanted_no_more = threading.Event()
        with self._asking:
            self._end(visitor)
            self._last[visitor] = wanted_no_more
            while len(self._last) > VISITORS:
                self._last.popitem(last=False)[1].set()
        return wanted_no_more

    def newer(self, visitor: str, ended: threading.Event) -> bool:
        """Whether the visitor has asked another question since the one that `ended` ends."""
        last = self._last.get(visitor)
        return last is not None and last is not ended

    def end(self, visitor: str) -> None:
        """A visitor wants no answer any more."""
        with self._asking:
            self._end(visitor)

    def _end(self, visitor: str) -> None:
        last = self._last.pop(visitor, None)
        if last is not None:
            last.set()

    @contextlib.contextmanager
    def turn(self, ended: threading.Event) -> Iterator[None]:
        """Wait until no other answer is being made.

        Raises:
            Stopped: where `ended` is set before.
        """
        while not self._model.acquire(timeout=WAIT):
            if ended.is_set():
                raise Stopped
        try:
            if ended.is_set():
                raise Stopped
            yield
        finally:
            self._model.release()


def references_of(pipeline: Pipeline) -> list[str]:
    """The references that make sense for a model's family."""
    refused = set(pipeline.family.adapter.refused)
    if "unk" not in pipeline.priors:
        refused |= {"unk", "both"}
    return [name for name in REFERENCES if name not in refused]
