"""LLaVA-Bench (in the Wild): its files, and what a judge is shown of them.

    questions.jsonl       question_id, image, text, category: conv, detail or complex
    context.jsonl         image, caption: what people wrote about the image, a text or a list of texts
    answers_gpt4.jsonl    question_id, text: the reference answer
    rule.json             "llava_bench_conv" and so on: {"role", "prompt"}; LLaVA keeps it in llava/eval/table/

Source of the layout and of the system message: LLaVA's eval_gpt_review_bench.py (arXiv:2304.08485).
Knows: files. Does not know: HTTP, scores.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vdd._check import UserError
from vdd.data import load_answers, load_questions, match_answers, read_records
from vdd.records import Question
from vdd.reviews import Row, Task, match_reviews, read_reviews

CATEGORIES = ("conv", "detail", "complex")

SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."
"""The judge's system message, LLaVA's own."""

TEMPERATURE = 0.2
MAX_TOKENS = 1024
"""How LLaVA's script asks its judge."""

_PREFIX = "llava_bench_"
_SHA_DIGITS = 12


@dataclass(frozen=True)
class Item:
    """One question, and what the judge is told besides the answer.

    Attributes:
        question: its label is the reference answer.
        category: of CATEGORIES.
        context: what people wrote about the image.
        role, rule: how the two who answer are called, and what is asked of the judge.
    """

    question: Question
    category: str
    context: str
    role: str
    rule: str


@dataclass(frozen=True)
class Review:
    """What a file holds for one question.

    Attributes:
        content: the judge's words; None where the file has none.
        pair: the points of the reference and of the model's answer as the file has them; None where it has none.
    """

    content: str | None
    pair: tuple[float, float] | None


def load_bench(folder: str | os.PathLike[str]) -> list[Item]:
    """The questions of a folder with the four files, in the file's order.

    Raises:
        UserError: if a file is missing or broken; on another category; if an image has no context, a category no rule,
            or a question no reference answer.
    """
    base = Path(folder)
    if not base.is_dir():
        raise UserError(f"{folder}: no such folder; wanted that of LLaVA-Bench, with questions.jsonl in it.")
    questions = load_questions(base / "questions.jsonl")
    categories = [_category(record, where) for where, record in read_records(base / "questions.jsonl")]
    contexts = {record.get("image"): _caption(record, where) for where, record in read_records(base / "context.jsonl")}
    rules = _rules(base / "rule.json")
    # By id alone: the file repeats the prompt that GPT-4 was given, which need not hold the question's own text.
    given = [replace(answer, question=None) for answer in load_answers(base / "answers_gpt4.jsonl")]
    items = []
    for question, category, reference in zip(questions, categories, match_answers(questions, given), strict=True):
        if question.image not in contexts:
            raise UserError(f"{base / 'context.jsonl'}: no line for {question.image!r}; wanted one for each image.")
        if reference is None:
            raise UserError(
                f"{base / 'answers_gpt4.jsonl'}: question {question.question_id!r} has no answer, but an error."
            )
        asked = replace(question, label=reference)
        items.append(Item(asked, category, contexts[question.image], *rules[category]))
    return items


def judge_prompt(item: Item, answer: str) -> str:
    """What the judge is shown: the context, the question, the reference answer as the first and `answer` as the second.

    >>> item = Item(Question(0, "a.jpg", "What?", "A cat."), "conv", "A cat sleeps.", "Assistant", "Rate them.")
    >>> print(judge_prompt(item, "A dog.").replace("\\n\\n", " / ").replace("\\n", " "))
    [Context] A cat sleeps. / [Question] What? / [Assistant 1] A cat. / [End of Assistant 1] / [Assistant 2] A dog. / \
[End of Assistant 2] / [System] Rate them. /\x20
    """
    blocks = [f"[Context]\n{item.context}", f"[Question]\n{item.question.text}"]
    for number, text in enumerate((item.question.label, answer), start=1):
        blocks += [f"[{item.role} {number}]\n{text}", f"[End of {item.role} {number}]"]
    return "".join(f"{block}\n\n" for block in [*blocks, f"[System]\n{item.rule}"])


