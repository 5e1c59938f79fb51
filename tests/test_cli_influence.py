"""`vdd influence value` and `misaligned`, as a user gives them, and what they refuse."""

from __future__ import annotations

import csv
import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.influence_pairs_files import write_pairs
from vdd._check import UserError
from vdd.cli import app
from vdd.influence import NotSolvedError
from vdd.plots import Captioned, contact_sheet

COUNT, SHUFFLED = 30, 8
QUICK = ("--damping", 1000, "--partitions", 2, "--batch-size", 16, "--tolerance", 1e-3)


def invoke(*args):
    return CliRunner().invoke(app, list(map(str, args)))


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What both commands are told of pairs; one image is cut short, one is missing."""
    folder = tmp_path_factory.mktemp("pairs")
    pairs = write_pairs(folder / "train", count=COUNT, shuffled=SHUFFLED)
    clean = write_pairs(folder / "val", "dev", count=10)
    cut = pairs.parent / "images" / "028.png"
    cut.write_bytes(cut.read_bytes()[:200])
    (pairs.parent / "images" / "029.png").unlink()
    return (pairs, "--images", pairs.parent / "images", "--val", clean, "--val-images", clean.parent / "images")


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    """A run's folder, and what was said."""
    out = tmp_path_factory.mktemp("run") / "out"
    result = invoke("influence", "value", *files, "--out", out, *QUICK, "--top", 3)
    assert result.exit_code == 0, result.exception
    return out, result


def test_every_pair_is_ranked_with_figures_beside(run, files):
    out, result = run
    found = rows(out / "scores.csv")
    assert list(found[0]) == [
        "rank", "id", "image", "caption", "delta_loss_on_removal", "standard_error", "pos", "neg", "clip_score",
        "pair_loss", "config",
    ]  # fmt: skip
    assert len(found) == COUNT - 2
    totals = [float(row["delta_loss_on_removal"]) for row in found]
    assert totals == sorted(totals)
    assert totals[0] == pytest.approx(float(found[0]["pos"]) + float(found[0]["neg"]), rel=1e-4)
    record = json.loads((out / "run.json").read_text())
    assert {row["config"] for row in found} == {record["config"]}
    assert record["influence"]["batch_size"] == 16
    assert record["pairs"] == COUNT - 2
    assert record["gradient_norm"] > 0
    assert record["solve"]["residual"] <= 1e-3
    assert record["solve"]["smallest_curvature"] > 0
    skipped = {row["id"]: row["reason"] for row in rows(out / "skipped.csv")}
    assert "no such file" in skipped["29"]
    assert "028.png" in skipped["28"]
    assert f"{found[0]['id']}: " in result.stdout
    assert "2 pairs could not be used" in result.stdout
    for name in ("harmful", "valuable"):
        with Image.open(out / f"{name}.png") as sheet:
            assert sheet.width > 300
    assert len(result.stderr.split("warning: ")) == 2
    assert "the gradient's norm is" in result.stderr


def test_a_second_run_computes_nothing_and_rebuilds_the_table(run, files):
    out, _ = run
    before = (out / "scores.csv").read_bytes()
    (out / "scores.csv").unlink()
    (out / "harmful.png").unlink()
    result = invoke("influence", "value", *files, "--out", out, *QUICK, "--top", 2)
    assert result.exit_code == 0, result.exception
    assert "nothing was computed anew" in result.stdout
    assert (out / "scores.csv").read_bytes() == before
    assert (out / "harmful.png").exists()


def test_with_refit_the_parameters_are_trained_first_and_that_is_kept(files, tmp_path, monkeypatch):
    out = tmp_path / "out"
    asked = ("influence", "value", *files, "--out", out, "--limit", 12, "--refit")
    result = invoke(*asked)
    assert result.exit_code == 0, result.exception
    assert "trained to a gradient norm of" in result.stdout
    assert "warning" not in result.stderr
    record = json.loads((out / "run.json").read_text())
    assert record["influence"]["refit"] is True
    assert record["refit"]["gradient_norm"] < 1e-3 * record["refit"]["gradient_norm_before"]
    assert record["damping"] == record["refit"]["damping"]
    assert record["gradient_ratio"] < 1e-4
    before = (out / "scores.csv").read_bytes()
    (out / "parts" / "direction.safetensors").unlink()  # as if it had been killed after training
    monkeypatch.setattr("vdd.influence.refit.minimise", lambda *_, **__: pytest.fail("trained again"))
    assert invoke(*asked).exit_code == 0
    assert (out / "scores.csv").read_bytes() == before


def test_another_run_in_the_folder_is_refused_with_what_differs(run, files):
    out, _ = run
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}
    result = invoke("influence", "misaligned", *files, "--out", out, *QUICK, "--seed", 3, "--method", "zeta")
    assert isinstance(result.exception, UserError)
    assert "method 'exact', now 'zeta', seed 0, now 3" in str(result.exception)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}


