"""Files of pairs: what is read of every form, what is left out with its reason, what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from vdd._check import UserError
from vdd.influence.pairs import PairRecord, read_pairs

PAIRS = [
    PairRecord(7, "a.png", "a fox", True),
    PairRecord("x", "b.png", 'two, "quoted"\nlines — ünï', False),
    PairRecord("007", "c.png", "a bus", None),
]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.png").write_bytes(b"whatever")
    return folder


def rows(pairs=PAIRS):
    return [{"id": p.id, "image": p.image, "caption": p.caption, "shuffled": p.shuffled} for p in pairs]


def write_lines(path: Path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def write_table(path: Path, records, delimiter=",", encoding="utf-8"):
    with open(path, "w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(records[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(records)
    return path


def test_every_form_gives_the_same_pairs(images, tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "array.json").write_text(json.dumps(rows()))
    named = [{**row, "id": str(row["id"])} for row in rows()]
    parquet.write_table(arrow.Table.from_pylist(named), tmp_path / "p.parquet")
    files = [
        write_lines(tmp_path / "p.jsonl", rows()),
        tmp_path / "array.json",
        write_table(tmp_path / "p.csv", rows()),
        write_table(tmp_path / "bom.csv", rows(), encoding="utf-8-sig"),
        write_table(tmp_path / "p.tsv", rows(), delimiter="\t"),
    ]
    for file in files:
        assert read_pairs(file, images) == (PAIRS, [])
    found, skipped = read_pairs(tmp_path / "p.parquet", images)
    assert [str(pair.id) for pair in PAIRS] == [pair.id for pair in found]
    assert [pair.caption for pair in PAIRS] == [pair.caption for pair in found]
    assert skipped == []


def test_without_ids_the_line_is_the_id(images, tmp_path):
    lines = [{"image": "a.png", "caption": "one\nmore"}, {"image": "b.png", "caption": "two"}]
    assert [pair.id for pair in read_pairs(write_lines(tmp_path / "p.jsonl", lines), images)[0]] == [1, 2]
    assert [pair.id for pair in read_pairs(write_table(tmp_path / "p.csv", lines), images)[0]] == [2, 4]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": "gone.png"}, "image gone.png: no such file"),
        ({"image": "../a.png"}, "'..' in it"),
        ({"image": "/etc/hostname"}, "absolute path"),
        ({"image": "."}, "is a folder"),
        ({"image": None}, "image is missing"),
        ({"image": {"bytes": "x" * 999}}, "image is {'bytes': 'xxx"),
        ({"caption": " \n"}, "caption is empty"),
        ({"caption": None}, "caption is missing"),
        ({"caption": 5}, "caption is 5; wanted a string"),
        ({"id": None}, "id is missing"),
        ({"id": 1.5}, "id is 1.5; wanted a whole number or a string"),
        ({"id": True}, "id is True"),
        ({"shuffled": "perhaps"}, "shuffled is 'perhaps'; wanted true or false"),
    ],
)
def test_a_row_that_cannot_be_used_is_listed_and_left_out(images, tmp_path, change, reason):
    lines = rows()
    lines[1] |= change
    file = write_lines(tmp_path / "p.jsonl", lines)
    found, (skipped,) = read_pairs(file, images)
    assert found == [PAIRS[0], PAIRS[2]]
    assert skipped.where == f"{file}, line 2"
    assert reason in skipped.reason
    assert len(skipped.reason) < 200


def test_a_comma_without_quotes_cuts_no_caption_short(images, tmp_path):
    (tmp_path / "p.csv").write_text("image,caption\na.png,a fox, a bus\nb.png\nb.png,two\n")
    found, skipped = read_pairs(tmp_path / "p.csv", images)
    assert [pair.caption for pair in found] == ["two"]
    assert ["3 fields for 2 columns" in one.reason for one in skipped] == [True, False]
    assert "caption is missing" in skipped[1].reason


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "1,a.png,a fox\n", "no column image and no caption .*Is the first line"),
        ("p.csv", "image;caption\n", "it has image;caption"),
        ("p.csv", "image,image,caption\na,b,c\n", "a column twice"),
        ("p.csv", 'image,caption\na.png,"open\n', "line 2: broken table"),
        ("p.csv", b"image,caption\na.png,\xff\n", "cannot be read .*UTF-8"),
        ("p.csv", "", r"it has nothing"),
        ("p.csv", "image,caption\n", "none of 0 pairs can be used .there is no row"),
        ("p.jsonl", '{"image": "a.png", "caption": "x"}\n{\n', "line 2: broken JSON"),
        ("p.jsonl", '{"image": "gone.png", "caption": "x"}\n', "none of 1 pairs can be used .*gone.png"),
        ("p.parquet", b"PAR1 cut", "cannot be read as parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error(images, tmp_path, name, content, message):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read_pairs(file, images)


def test_pictures_inside_a_parquet_file_are_refused_at_once(images, tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.Table.from_pylist([{"image": {"bytes": b"x", "path": "p"}, "caption": "c"}])
    parquet.write_table(table, tmp_path / "p.parquet")
    with pytest.raises(UserError, match=r"column image is struct.*wanted names of files"):
        read_pairs(tmp_path / "p.parquet", images)


def test_an_id_twice_is_an_error_that_names_both_places(images, tmp_path):
    file = write_lines(tmp_path / "p.jsonl", [*rows(), {**rows()[0], "id": "7"}])
    with pytest.raises(UserError, match=r"line 4: id '7' again, first in .*line 1"):
        read_pairs(file, images)


def test_images_must_be_a_folder(images, tmp_path):
    file = write_lines(tmp_path / "p.jsonl", rows())
    with pytest.raises(UserError, match="no folder but a file"):
        read_pairs(file, file)
    with pytest.raises(UserError, match="no such folder"):
        read_pairs(file, tmp_path / "gone")
    with pytest.raises(UserError, match="no such file"):
        read_pairs(tmp_path / "gone.csv", images)
