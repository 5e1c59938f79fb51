"""The page parses, needs nothing from elsewhere and says the same figures as the scores, whatever names it meets."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from tests.finished_runs import LEGS, write_run, write_runs
from tests.page_reader import Reader, table_of
from vdd.cli import app
from vdd.page import page
from vdd.report_figures import run_reports
from vdd.report_files import csv_text, markdown
from vdd.report_tables import percent, relabelled_table, signed, summary

EVIL = "<script>alert(\"1\")</script> & 'quoted' 名前 مرحبا"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def reports(folders):
    return run_reports(folders)


@pytest.fixture(scope="module")
def read(reports):
    return Reader(page(reports))


# -------------------------------------------------------------------------------------------------------- the document


def test_nothing_is_fetched_and_nothing_runs(reports):
    text = page(reports)
    assert text.startswith("<!doctype html>")
    policy = [value for _, name, value in Reader(text).attributes if name == "content"]
    assert "default-src 'none'; style-src 'unsafe-inline'" in policy
    for outside in ("http:", "https:", "//", "url(", "@import", "<script", "<link", "<img", "<iframe", " src="):
        assert outside not in text, outside
    links = [value for tag, name, value in Reader(text).attributes if name == "href"]
    assert links == ["#run-1", "#run-2"]


def test_ids_are_unique_and_every_reference_has_one(read):
    assert len(set(read.ids)) == len(read.ids)
    named = [value for _, name, value in read.attributes if name == "aria-labelledby"]
    assert len(named) >= 2 * 8
    assert {one for value in named for one in value.split()} <= {*read.ids}


def test_every_table_has_a_caption_and_says_which_cells_are_heads(reports):
    text = page(reports)
    for table in re.findall(r"<table.*?</table>", text, re.S):
        assert re.match(r'<table( class="signatures")?><caption><span>[^<]', table)
        assert re.findall(r"<th(?: [^>]*)?>", table) == re.findall(r'<th scope="(?:col|row)"[^>]*>', table)
        assert {*re.findall(r'scope="(\w+)"', table)} == {"col", "row"}


def test_every_row_has_a_cell_for_each_column(read):
    for table in read.tables:
        assert {len(row) for row in table} == {len(table[0])}


def test_every_figure_has_a_title_and_a_description(reports):
    for figure in re.findall(r"<figure>.*?</figure>", page(reports), re.S):
        assert re.search(
            r'<svg viewBox="0 0 (?:380|290) \d+" role="img" [^>]*><title [^>]*>[^<]+</title><desc [^>]*>[^<]+', figure
        )


def test_a_page_repeats_byte_for_byte(folders, reports):
    assert page(run_reports(folders)) == page(reports)


# --------------------------------------------------------------------------------------------------------- the figures


@pytest.mark.parametrize("run", [0, 1])
def test_every_figure_of_the_legs_is_that_of_the_scores_file(folders, read, run):
    stored = json.loads((folders[run] / "scores.json").read_text())
    rows = table_of(read, "draws", run)
    assert [row[0] for row in rows[1:]] == [entry["leg"] for entry in stored]
    for row, entry in zip(rows[1:], stored, strict=True):
        found = dict(zip(rows[0], row, strict=True))

        def shown(value):
            return "–" if value is None else f"{100 * value:.1f}"

        low, high = entry["intervals"]["accuracy"]
        assert found["accuracy [95\u00a0%]"] == f"{shown(entry['accuracy'])} [{shown(low)}, {shown(high)}]"
        for column, name in (
            ("balanced", "balanced_accuracy"), ("F1", "f1"), ("precision", "precision"), ("recall = TPR", "recall"),
            ("FPR", "fpr"), ("AUROC", "auroc"), ("ECE", "ece"),
        ):  # fmt: skip
            assert found[column] == shown(entry[name])
        assert found["yes (−\u00a0labels)"].split(" ")[0] == shown(entry["yes_ratio"])
        assert float(found["yes (−\u00a0labels)"].split("(")[1][:-1].replace("−", "-")) == pytest.approx(
            100 * (entry["yes_ratio"] - 0.5), abs=0.051
        )
        assert found["unparsed, no answer"] == f"{entry['unparsed']}, {entry['unanswered']}"
        assert found["draws"] == str(entry["draws"])
        assert found["forwards"] == f"{entry['forwards_per_question']:.2f}"
        assert found["ms"] == f"{1000 * entry['seconds_per_question']:.1f}"
        if entry["gain"] is None:
            assert (found["gain [95\u00a0%]"], found["McNemar p"]) == ("–", "–")
            continue
        value, low, high = (
            float(one) for one in re.findall(r"[+-][\d.]+", found["gain [95\u00a0%]"].replace("−", "-"))
        )
        assert [value, low, high] == pytest.approx([100 * one for one in entry["gain"]], abs=0.051)
        assert ("▲" in found["gain [95\u00a0%]"]) == (entry["gain"][1] > 0)
        assert ("▼" in found["gain [95\u00a0%]"]) == (entry["gain"][2] < 0)
        p = entry["mcnemar"]["p"]
        assert found["McNemar p"] == ("< 0.001" if p < 0.001 else f"{p:.3f}")


def test_a_leg_without_probabilities_has_dashes_for_auroc_and_ece(read):
    rows = table_of(read, "draws")
    found = next(dict(zip(rows[0], row, strict=True)) for row in rows if row[0] == "prompt-alone")
    assert (found["AUROC"], found["ECE"]) == ("–", "–")


def test_transitions_are_those_of_the_scores_file_and_make_up_all_questions(folders, read):
    rows = table_of(read, "mended", 1)
    for row, entry in zip(rows[1:], json.loads((folders[1] / "scores.json").read_text())[1:], strict=True):
        found = dict(zip(rows[0], row, strict=True))
        assert {move: int(found[move]) for move in rows[0][3:] if int(found[move])} == {
            move: count for move, count in entry["transitions"].items() if count
        }
        assert sum(map(int, row[3:])) == 60
        assert (int(found["mended"]), int(found["spoiled"])) == (entry["mcnemar"]["only_b"], entry["mcnemar"]["only_a"])
    assert "other→other" in rows[0]


def test_every_leg_has_its_signature(folders, read):
    rows = table_of(read, "signature")
    assert [tuple(row) for row in rows[1:]] == [
        (entry["leg"], entry["signature"]) for entry in json.loads((folders[0] / "scores.json").read_text())
    ]


def test_several_runs_are_set_side_by_side_and_one_is_not(folders, reports, read):
    rows = table_of(read, "pope made random")
    assert rows[0] == ["leg", "pope made random", "pope made popular"]
    for place, folder in enumerate(folders, start=1):
        want = [f"{100 * entry['accuracy']:.1f}" for entry in json.loads((folder / "scores.json").read_text())]
        assert [row[place].split(" ")[0] for row in rows[1:]] == want
    alone = Reader(page(reports[:1]))
    assert not [table for table in alone.tables if table[0][1] == "pope made random"]


def test_scores_by_other_labels_stand_beside_the_runs_own(folders, reports, read):
    rows = table_of(read, "accuracy")
    own, other = (json.loads((folders[1] / name).read_text()) for name in ("scores.json", "scores-relabelled.json"))
    for row, a, b in zip(rows[1:], own, other, strict=True):
        assert row[0] == a["leg"] == b["leg"]
        assert [cell.split(" ")[0] for cell in row[1:3]] == [f"{100 * one['accuracy']:.1f}" for one in (a, b)]
        assert row[5:] == [f"{100 * one[name]:.1f}" for name in ("f1", "yes_ratio") for one in (a, b)]
    assert relabelled_table(reports[0]) is None


def test_unanswered_questions_are_said_and_so_is_what_chance_explains(reports):
    first, missing = summary(reports[1])
    assert missing.startswith("2 of 60 questions have no answer")
    gains = [result.gain for result in reports[1].results[1:]]
    above = sum(gain.low > 0 for gain in gains)
    assert first.startswith(f"Of 6 other ways of answering, {above} ")
    assert len(summary(reports[0])) == 1


def test_figures_are_rounded_once_and_never_minus_zero():
    assert [signed(x) for x in (0.0049, -0.0004, -0.0116, 0.0)] == ["+0.5", "+0.0", "−1.2", "+0.0"]
    assert (percent(float("nan")), percent(1.0)) == ("–", "100.0")


# -------------------------------------------------------------------------------------------------------------- names


def test_names_with_markup_in_them_are_shown_as_they_are(tmp_path):
    folder = write_run(tmp_path / "a <b> & 'c' 写真", model=EVIL)
    (report,) = run_reports([folder])
    text = page([report, replace(report, title=EVIL)])
    assert "<script" not in text
    words = "".join(Reader(text).words)
    assert EVIL in words
    assert "pope a_<b>_&_'c'_写真" in words
    assert "<script" not in markdown([report]).replace("\\<script", "")


def test_characters_that_no_page_may_hold_do_not_stop_it(tmp_path):
    folder = write_run(tmp_path / "run", model="a\x00b\ud800c")
    out = tmp_path / "report.html"
    assert CliRunner().invoke(app, ["report", str(folder), "--out", str(out)]).exit_code == 0
    assert "a\ufffdb\ufffdc" in out.read_text("utf-8")


def test_long_names_are_cut_in_figures_and_whole_in_their_titles(tmp_path):
    name = "a-method-with-a-name-that-goes-on-and-on"
    legs = [*LEGS[:2], replace(LEGS[1], name=name, debias=replace(LEGS[1].debias, alpha=2.0))]
    (report,) = run_reports([write_run(tmp_path / "run", legs=legs)])
    text = page([report])
    assert re.search(rf"<title>{name}: ", text)
    assert not re.search(rf"<text[^>]*>{name}<", text)
    assert re.search(r"<text[^>]*>a-method-with-a-name-that…<", text)


# -------------------------------------------------------------------------------------------- runs with little in them


def test_one_leg_alone_has_a_page(tmp_path):
    (report,) = run_reports([write_run(tmp_path / "run", legs=LEGS[:1])])
    read = Reader(page([report]))
    assert not [table for table in read.tables if "mended" in table[0]]
    assert summary(report) == []


def test_a_run_without_a_single_answer_has_a_page(tmp_path):
    (report,) = run_reports([write_run(tmp_path / "run", unreadable=range(60))])
    text = page([report])
    Reader(text)
    assert "No leg says how probable its answers were." in text
    assert "60 of 60 questions have no answer" in text
    assert not re.search(r"\bnan\b", text + markdown([report]) + csv_text([report]))


def test_a_run_without_probabilities_has_a_page(tmp_path):
    (report,) = run_reports([write_run(tmp_path / "run", bare=[leg.name for leg in LEGS])])
    Reader(page([report]))
    markdown([report])


def test_a_run_about_one_image_has_a_page_without_intervals(tmp_path):
    (report,) = run_reports([write_run(tmp_path / "run", images=1)])
    text = page([report])
    Reader(text)
    assert "nothing can be concluded" in text
    assert not re.search(r"\bnan\b", text + csv_text([report]))


def test_a_run_that_cost_nothing_and_is_always_right_has_a_page(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "timings.jsonl").write_text("")
    for path in (folder / "answers").iterdir():
        lines = [
            json.loads(line) | {"text": ("yes", "no")[i % 2]} for i, line in enumerate(path.read_text().splitlines())
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (report,) = run_reports([folder])
    Reader(page([report]))
    assert not re.search(r"\bnan\b", page([report]))


def test_settings_chosen_on_dev_are_on_the_page(tmp_path):
    folder = write_run(tmp_path / "run")
    one = {"reference": "none", "alpha": 0.5, "beta": 0.2, "noise_step": 700, "seed": 0}
    (folder / "chosen.json").write_text(json.dumps({"debias": {"none": one}, "bias": -0.25, "dev": 12}))
    text = page(run_reports([folder]))
    assert "Settings chosen on 12 dev questions" in text
    assert table_of(Reader(text), "α")[1] == ["none", "0.5", "0.2", "noise_step 700"]
    assert "log-odds of yes: −0.25" in text


def test_legs_that_look_the_same_have_lines_that_are_broken_in_different_ways(tmp_path):
    legs = [leg.name for leg in LEGS[1:-1]]
    (report,) = run_reports([write_run(tmp_path / "run")], legs=legs)
    figure = re.search(r'<ul class="legend"><li><svg viewBox="0 0 34 14".*?</ul>', page([report])).group()
    assert re.findall(r'<g class="(k\d)"><path class="through (dash\d)"', figure) == [
        ("k0", "dash0"), ("k1", "dash0"), ("k2", "dash0"), ("k3", "dash0"), ("k0", "dash1"), ("k0", "dash2"),
        ("k0", "dash0"),
    ]  # fmt: skip
    assert re.findall(r"</svg>([^<]+)<", figure) == ["greedy", *legs]