def tasks_for(items: Sequence[Item], texts: Sequence[str | None]) -> list[Task]:
    """What to ask the judge: one review of each answer.

    Args:
        items: the questions.
        texts: the model's answers in the same order; None, where there is none, is judged as an empty one.

    Raises:
        UserError: on unequal lengths.
    """
    if len(items) != len(texts):
        raise UserError(f"tasks_for: {len(texts)} texts for {len(items)} questions; wanted one for each.")
    return [
        Task(item.question.question_id, {"category": _PREFIX + item.category}, SYSTEM, judge_prompt(item, text or ""))
        for item, text in zip(items, texts, strict=True)
    ]


def prompts_sha(items: Sequence[Item]) -> str:
    """12 hex digits that stand for all that the judge is shown besides the answers: two scores need the same."""
    lines = sorted(json.dumps([str(item.question.question_id), judge_prompt(item, "")]) for item in items)
    return hashlib.sha256("\n".join([SYSTEM, *lines]).encode("ascii")).hexdigest()[:_SHA_DIGITS]


def load_reviews(path: str | os.PathLike[str], tasks: Sequence[Task]) -> tuple[list[Review | None], list[Row]]:
    """The reviews of a file, ours or that of LLaVA's script, in the order of the tasks; None where there is none.

    Returns:
        and the rows as they stand there, for `vdd.reviews.judge_parts`.

    Raises:
        UserError: as `read_reviews` and `match_reviews`, or if a row holds neither the judge's words nor its points.
    """
    rows = read_reviews(path).rows
    found = match_reviews(rows, tasks)
    reviews = {str(row["question_id"]): _review(row, where) for where, row in rows}
    return [reviews.get(str(task.question_id)) for task in tasks], list(found.values())


def _review(row: Mapping[str, Any], where: str) -> Review:
    content, points = row.get("content"), row.get("tuple")
    if not isinstance(content, (str, type(None))):
        raise UserError(f"{where}: content is {content!r:.80}; wanted the judge's words.")
    if points is None and content is None:
        raise UserError(f"{where}: neither content nor tuple in it; wanted the judge's words or its two points.")
    if points is None:
        return Review(content, None)
    if not isinstance(points, list) or len(points) != 2 or not all(map(_is_number, points)):
        raise UserError(f"{where}: tuple is {points!r:.80}; wanted two numbers.")
    return Review(content, (float(points[0]), float(points[1])))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _category(record: Mapping[str, Any], where: str) -> str:
    category = record.get("category")
    if category not in CATEGORIES:
        raise UserError(f"{where}: category is {category!r:.80}; wanted one of {', '.join(CATEGORIES)}.")
    return str(category)


def _caption(record: Mapping[str, Any], where: str) -> str:
    caption = record.get("caption")
    texts = [caption] if isinstance(caption, str) else caption
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where}: caption is {caption!r:.80}; wanted a text or a list of texts.")
    return "\n".join(texts)


def _rules(path: Path) -> dict[str, tuple[str, str]]:
    """category → (role, prompt)."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; wanted LLaVA's llava/eval/table/rule.json there, which is not among the set's own."
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); wanted LLaVA's rule.json.") from error
    rules = {}
    for category in CATEGORIES:
        rule = table.get(_PREFIX + category) if isinstance(table, dict) else None
        role, prompt = (rule.get("role"), rule.get("prompt")) if isinstance(rule, dict) else (None, None)
        if not isinstance(role, str) or not isinstance(prompt, str):
            raise UserError(f"{path}: no role and prompt under {_PREFIX + category!r}; wanted LLaVA's rule.json.")
        rules[category] = (role, prompt)
    return rules
