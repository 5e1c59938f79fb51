"""Values of pairs in steps that a kill does not undo, ranked tables, and how well scores find shuffled pairs."""

from __future__ import annotations

import csv
import itertools
import json
import math
import warnings

import pytest
import torch

from vdd._check import UserError
from vdd.influence import ECIF, NotOptimalWarning, NotSolvedError, Towers, ValidationPairs, ranking
from vdd.influence.detection import Detector, detectors, in_words, ranks, suspicions
from vdd.influence.pairs import PairRecord
from vdd.influence.ranking import gradient_scores, opened, valued, write_table
from vdd.influence.store import Store, claim, config_of, settings_of, write_run

COUNT = 12
SETTINGS = {"partitions": 3, "batch_size": 5, "tolerance": 1e-8}


@pytest.fixture
def towers():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        heads = [torch.nn.Linear(4, 3, bias=False, dtype=torch.float64) for _ in range(2)]
    return Towers(*heads, log_scale=1.0)


@pytest.fixture
def pairs(towers):
    draw = torch.Generator().manual_seed(1)
    images, texts = (torch.randn(COUNT, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    return towers.pairs(images, texts, [f"n{number}" for number in range(COUNT)])


@pytest.fixture
def query():
    draw = torch.Generator().manual_seed(2)
    return ValidationPairs(*(torch.randn(6, 4, generator=draw, dtype=torch.float64) for _ in range(2)))


RECORDS = [PairRecord(f"n{number}", f"{number}.png", f'"{number}",\nfox', number < 3) for number in range(COUNT)]


@pytest.fixture(autouse=True)
def _away_from_the_optimum():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotOptimalWarning)
        yield


def test_values_are_the_scores_with_figures_beside(towers, pairs, query):
    ecif = ECIF(towers, pairs, **SETTINGS)
    found = valued(ecif, query, RECORDS, Store(None, ""))
    want = ecif.scores(query)
    for part in ("pos", "neg", "total", "standard_error"):
        torch.testing.assert_close(getattr(found.scores, part), getattr(want, part), rtol=1e-12, atol=1e-14)
    clip_score, pair_loss = ecif.point.pair_figures()
    assert torch.equal(found.clip_score, clip_score)
    assert torch.equal(found.pair_loss, pair_loss)
    ranked = found.scores.total[found.order]
    assert (ranked[1:] >= ranked[:-1]).all()
    assert found.report()["gradient_norm"] == ecif.optimality.gradient_norm
    json.dumps(found.report(), allow_nan=False)
    gradient = gradient_scores(ecif, query, Store(None, ""))
    along = ecif.scores_along(ecif.query_gradient(query), want.solve).total
    torch.testing.assert_close(gradient, along)


def test_a_killed_run_computes_nothing_twice(towers, pairs, query, tmp_path, monkeypatch):
    whole = valued(opened(towers, pairs, Store(None, ""), damping=None, **SETTINGS), query, RECORDS, Store(None, ""))
    store, told = Store(tmp_path, "same"), []
    for stop in itertools.count(1):

        def killed(done, total, part, stop=stop):
            told.append(part)
            if done == stop:
                raise KeyboardInterrupt

        ecif = opened(towers, pairs, store, damping=None, **SETTINGS)
        try:
            found = valued(ecif, query, RECORDS, store, progress=killed)
            break
        except KeyboardInterrupt:
            continue
    assert set(told) == {"optimum", "solve", "sweeps", "figures"}
    assert found.computed == []
    assert torch.equal(found.scores.total, whole.scores.total)
    assert torch.equal(found.scores.standard_error, whole.scores.standard_error)
    assert found.damping == whole.damping
    assert found.preparation.products == whole.preparation.products
    assert found.scores.solve.products == whole.scores.solve.products

    def refused(*args, **kwargs):
        raise AssertionError("computed again")

    ecif = opened(towers, pairs, store, damping=None, **SETTINGS)
    for name in ("solve", "sweep", "query_gradient"):
        monkeypatch.setattr(ecif, name, refused)
    assert valued(ecif, query, RECORDS, store).computed == []


def test_one_more_kill_in_each_place_leaves_the_parts_before_it(towers, pairs, query, tmp_path):
    store = Store(tmp_path, "same")
    first = valued(opened(towers, pairs, store, damping=None, **SETTINGS), query, RECORDS, store)
    assert first.computed == ["optimum", "direction", "sweep-000", "sweep-001", "sweep-002", "figures"]
    (tmp_path / "sweep-001.safetensors").write_bytes(b"half a file")
    again = valued(opened(towers, pairs, store, damping=None, **SETTINGS), query, RECORDS, store)
    assert again.computed == ["sweep-001"]
    assert torch.equal(again.scores.total, first.scores.total)
    other = Store(tmp_path, "other")
    ecif = opened(towers, pairs, other, damping=None, **SETTINGS)
    assert valued(ecif, query, RECORDS, other).computed == first.computed


def test_a_solve_that_failed_is_not_kept(towers, pairs, query, tmp_path):
    store = Store(tmp_path, "same")
    ecif = opened(towers, pairs, store, damping=1e-9, **SETTINGS | {"max_products": 1, "tolerance": 1e-12})
    with pytest.raises(NotSolvedError):
        valued(ecif, query, RECORDS, store)
    assert store.get("direction") is None


def test_away_from_the_optimum_each_start_warns(towers, pairs, query, tmp_path):
    store = Store(tmp_path, "same")
    for _ in range(2):
        ecif = opened(towers, pairs, store, damping=None, **SETTINGS)
        with pytest.warns(NotOptimalWarning, match="gradient's norm"):
            valued(ecif, query, RECORDS, store)


def test_records_of_other_pairs_are_refused(towers, pairs, query):
    with pytest.raises(UserError, match="11 records for 12 pairs"):
        valued(ECIF(towers, pairs, **SETTINGS), query, RECORDS[1:], Store(None, ""))


@pytest.mark.parametrize("block", [1, 5, 4096])
def test_a_table_reads_back_in_its_order(tmp_path, monkeypatch, block):
    monkeypatch.setattr(ranking, "BLOCK", block)
    values = [0.1, math.nan, -2 / 3, 1e-300]
    columns = {
        "id": [1, "b", 3, 4],
        "caption": ['a,"b"\n', "=ü", "", "d"],
        "value": values,
        "shuffled": [True, None, False, None],
    }
    order = torch.tensor([2, 0, 3, 1])
    write_table(tmp_path / "t.csv", columns, order)
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["id"] for row in rows] == ["3", "1", "4", "b"]
    assert [row["caption"] for row in rows] == ["", 'a,"b"\n', "d", "=ü"]
    assert [float(row["value"] or "nan") for row in rows][:3] == [-2 / 3, 0.1, 1e-300]
    assert rows[3]["value"] == rows[3]["shuffled"] == ""
    parquet = pytest.importorskip("pyarrow.parquet")
    write_table(tmp_path / "t.parquet", columns, order)
    table = parquet.read_table(tmp_path / "t.parquet")
    assert table.column("id").to_pylist() == ["3", "1", "4", "b"]
    assert table.column("value").to_pylist() == [-2 / 3, 0.1, 1e-300, None]
    assert table.column("shuffled").to_pylist() == [False, True, None, None]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", "t.parquet"]


