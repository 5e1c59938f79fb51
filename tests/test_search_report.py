"""The files, tables and pictures of a search and an advice hold the figures that were computed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tests.test_advise import world
from tests.test_search import stored_of
from vdd.advise import advise
from vdd.search import candidates, chances, choose, configurations, on_dev, rightness
from vdd.search_report import advice_table, choice_table, write_advice, write_search


@pytest.fixture
def searched(tmp_path):
    stored = stored_of(16, 2)
    legs = candidates(("none", "both"), (0.5, 2.0), (0.1, 0.0), configurations())
    found = chances(stored, legs)
    choices = [choose(stored.questions, legs, found, share=0.4, seed=seed) for seed in range(3)]
    table = write_search(tmp_path, stored.questions, legs, found, choices, share=0.4, undecided=0.02)
    return stored, legs, found, choices, table, tmp_path


def test_search_json_holds_every_configuration_with_its_dev_and_test_accuracy(searched):
    stored, legs, found, choices, _, out = searched
    record = json.loads((out / "search.json").read_text())
    dev = on_dev(stored.questions, 0.4, seed=0)
    right = rightness(stored.questions, found)
    assert [row["name"] for row in record["configurations"]] == [leg.name for leg in legs]
    for row, own in zip(record["configurations"], right, strict=True):
        assert row["dev_accuracy"] == pytest.approx(np.mean([v for v, d in zip(own, dev, strict=True) if d]))
        assert row["test_accuracy"] == pytest.approx(np.mean([v for v, d in zip(own, dev, strict=True) if not d]))
    assert [choice["chosen"] for choice in record["choices"]] == [choice.leg.name for choice in choices]
    assert record["undecided"] == 0.02


def test_the_table_begins_with_the_best_on_dev(searched):
    *_, choices, (_, columns, rows), out = searched
    assert rows[0][0] == choices[0].leg.name
    assert columns[0] == "configuration"
    dev = [float(row[1]) for row in rows]
    assert dev == sorted(dev, reverse=True)
    assert f"| {rows[0][0]} |" in (out / "table.md").read_text()


def test_the_choices_are_a_table_by_seed(searched):
    *_, choices, _, _ = searched
    _, _, rows = choice_table(choices)
    assert [row[0] for row in rows] == ["0", "1", "2"]
    for row, choice in zip(rows, choices, strict=True):
        assert row[1] == choice.leg.name
        assert row[3] == f"{100 * choice.test['accuracy']:.1f}"


def test_pictures_are_drawn(searched):
    pytest.importorskip("matplotlib", reason="charts are drawn by matplotlib")
    *_, out = searched
    for name in ("alpha-beta.png", "sampling.png"):
        with Image.open(out / name) as picture:
            assert picture.width > 400


def test_the_advice_names_every_kind_with_its_gain_and_cost(tmp_path):
    advice = advise(*world(prior=3.0, bias=0.0))
    costs = {"greedy": (2.0, 0.01), "posthoc-none": (1.5, 0.005), "vdd-none": (3.0, 0.015)}
    _, columns, rows = advice_table(advice, costs)
    assert columns[-2:] == ("fwd", "ms")
    assert [row[0].removesuffix(" ←") for row in rows] == ["nothing", "bias", "post-hoc", "vdd"]
    assert [row[0] for row in rows if row[0].endswith("←")] == ["post-hoc ←"]
    assert [row[-2] for row in rows] == ["2.00", "2.00", "1.50", "3.00"]
    write_advice(tmp_path / "advice.md", advice, costs, 0.0)
    assert advice.in_words() in (tmp_path / "advice.md").read_text()
