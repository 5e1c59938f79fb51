"""Markdown and CSV say what the scores file says; the command writes them and the page, over no others' files."""

from __future__ import annotations

import csv
import json
import re

import pytest
from typer.testing import CliRunner

import vdd.cli
from tests.finished_runs import LEGS, write_run, write_runs
from tests.page_reader import Reader, table_of
from vdd._check import UserError
from vdd.cli import app
from vdd.page import page
from vdd.report import read_scores
from vdd.report_figures import run_reports
from vdd.report_files import csv_text, markdown
from vdd.report_tables import MOVES, legs_table


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def reports(folders):
    return run_reports(folders)


# ------------------------------------------------------------------------------------------------------ Markdown, CSV


def test_the_csv_holds_every_figure_in_full(folders, reports):
    rows = list(csv.DictReader(csv_text(reports).splitlines()))
    assert [row["labels"] for row in rows] == ["own"] * 14 + ["relabelled"] * 7
    files = [folders[0] / "scores.json", folders[1] / "scores.json", folders[1] / "scores-relabelled.json"]
    entries = [entry for file in files for entry in json.loads(file.read_text())]
    for row, entry in zip(rows, entries, strict=True):
        assert (row["leg"], row["signature"]) == (entry["leg"], entry["signature"])
        for name, value in entry.items():
            if name in row and name not in ("leg", "signature", "gain"):
                assert row[name] == ("" if value is None else str(value)), name
        gain = [row[name] for name in ("gain", "gain_low", "gain_high")]
        assert gain == ([""] * 3 if entry["gain"] is None else [str(value) for value in entry["gain"]])
        assert [row["accuracy_low"], row["accuracy_high"]] == [str(end) for end in entry["intervals"]["accuracy"]]
        moves = [row[move] for move in MOVES]
        assert moves == [str(entry["transitions"].get(move, "")) for move in MOVES]
        assert row["mcnemar_p"] == ("" if entry["mcnemar"] is None else str(entry["mcnemar"]["p"]))


def test_the_markdown_has_the_same_tables_as_the_page(reports):
    text = markdown(reports)
    table = legs_table(reports[0])
    want = [[name.replace("\u00a0", " ") for name in table.columns], *([*row] for row in table.rows)]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip().replace("\\", "") for cell in line[1:-1].split("|")] for line in lines]
    start = cells.index(want[0])
    assert cells[start : start + 2 + len(want) - 1] == [want[0], cells[start + 1], *want[1:]]
    shown = table_of(Reader(page(reports)), "draws")
    assert [[cell.replace("\u00a0", " ") for cell in row] for row in shown] == want
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 1 + 4 + 5
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


# -------------------------------------------------------------------------------------------------------- the command


def invoke(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_the_command_writes_three_files_and_writes_them_anew(folders, reports, tmp_path):
    out = tmp_path / "page.html"
    for _ in range(2):
        result = invoke(*folders, "--out", out)
        assert result.exit_code == 0, result.exception
        assert "pope made random, pope made popular" in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.csv", "page.html", "page.md"]
    assert out.read_text("utf-8") == page(reports)
    assert out.with_suffix(".md").read_text("utf-8") == markdown(reports)
    assert out.with_suffix(".csv").read_text("utf-8") == csv_text(reports)
    assert invoke(folders[0].parent, "--out", out, "--leg", "T=1").exit_code == 0


def test_files_that_are_no_reports_are_left_alone(folders, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    result = invoke(folders[0], "--out", tmp_path / "README.html")
    assert isinstance(result.exception, UserError)
    assert "README.md: is there already and is no report of vdd's" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


@pytest.mark.parametrize(
    ("out", "message"), [("report.md", "ends in .html"), ("nowhere/report.html", "its folder is not there")]
)
def test_a_name_that_cannot_be_the_pages_is_a_users_error(folders, tmp_path, out, message):
    result = invoke(folders[0], "--out", tmp_path / out)
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)


def test_an_unfinished_run_ends_with_exit_code_2_and_says_what_it_lacks(tmp_path, monkeypatch, capsys):
    folder = write_run(tmp_path / "run")
    (folder / "timings.jsonl").unlink()
    monkeypatch.setattr("sys.argv", ["vdd", "report", str(folder), "--out", str(tmp_path / "report.html")])
    with pytest.raises(SystemExit) as leaving:
        vdd.cli.main()
    assert leaving.value.code == 2
    assert "has no timings.jsonl; wanted the folder of a finished run" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_the_stored_scores_are_read_back_as_they_were_written(folders):
    legs = [*LEGS[:-1]]
    again = read_scores(folders[1] / "scores.json", legs)
    assert [result.leg for result in again] == legs
