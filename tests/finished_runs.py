"""Folders of finished runs, written by hand: random answers, some of them missing, some without probabilities."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

from vdd.config import DebiasConfig, Leg, SamplingConfig, to_json
from vdd.records import Answer
from vdd.report import evaluate

HOT = SamplingConfig(temperature=1.0)
LEGS = [
    Leg("greedy"),
    Leg("vdd-none", DebiasConfig()),
    Leg("posthoc-none", post_hoc="none"),
    Leg("vdd-none+posthoc-none", DebiasConfig(), post_hoc="none"),
    Leg("bias", bias=-0.5),
    Leg("prompt-alone", prompt="{question} Say yes."),
    Leg("T=1", None, HOT),
    Leg("T=1.2", None, HOT, repeat=1),
]


def write_run(folder, *, legs=LEGS, n=60, images=20, seed=0, model="made up", unreadable=(), bare=("prompt-alone",)):
    """A finished run's folder; `unreadable` questions have no answer, the legs in `bare` no probabilities."""
    chance = random.Random(seed)
    (folder / "answers").mkdir(parents=True)
    description = {"vdd": "0.1.0", "model": model, "images": str(folder.parent / "data" / "images"), "seed": 3}
    description |= {"dtype": "torch.float32", "quantized": False, "device": "cpu", "prompt": "{question}"}
    (folder / "run.json").write_text(json.dumps(description | {"legs": [to_json(leg) for leg in legs]}))
    asked = [
        {
            "question_id": number,
            "image": f"{number % images}.png",
            "text": f"Is there a fox {number}?",
            "label": ("yes", "no")[number % 2],
        }
        for number in range(n)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in asked))
    for leg in legs:
        lines = []
        for question in asked:
            truth = 2.0 if question["label"] == "yes" else -1.0
            p = 1 / (1 + math.exp(-chance.gauss(truth, 1.5)))
            text = ("yes" if chance.random() < p else "no") if leg.sampling.temperature else ("no", "yes")[p > 0.5]
            answer = Answer(
                question["question_id"],
                question["text"],
                question["image"],
                text,
                probabilities={"yes": 0.9 * p, "no": 0.9 * (1 - p)},
                margin=math.log(p / (1 - p)),
            )
            if leg.post_hoc:
                answer = replace(answer, debiased={"none": {"yes": p, "no": 1 - p}})
            if leg.name in bare:
                answer = replace(answer, probabilities=None, margin=None)
            if question["question_id"] in unreadable:
                answer = Answer(*(question[key] for key in ("question_id", "text", "image")), "", error="no such file")
            lines.append(answer.to_json() + "\n")
        (folder / "answers" / f"{leg.name}.jsonl").write_text("".join(lines))
    costs = [
        {"batch": 0, "part": leg.name, "seconds": 0.5 + place / 8, "forwards": n * (1 + place % 3)}
        for place, leg in enumerate(legs)
    ]
    (folder / "timings.jsonl").write_text("".join(json.dumps(cost) + "\n" for cost in costs))
    return folder


def write_runs(root):
    """Two scored runs, the second with unreadable images and with other labels."""
    found = [write_run(root / "random"), write_run(root / "popular", seed=1, unreadable=(3, 7))]
    for folder in found:
        evaluate(folder, names=("pope", "made", folder.name), seed=3)
    lines = [json.loads(line) | {"label": "no"} for line in (found[1] / "questions.jsonl").read_text().splitlines()[9:]]
    (root / "repope.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    evaluate(found[1], names=("repope", "made", "popular"), seed=3, relabelled=root / "repope.json")
    return found


def answers_of(folder, leg) -> list[dict]:
    """The lines of a leg's answer file."""
    return [json.loads(line) for line in (folder / "answers" / f"{leg}.jsonl").read_text().splitlines()]


def labels_of(folder) -> list[str]:
    """The right answers in order."""
    return [json.loads(line)["label"] for line in (folder / "questions.jsonl").read_text().splitlines()]


def chance_of(answer) -> float | None:
    """The probability that an answer gave to what it says, counted from its record alone."""
    shares = answer.get("debiased", {}).get("none") or answer.get("probabilities")
    return shares[answer["text"]] / sum(shares.values()) if shares and answer["text"] else None
