"""Ask a judge model for reviews, each kept from the moment it comes.

    POST {url}/chat/completions    {model, temperature, max_tokens, messages: [system, user]}

Only an address that the caller names is ever asked, with a key only where the caller names the variable that holds it.
A run that was killed goes on where it stopped: nothing is asked twice, and nothing that had come is lost.

Knows: HTTP, through the `openai` client (extra `judge`), and the file of reviews. Does not know: what a review says.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vdd._check import UserError, real, whole
from vdd.reviews import Task, alone, append, match_reviews, opened, read_reviews

if TYPE_CHECKING:
    from openai import OpenAI

GIVE_UP_AFTER = 3
"""Failures in a row after which the rest is not asked: the judge is away, and each would wait through its retries."""

_SHOWN = 160  # characters that a reason keeps of a server's own words


@dataclass(frozen=True)
class Judge:
    """Whom to ask, and how.

    Attributes:
        url: base of the endpoint, http or https, without `/chat/completions`.
        model: its name there.
        temperature: ≥ 0.
        max_tokens: length of a review at most, ≥ 1.
        key_variable: environment variable that holds the key; None sends none.
        timeout: seconds for each wait on the endpoint, ≥ 0.001.
        retries: further tries after a time-out, a lost connection, 408, 409, 429 or 5xx, ≥ 0; the client waits between
            them as long as the endpoint's Retry-After says, or else a little longer each time.
    """

    url: str
    model: str
    temperature: float
    max_tokens: int
    key_variable: str | None = None
    timeout: float = 120.0
    retries: int = 6

    def __post_init__(self) -> None:
        if self.url.partition("://")[0].lower() not in ("http", "https"):
            raise UserError("judge: the address has no http:// or https:// in front; wanted the endpoint's base URL.")
        if not self.model.strip():
            raise UserError("judge: no model; wanted its name at the endpoint.")
        real("judge", "temperature", self.temperature, low=0.0)
        real("judge", "timeout", self.timeout, low=1e-3)
        whole("judge", "max_tokens", self.max_tokens, low=1)
        whole("judge", "retries", self.retries, low=0)

    def settings(self) -> dict[str, Any]:
        """What a review depends on besides what the judge was shown: vdd.reviews.SETTINGS."""
        return {"judge": self.model, "temperature": self.temperature, "max_tokens": self.max_tokens}


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        made: reviews that came in it.
        missing: question_id → why there is no review.
        cut: bytes of a half-written last line that were taken off the file.
    """

    made: int = 0
    missing: dict[str, str] = field(default_factory=dict)
    cut: int = 0


class NoReview(Exception):
    """The judge gave none; the text says why."""


def connect(judge: Judge) -> OpenAI:
    """The client that asks `judge`; nothing is sent yet.

    OPENAI_API_KEY and the variables of an organisation and project are not read: an endpoint gets what was named.

    Raises:
        UserError: without the package `openai`, or where the key's variable is empty.
    """
    try:
        from openai import OpenAI
    except ImportError as error:
        raise UserError(
            "judge: the package openai is missing; install the extra: pip install 'visual-debias-decoding[judge]'."
        ) from error
    key = "none" if judge.key_variable is None else os.environ.get(judge.key_variable, "").strip()
    if not key:
        raise UserError(
            f"judge: the environment variable {judge.key_variable} is empty; wanted the endpoint's key in it."
        )
    client = OpenAI(base_url=judge.url, api_key=key, timeout=judge.timeout, max_retries=judge.retries)
    client.organization = client.project = None
    return client


def ask(client: OpenAI, judge: Judge, task: Task) -> str:
    """The judge's words; not empty.

    Raises:
        NoReview: where none came, with the reason.
        UserError: where the endpoint refuses the key (401), or knows no such address or model (404).
    """
    import openai

    try:
        reply = client.chat.completions.create(
            model=judge.model,
            messages=[{"role": "system", "content": task.system}, {"role": "user", "content": task.prompt}],
            temperature=judge.temperature,
            max_tokens=judge.max_tokens,
        )
    except openai.AuthenticationError as error:
        told = "none was named" if judge.key_variable is None else f"that in {judge.key_variable} is not"
        raise UserError(f"judge: the endpoint says 401; wanted a key that it accepts, and {told}.") from error
    except openai.NotFoundError as error:
        raise UserError(
            f"judge: the endpoint says 404 ({_short(error)}); wanted its base URL, without /chat/completions, and a "
            f"model that it serves. Is it {judge.model!r}?"
        ) from error
    except openai.APITimeoutError as error:
        raise NoReview(f"no answer within {judge.timeout:g} s") from error
    except openai.APIStatusError as error:
        raise NoReview(f"status {error.status_code} ({_short(error)})") from error
    except openai.APIConnectionError as error:
        raise NoReview(f"the connection failed ({_short(error.__cause__ or error)})") from error
    except (openai.OpenAIError, ValueError) as error:
        raise NoReview(f"the reply cannot be read ({_short(error)})") from error
    return _words(reply)


def review(
    judge: Judge,
    tasks: Sequence[Task],
    path: str | os.PathLike[str],
    *,
    read: Callable[[str], Mapping[str, Any]],
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Ask for the reviews that `path` lacks, each appended as it comes; see vdd.reviews for the lines.

    Args:
        judge: whom to ask.
        tasks: all of them, those reviewed before included.
        path: in an existing folder; made where it is missing. `path`.lock beside it keeps other runs off.
        read: the judge's words → what else its line says.
        progress: (done, of all), first for what the file had, then after each question.

    Raises:
        UserError: where the file holds other reviews or another run writes into it, and as `connect` and `ask` do;
            what had come stays.
    """
    with alone(path):
        stored = read_reviews(path)
        done = match_reviews(stored.rows, tasks, settings=judge.settings())
        left = [task for task in tasks if str(task.question_id) not in done]
        outcome = Outcome(cut=stored.size - stored.whole)
        if progress is not None:
            progress(len(done), len(tasks))
        if not left:
            return outcome
        in_a_row = 0
        with connect(judge) as client, opened(path, stored) as file:
            for number, task in enumerate(left, start=len(done) + 1):
                key = str(task.question_id)
                if in_a_row == GIVE_UP_AFTER:
                    outcome.missing[key] = f"not asked, after {GIVE_UP_AFTER} failures in a row"
                    continue
                try:
                    words = ask(client, judge, task)
                except NoReview as reason:
                    outcome.missing[key] = str(reason)
                    in_a_row += 1
                else:
                    append(file, task, {"content": words, **read(words), **judge.settings()})
                    outcome.made += 1
                    in_a_row = 0
                if progress is not None:
                    progress(number, len(tasks))
    return outcome


def _words(reply: object) -> str:
    """The text of a reply: of whatever came, since the client does not check what it is given."""
    choices = getattr(reply, "choices", None)
    if not isinstance(choices, list) or not choices:
        raise NoReview(f"a reply without a choice ({_short(reply)})")
    words = getattr(getattr(choices[0], "message", None), "content", None)
    if not isinstance(words, str) or not words.strip():
        raise NoReview(f"an empty choice (finish_reason {getattr(choices[0], 'finish_reason', None)!r})")
    return words


def _short(value: object) -> str:
    shown = " ".join(str(value).split()) or type(value).__name__
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 1]}…"
