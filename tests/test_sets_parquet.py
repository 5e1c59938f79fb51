"""Parquet files of a set: which are read, in what order, what is refused, and what is fetched."""

from __future__ import annotations

import shutil
import socket
import sys

import pytest

from tests.hub_rows import CATEGORIES, MME, TEXT, content, datasets, mme_row, picture, pope_row, pope_set, write
from vdd._check import UserError
from vdd.sets.hub import load_hub
from vdd.sets.parquet import parquet_files


@pytest.fixture(scope="module")
def pope(tmp_path_factory):
    return pope_set(tmp_path_factory.mktemp("pope"))


def test_shards_are_read_in_their_order_whether_named_by_folder_or_by_the_folder_above(tmp_path):
    rows = [pope_row(number) for number in range(1, 11)]
    for shard, (start, end) in enumerate([(0, 3), (3, 8), (8, 10)]):
        write(tmp_path / "set" / "data" / f"test-{shard:05d}-of-00003-53ae1794f93b1e35.parquet", rows[start:end])
    for source in (tmp_path / "set", tmp_path / "set" / "data", str(tmp_path / "set")):
        questions = load_hub(source, tmp_path / "images", category="random")
        assert [q.question_id for q in questions] == list(range(1, 11))
    assert content(tmp_path / "images") == {f"COCO_val2014_{n:012d}.jpg": picture(n) for n in range(5)}
    for shard in (2, 1):
        (tmp_path / "set" / "data" / f"test-{shard:05d}-of-00003-53ae1794f93b1e35.parquet").unlink()
        with pytest.raises(UserError, match=rf": test-{shard:05d}-of-00003.* missing; wanted all 3 files"):
            load_hub(tmp_path / "set", tmp_path / "images")


def test_the_hubs_second_configuration_a_file_a_category_is_read_too(tmp_path):
    for category in CATEGORIES:
        rows = [pope_row(number, category) for number in range(1, 5)]
        write(tmp_path / "Full" / f"{category}-00000-of-00001.parquet", rows)
    assert len(load_hub(tmp_path / "Full", tmp_path / "images")) == 12
    assert [q.question_id for q in load_hub(tmp_path / "Full", tmp_path / "images", category="popular")] == [1, 2, 3, 4]
    with pytest.raises(UserError, match=r"no parquet files in it or in its data/.* one of its folders .*: Full\."):
        load_hub(tmp_path, tmp_path / "images")


def test_brackets_and_spaces_in_a_path_are_a_path(pope, tmp_path):
    folder = tmp_path / "my [set] *"
    folder.mkdir()
    shutil.copy(pope, folder / "test-00000-of-00001.parquet")
    assert len(load_hub(folder, tmp_path / "images")) == 18


@pytest.mark.parametrize("stored", [None, {"bytes": None, "path": "/home/maker/1.jpg"}])
def test_a_row_without_its_pictures_bytes_is_named(tmp_path, stored):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(write(tmp_path / "x.parquet", [pope_row(1), pope_row(2)]))
    column = pa.array([{"bytes": picture(0), "path": None}, stored], type=table.schema.field("image").type)
    pq.write_table(table.set_column(table.schema.names.index("image"), "image", column), tmp_path / "x.parquet")
    held = r"only a path, '/home/maker/1.jpg'" if stored else "nothing"
    with pytest.raises(UserError, match=f"row 2: image holds {held}; wanted the bytes"):
        load_hub(tmp_path / "x.parquet", tmp_path / "images")


def test_other_columns_are_told_beside_those_wanted(tmp_path):
    features = datasets.Features({"question": TEXT, "image": datasets.Image(), "options": TEXT})
    row = {"question": "?", "image": {"bytes": picture(0), "path": None}, "options": "a"}
    path = write(tmp_path / "x.parquet", [row], features)
    complaint = r"no column question_id, answer, category, image_source \(it has question, image, options\); wanted "
    with pytest.raises(UserError, match=complaint):
        load_hub(path, tmp_path / "images")
    mme = write(tmp_path / "mme.parquet", [mme_row("OCR", "1.jpg", 1)], MME)
    with pytest.raises(UserError, match=r"no column image_source .* Is it another benchmark"):
        load_hub(mme, tmp_path / "images", benchmark="pope")
    no_pictures = datasets.Features({**MME, "image": TEXT})
    path = write(tmp_path / "text.parquet", [{**mme_row("OCR", "1.jpg", 1), "image": "1.jpg"}], no_pictures)
    with pytest.raises(UserError, match="column image is string; wanted pictures with their bytes"):
        load_hub(path, tmp_path / "images", benchmark="mme")


def test_sources_that_are_none_and_options_out_of_range_are_clear_errors(pope, tmp_path):
    (tmp_path / "text.parquet").write_text("PAR1 no more")
    (tmp_path / "cut.parquet").write_bytes(pope.read_bytes()[:-100])
    (tmp_path / "empty").mkdir()
    for source, options, complaint in [
        (tmp_path / "text.parquet", {}, "cannot be read as parquet"),
        (tmp_path / "cut.parquet", {}, "cannot be read as parquet"),
        (tmp_path / "empty", {}, "no parquet files"),
        (tmp_path / "nowhere", {}, "no such file or folder"),
        (write(tmp_path / "none.parquet", []), {}, "no rows in it"),
        (pope, {"limit": 0}, "limit is 0"),
        (pope, {"benchmark": "vqa"}, "unknown benchmark 'vqa'; known: pope, mme"),
    ]:
        with pytest.raises(UserError, match=complaint):
            load_hub(source, tmp_path / "images", **options)
    assert not (tmp_path / "images").exists()


def test_without_the_extra_the_error_names_it_before_anything_is_fetched(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"extra `eval`.*pip install 'visual-debias-decoding\[eval\]'"):
        load_hub("lmms-lab/POPE", tmp_path / "images")


def test_a_name_on_the_hub_is_fetched_as_parquet_and_nothing_else(pope, tmp_path, monkeypatch):
    calls = []

    def snapshot_download(name, **options):
        calls.append((name, options))
        return str(pope.parent.parent)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert len(load_hub("lmms-lab/POPE", tmp_path / "images")) == 18
    assert calls == [("lmms-lab/POPE", {"repo_type": "dataset", "allow_patterns": ["data/*.parquet"]})]


def test_a_hub_that_cannot_be_reached_is_a_clear_error():
    with pytest.raises(
        UserError, match=r"no-one/nothing: is no file or folder here, and could not be fetched .* wanted"
    ):
        parquet_files("no-one/nothing")


def test_a_path_is_read_without_the_network_and_without_running_what_lies_beside_it(pope, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("the network was used")

    folder = tmp_path / "POPE"
    shutil.copytree(pope.parent, folder / "data")
    for script in (folder / "POPE.py", folder / "data" / "data.py"):
        script.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    monkeypatch.chdir(tmp_path.parent)
    assert len(load_hub(f"{tmp_path.name}/POPE", tmp_path / "images")) == 18  # looks like a name, is a folder
    assert not (tmp_path / "ran").exists()