def test_suspects_are_ranked_and_every_detector_is_told(run, files):
    out, _ = run
    result = invoke("influence", "misaligned", *files, "--out", out, *QUICK, "--top", 3)
    assert result.exit_code == 0, result.exception
    found = rows(out / "suspects.csv")
    assert [row["rank_by_influence"] for row in found] == [str(number) for number in range(1, COUNT - 1)]
    by_loss = sorted(found, key=lambda row: -float(row["pair_loss"]))
    assert [row["rank_by_pair_loss"] for row in by_loss] == [str(number) for number in range(1, COUNT - 1)]
    by_clip = sorted(found, key=lambda row: float(row["clip_score"]))
    assert [row["rank_by_clip_score"] for row in by_clip] == [str(number) for number in range(1, COUNT - 1)]
    assert sum(row["shuffled"] == "True" for row in found) == SHUFFLED
    told = json.loads((out / "detection.json").read_text())
    names = [one["detector"] for one in told["detectors"]]
    assert names == ["influence", "CLIP score", "pair loss", "gradient product", "chance"]
    clip = told["detectors"][1]
    top = [row["shuffled"] == "True" for row in by_clip[:SHUFFLED]]
    assert clip["precision"][str(SHUFFLED)] == pytest.approx(sum(top) / SHUFFLED)
    assert clip["auroc"] > 0.9
    assert told["in_words"] in result.stdout.replace("\n", " ")
    assert (out / "suspects.png").exists()


def test_all_is_solved_by_default_and_without_a_column_of_truth_there_are_ranks_alone(files, tmp_path):
    pairs = tmp_path / "pairs.csv"
    records = [json.loads(line) for line in files[0].read_text().splitlines()]
    pairs.write_text("image,caption\n" + "".join(f"{one['image']},{one['caption']}\n" for one in records))
    result = invoke("influence", "misaligned", pairs, *files[1:], "--out", tmp_path / "out")
    assert result.exit_code == 0, result.exception
    assert "no column `shuffled`" in result.stdout
    assert not (tmp_path / "out" / "detection.json").exists()
    assert {row["shuffled"] for row in rows(tmp_path / "out" / "suspects.csv")} == {""}


def test_a_solve_that_failed_writes_no_scores_and_may_be_asked_otherwise(files, tmp_path):
    out = tmp_path / "out"
    asked = ("influence", "value", *files, "--out", out, *QUICK, "--limit", 12, "--damping", 1, "--max-products", 1)
    result = invoke(*asked)
    assert isinstance(result.exception, NotSolvedError)
    assert "--allow-unsolved" in str(result.exception)
    assert not (out / "scores.csv").exists()
    again = invoke(*asked, "--allow-unsolved")
    assert again.exit_code == 0, again.exception
    assert "the solve did not converge" in again.stdout
    assert len(rows(out / "scores.csv")) == 12
    assert json.loads((out / "run.json").read_text())["influence"]["allow_unsolved"] is True


def test_parquet_holds_the_same_table(run, files):
    parquet = pytest.importorskip("pyarrow.parquet")
    out, _ = run
    result = invoke("influence", "value", *files, "--out", out, *QUICK, "--format", "parquet")
    assert result.exit_code == 0, result.exception
    stored = parquet.read_table(out / "scores.parquet").to_pylist()
    plain = rows(out / "scores.csv")
    assert [str(row["id"]) for row in stored] == [row["id"] for row in plain]
    assert [row["delta_loss_on_removal"] for row in stored] == [float(row["delta_loss_on_removal"]) for row in plain]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--method", "best"), "unknown method 'best'; known: exact, zeta, positive_only"),
        (("--curvature", "fisher"), "unknown curvature 'fisher'"),
        (("--format", "xls"), "unknown format 'xls'"),
        (("--damping", -1), "damping is -1"),
        (("--partitions", 0), "partitions is 0"),
        (("--curvature-pairs", 99), "curvature_pairs is 99; wanted a whole number from 2 to 29"),
        (("--limit", 1), "limit is 1"),
        (("--top", 0), "top is 0"),
        (("--dtype", "float16"), "unknown dtype 'float16'"),
        (("--device", "auto"), "device is 'auto'; wanted one device"),
        (("--device", "abacus"), "device is 'abacus'"),
        (("--params", "no_such_name"), "no parameter has such a name"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(files, tmp_path, more, message):
    result = invoke("influence", "value", *files, "--out", tmp_path / "out", *more)
    assert isinstance(result.exception, UserError), result.output
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_one_pair_has_no_negatives(files, tmp_path):
    (tmp_path / "one.jsonl").write_text(files[0].read_text().splitlines()[0] + "\n")
    result = invoke("influence", "value", tmp_path / "one.jsonl", *files[1:], "--out", tmp_path / "out")
    assert "one.jsonl: 1 pair can be used; wanted two or more" in str(result.exception)
    few = (files[0], *files[1:4], tmp_path / "one.jsonl", "--val-images", files[2])
    result = invoke("influence", "value", *few, "--out", tmp_path / "out")
    assert "one.jsonl: 1 pair can be used" in str(result.exception)


def test_a_folder_that_is_no_run_is_left_alone(files, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    result = invoke("influence", "value", *files, "--out", tmp_path)
    assert "holds files that are no run of vdd" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_contact_sheet_shows_every_picture_whole(tmp_path):
    wide, tall = Image.new("RGB", (400, 100), "#ff0000"), Image.new("RGB", (20, 200), "#0000ff")
    cells = [Captioned(wide, "-1", "word " * 99), Captioned(tall, "+1", "ü"), Captioned(tall, "+2", "")]
    contact_sheet("three", cells, tmp_path / "sheets" / "s.png", columns=2)
    with Image.open(tmp_path / "sheets" / "s.png") as sheet:
        colors = {color: count for count, color in sheet.getcolors(1 << 20)}
    assert colors[(255, 0, 0)] == pytest.approx(220 * 55, rel=0.02)
    assert colors[(0, 0, 255)] == pytest.approx(2 * 220 * 22, rel=0.05)
    contact_sheet("no pair is harmful", [], tmp_path / "none.png")
    with Image.open(tmp_path / "none.png") as sheet:
        assert sheet.height < 120
