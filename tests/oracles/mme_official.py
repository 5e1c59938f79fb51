"""MME's scoring as its calculation.py does it, and LLaVA's way to its results folder, written from the rules alone.

A results file is tab-separated: image, question, ground truth, answer; each two lines in a row are one image's. An
answer is its yes or no within the first four lower-cased characters, yes before no. A subtask: 100·acc + 100·acc+.
"""

from __future__ import annotations

PERCEPTION = ["existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"]
COGNITION = ["commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"]


def said(answer: str) -> str:
    answer = answer.lower()
    if answer == "yes" or answer == "no":
        return answer
    first = "".join(answer[i] for i in range(min(4, len(answer))))
    for label in ("yes", "no"):
        if first.find(label) != -1:
            return label
    return "other"


def subtask_figures(lines: list[str]) -> dict[str, float]:
    right, both, other = 0, 0, 0
    images = [lines[i : i + 2] for i in range(0, len(lines), 2)]
    for pair in images:
        hits = 0
        for line in pair:
            _, _, truth, answer = line.split("\t", 3)
            verdict = said(answer)
            other += verdict == "other"
            hits += verdict == truth.lower()
        right += hits
        both += hits == 2
    acc, acc_plus = right / len(lines), both / len(images)
    return {"score": acc * 100 + acc_plus * 100, "acc": acc, "acc_plus": acc_plus, "other": other}


def totals(scores: dict[str, float]) -> dict[str, float]:
    """The sums over the subtasks that are there."""
    found = {}
    for name, members in (("perception", PERCEPTION), ("cognition", COGNITION), ("hallucination", PERCEPTION[:4])):
        total = 0.0
        for member in members:
            total += scores.get(member, 0.0)
        found[name] = total
    return found


def results_line(row: dict[str, str], truths: dict[tuple[str, str, str], str]) -> tuple[str, str]:
    """(subtask, line) that LLaVA's script makes of one answer; `truths` by subtask, text file and question."""
    subtask, name = row["question_id"].split("/")[0], row["question_id"].split("/")[-1].split(".")[0] + ".txt"
    prompt = row["prompt"]
    if "Answer the question using a single word or phrase." in prompt:
        prompt = prompt.replace("Answer the question using a single word or phrase.", "").strip()
    if "Please answer yes or no." not in prompt:
        question = prompt + " Please answer yes or no."
        prompt = question if (subtask, name, question) in truths else prompt + "  Please answer yes or no."
    return subtask, "\t".join([name, prompt, truths[subtask, name, prompt], row["text"]])
