"""Threads that share one model: each answer as if it were alone."""

from __future__ import annotations

import threading

import pytest
import torch

import vdd
from tests.recomputed import QUESTIONS, STRONG, Case, built


def together(*jobs) -> list:
    """What the jobs return, each run in a thread of its own."""
    results = [None] * len(jobs)

    def run(number, job):
        results[number] = job()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


@pytest.mark.parametrize("family", ["LLaVA-1.5", "Gemma3"])
def test_threads_with_a_processor_each_answer_as_one_after_another(family):
    cases = [Case(family, [question], first=n) for n, question in enumerate(QUESTIONS)]

    def answers(case):
        return lambda: [
            case.new(case.plain([vdd.VDDLogitsProcessor(case.model, case.processor, **STRONG)])) for _ in range(8)
        ]

    alone = [answers(case)() for case in cases]
    assert together(*[answers(case) for case in cases]) == alone
    assert alone[0][0] == cases[0].new(cases[0].plain([cases[0].oracle()]))


@pytest.mark.parametrize("family", ["LLaVA-1.5", "Qwen2.5-VL"])
def test_threads_inside_one_patch_answer_as_one_after_another(family):
    cases = [Case(family, [question], first=n) for n, question in enumerate(QUESTIONS)]
    model, processor = built(family)

    def answers(case):
        return lambda: [case.new(model.generate(**case.call({}))) for _ in range(8)]

    text = cases[0].text_only()
    with vdd.patch(model, processor, **STRONG):
        alone = [answers(case)() for case in cases]
        plain = model.generate(**text)
        *got, texts = together(*map(answers, cases), lambda: [model.generate(**text) for _ in range(8)])
    assert got == alone
    assert all(torch.equal(one, plain) for one in texts)
    assert alone[0][0] == cases[0].new(cases[0].plain([cases[0].oracle()]))


class Pausing:
    """A streamer that lets another thread try its call in the middle of this one."""

    def __init__(self, other: threading.Event) -> None:
        self.other, self.overtaken, self.tokens = other, None, 0

    def put(self, value) -> None:
        self.tokens += 1
        if self.tokens == 3:
            self.overtaken = self.other.wait(0.5)

    def end(self) -> None:
        pass


@pytest.mark.parametrize("between", ["text", "image"])
def test_a_family_with_state_on_the_module_finishes_one_call_before_the_next(between):
    case = Case("Qwen2.5-VL", QUESTIONS[:1])
    other = Case("Qwen2.5-VL", QUESTIONS[1:], first=7)
    want = case.new(case.plain([case.oracle()]))
    second = case.text_only() if between == "text" else other.call({})
    done, running = threading.Event(), threading.Event()
    streamer = Pausing(done)
    streamer.put, put = (lambda value: (running.set(), put(value))), streamer.put

    def answer():
        return case.new(case.model.generate(**case.call({"streamer": streamer})))

    def meanwhile():
        assert running.wait(30)
        out = case.model.generate(**second)
        done.set()
        return out

    with vdd.patch(case.model, case.processor, **STRONG):
        got, out = together(answer, meanwhile)
        assert torch.equal(out, case.model.generate(**second))
    assert streamer.overtaken is False
    assert got == want
