"""MMMU's answer reading as its eval_utils.py does it, written from the rules alone, without regular expressions.

Multiple choice: "(A)", else " A ", else an option's text in answers of more than five words; of several the one that
occurs last; of none a letter drawn by the generator handed in. Open: numbers at two decimals, or a text within a text.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

LEADS = ["could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result "]


def last_place(needle: str, hay: str) -> int:
    place = -1
    for i in range(len(hay) - len(needle) + 1):
        if hay[i : i + len(needle)] == needle:
            place = i
    return place


def read_letter(answer: str, options: list[str], rng: random.Random) -> tuple[str, bool]:
    """The letter, and whether it was drawn."""
    letters = ["ABCDEFGHIJ"[i] for i in range(len(options))]
    for sign in ",.!?;:'":
        while answer and answer[0] == sign:
            answer = answer[1:]
        while answer and answer[-1] == sign:
            answer = answer[:-1]
    answer = " " + answer + " "
    tries = [[(f"({a})", answer) for a in letters], [(f" {a} ", answer) for a in letters]]
    if len(answer.split()) > 5:
        tries.append([(option.lower(), answer.lower()) for option in options])
    for attempt in tries:
        best, best_place = None, -1
        for letter, (needle, hay) in zip(letters, attempt, strict=True):
            place = last_place(needle, hay)
            if place > best_place:
                best, best_place = letter, place
        if best is not None:
            return best, False
    return rng.choice(letters), True


def right_open(answer: str, truths: list[str]) -> bool:
    wanted = [form for truth in truths for form in forms_of(truth)]
    parts = key_parts(answer)
    for piece in parts + [number for part in parts for number in numbers_in(part)]:
        for form in forms_of(piece):
            for want in wanted:
                if isinstance(form, str) and isinstance(want, str) and want in form:
                    return True
                if isinstance(form, float) and isinstance(want, float) and form == want:
                    return True
    return False


def forms_of(text: str) -> list[float | str]:
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
    return [" " + text, text + " "] if len(text) == 1 else [text]


def key_parts(answer: str) -> list[str]:
    answer = answer.strip().strip(".").lower()
    found = []
    lines = answer.split("\n")
    for i, line in enumerate(lines):
        shortest = None
        for lead in [*LEADS, "="] if i == len(lines) - 1 else LEADS:
            if lead in line:
                tail = line.split(lead)[-1].strip()
                if not shortest or len(tail) < len(shortest):
                    shortest = tail
        if shortest and shortest not in list(":,.!?;'"):
            found.append(shortest)
    return found if found else [answer]


def numbers_in(text: str) -> list[str]:
    return [number for ends in (with_commas, scientific, simple) for number in scan(text, ends)]


def scan(text: str, ends: Callable[[str, int], Iterator[int]]) -> list[str]:
    """All matches from left to right, none overlapping; `ends` gives a match's ends from a place, preferred first."""
    found, i = [], 0
    while i < len(text):
        end = next((end for start in signed(text, i) for end in ends(text, start)), None)
        if end is not None:
            found.append(text[i:end])
        i = i + 1 if end is None else end
    return found


def signed(text: str, i: int) -> list[int]:
    return [i + 1, i] if text[i] == "-" else [i]


def digits(text: str, i: int) -> int:
    """How many digits stand from `i` on."""
    count = 0
    while i + count < len(text) and text[i + count].isdecimal():
        count += 1
    return count


def boundary(text: str, i: int) -> bool:
    def of_word(j: int) -> bool:
        return 0 <= j < len(text) and (text[j].isalnum() or text[j] == "_")

    return of_word(i - 1) != of_word(i)


def with_commas(text: str, i: int) -> Iterator[int]:
    """One to three digits and groups of three, a comma before each, as whole words."""
    if not boundary(text, i):
        return
    for head in range(min(3, digits(text, i)), 0, -1):
        ends, end = [], i + head
        while text[end : end + 1] == "," and digits(text, end + 1) >= 3:
            end += 4
            ends.append(end)
        yield from (end for end in reversed(ends) if boundary(text, end))


def scientific(text: str, i: int) -> Iterator[int]:
    """1e5, 1.5e-3."""
    for whole in range(digits(text, i), 0, -1):
        end = i + whole
        places = digits(text, end + 1) if text[end : end + 1] == "." else 0
        for stop in [end + 1 + p for p in range(places, 0, -1)] + [end]:
            if text[stop : stop + 1] == "e":
                for exponent in [stop + 2, stop + 1] if text[stop + 1 : stop + 2] in ("+", "-") else [stop + 1]:
                    if digits(text, exponent):
                        yield exponent + digits(text, exponent)


def simple(text: str, i: int) -> Iterator[int]:
    """1.5, .5, 15; none that goes on with an exponent, a comma or a digit."""
    ends = []
    for whole in range(digits(text, i), 0, -1):
        if text[i + whole : i + whole + 1] == ".":
            ends += [i + whole + 1 + places for places in range(digits(text, i + whole + 1), 0, -1)]
    if text[i : i + 1] == ".":
        ends += [i + 1 + places for places in range(digits(text, i + 1), 0, -1)]
    ends += [i + whole for whole in range(digits(text, i), 0, -1) if boundary(text, i + whole)]
    for end in ends:
        after = text[end : end + 1]
        power = end + 1 + (text[end + 1 : end + 2] in ("+", "-") and len(text) > end + 1)
        if not (after == "e" and digits(text, power)) and after != "," and not after.isdecimal():
            yield end