def test_a_table_that_breaks_off_leaves_the_old_one(tmp_path):
    write_table(tmp_path / "t.csv", {"id": [1]}, torch.tensor([0]))
    before = (tmp_path / "t.csv").read_bytes()
    with pytest.raises(IndexError):
        write_table(tmp_path / "t.csv", {"id": [1]}, torch.tensor([0, 7]))
    assert (tmp_path / "t.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
    with pytest.raises(UserError, match="unknown format 'xls'; known: csv, parquet"):
        write_table(tmp_path / "t.xls", {"id": [1]}, torch.tensor([0]))


def test_detectors_count_as_by_hand():
    scores = torch.tensor([5.0, 4.0, 4.0, 4.0, 1.0, 9.0])
    shuffled = [True, True, False, False, False, None]
    found = detectors({"one": scores}, shuffled)
    assert found[0].name == "one"
    assert found[0].auroc == pytest.approx((3 + (0.5 + 0.5 + 1)) / 6)
    assert found[0].precision == {2: pytest.approx((1 + 1 / 3) / 2)}
    assert found[1] == Detector("chance", 0.5, {2: 0.4})


def test_precision_under_ties_is_the_mean_over_their_orders():
    scores, truths = [2.0, 1.0, 1.0, 1.0, 0.0] * 3, [True, False, True, False, True] * 3
    found = detectors({"one": torch.tensor(scores)}, truths)[0].precision[10]
    draw = torch.Generator().manual_seed(0)
    means = []
    for _ in range(2000):
        mixed = torch.randperm(len(scores), generator=draw).tolist()
        first = sorted(mixed, key=lambda place: -scores[place])[:10]
        means.append(sum(truths[place] for place in first) / 10)
    assert found == pytest.approx(sum(means) / len(means), abs=0.01)


def test_the_best_detector_is_named_and_what_that_does_not_say():
    truths = [True, True, False, False, False]
    good, bad = torch.tensor([5.0, 4, 1, 2, 0]), torch.tensor([0.0, 4, 1, 2, 5])
    told = in_words(detectors(suspicions(-bad, -good, bad, -bad), truths))
    assert told.startswith("best detector here: CLIP score, AUROC 1.000; influence reached 0.333")
    assert "not automatically a good detector" in told
    assert in_words(detectors(suspicions(-good, -bad, bad, -bad), truths)) == (
        "best detector here: influence, AUROC 1.000"
    )


def test_where_all_are_of_one_kind_there_is_nothing_to_find():
    found = detectors(suspicions(*[torch.arange(4.0)] * 4), [False] * 4)
    assert found[0].to_json() == {"detector": "influence", "auroc": None, "precision": {}}
    assert "nothing to tell apart" in in_words(found)
    with pytest.raises(UserError, match="no pair says whether it is shuffled"):
        detectors(suspicions(*[torch.arange(4.0)] * 4), [None] * 4)


def test_ranks_begin_at_the_most_suspicious():
    assert ranks(torch.tensor([0.0, 3.0, 3.0, 1.0])) == [4, 1, 2, 3]


def test_a_folder_is_one_runs(tmp_path):
    claim(tmp_path / "a" / "b", {"seed": 0, "pairs": "x"})
    claim(tmp_path / "a" / "b", {"seed": 0, "pairs": "x"})
    with pytest.raises(UserError, match=r"another run's results \(seed 0, now 1\)"):
        claim(tmp_path / "a" / "b", {"seed": 1, "pairs": "x"})
    claim(tmp_path / "a" / "b", {"seed": 1, "pairs": "x"}, free={"seed"})
    assert settings_of(tmp_path / "a" / "b") == {"seed": 0, "pairs": "x"}
    write_run(tmp_path / "a" / "b", {"seed": 1}, {"more": 2})
    record = json.loads((tmp_path / "a" / "b" / "run.json").read_text())
    assert record == {"influence": {"seed": 1}, "config": config_of({"seed": 1}), "more": 2}
    (tmp_path / "a" / "file").write_text("mine")
    with pytest.raises(UserError, match="holds files that are no run"):
        claim(tmp_path / "a", {"seed": 0})
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "run.json").write_text('{"model": "toy"}')
    with pytest.raises(UserError, match="something else than a run of `vdd influence`"):
        claim(tmp_path / "eval", {"seed": 0})
