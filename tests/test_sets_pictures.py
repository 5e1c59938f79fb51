"""The pictures that a set brings: byte for byte, once, whole, and never in the place of others."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
from PIL import Image as Pictures

from tests.hub_rows import content, picture, pope_row, pope_set, write
from vdd._check import UserError
from vdd.images import ImageError, image_path, load_image
from vdd.sets.hub import load_hub
from vdd.sets.pictures import PictureFolder


@pytest.fixture(scope="module")
def pope(tmp_path_factory):
    return pope_set(tmp_path_factory.mktemp("pope"))


def test_pictures_of_all_kinds_are_kept_byte_for_byte_and_read_as_the_runner_reads_them(tmp_path):
    kinds = [
        picture(1, mode="RGBA", form="PNG"),
        picture(2, mode="L", form="PNG"),
        picture(3, mode="L"),
        picture(4, mode="RGB", form="WEBP"),
    ]
    rows = [
        pope_row(n, image_source=f"kind{n}", image={"bytes": data, "path": "elsewhere.gif"})
        for n, data in enumerate(kinds, start=1)
    ]
    questions = load_hub(write(tmp_path / "x.parquet", rows), tmp_path / "images")
    for question, data in zip(questions, kinds, strict=True):
        path = image_path(tmp_path / "images", question.image)
        assert path.read_bytes() == data
        assert load_image(path).tobytes() == load_image(io.BytesIO(data)).tobytes()


def test_pictures_given_to_datasets_as_pil_images_are_read_too(tmp_path):
    shown = Pictures.new("RGB", (9, 7), (10, 20, 30))
    path = write(tmp_path / "x.parquet", [pope_row(1, image=shown)])
    (question,) = load_hub(path, tmp_path / "images")
    assert load_image(tmp_path / "images" / question.image).tobytes() == shown.tobytes()


def test_broken_bytes_are_kept_for_the_runner_to_record(tmp_path):
    broken = [picture(0)[:200], b"no image", b""]
    rows = [
        pope_row(n, image_source=f"b{n}", image={"bytes": data, "path": None}) for n, data in enumerate(broken, start=1)
    ]
    questions = load_hub(write(tmp_path / "x.parquet", rows), tmp_path / "images")
    assert [(tmp_path / "images" / q.image).read_bytes() for q in questions] == broken
    for question in questions:
        with pytest.raises(ImageError):
            load_image(image_path(tmp_path / "images", question.image))


def test_a_picture_under_two_names_is_kept_under_both(tmp_path):
    same = {"bytes": picture(5), "path": None}
    rows = [pope_row(1, image_source="left", image=same), pope_row(2, image_source="right", image=same)]
    load_hub(write(tmp_path / "x.parquet", rows), tmp_path / "images")
    assert content(tmp_path / "images") == {"left.jpg": picture(5), "right.jpg": picture(5)}


def test_two_pictures_under_one_name_are_refused(tmp_path):
    rows = [pope_row(1), pope_row(2, image={"bytes": picture(9), "path": None})]
    with pytest.raises(UserError, match=r"row 2: another picture than in .*row 1, both named COCO_val2014_0+\.jpg"):
        load_hub(write(tmp_path / "x.parquet", rows), tmp_path / "images")


def test_what_lies_in_the_folder_already_is_neither_written_anew_nor_overwritten(pope, tmp_path):
    folder = tmp_path / "val2014"
    load_hub(pope, folder)
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}
    load_hub(pope, folder)
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()} == before
    mine = folder / "COCO_val2014_000000000001.jpg"
    mine.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"000000000001\.jpg: is another picture than the set's"):
        load_hub(pope, folder)
    assert mine.read_bytes() == b"mine"


def test_a_killed_writing_goes_on_and_leaves_no_half_picture(pope, tmp_path):
    script = (
        "import os, sys\nfrom vdd.sets.hub import load_hub\n"
        "real, done = os.replace, []\n"
        "def replace(*paths):\n    done.append(paths)\n    os._exit(9) if len(done) == 2 else real(*paths)\n"
        "os.replace = replace\nload_hub(*sys.argv[1:])\n"
    )
    folder = tmp_path / "images"
    killed = subprocess.run([sys.executable, "-c", script, str(pope), str(folder)], timeout=60)
    assert killed.returncode == 9
    whole = {name: data for name, data in content(folder).items() if not name.startswith(".")}
    assert whole == {"COCO_val2014_000000000000.jpg": picture(0)}
    first = (folder / "COCO_val2014_000000000000.jpg").stat().st_mtime_ns
    questions = load_hub(pope, folder)
    assert {q.image: picture(n // 2 % 3) for n, q in enumerate(questions)} == {
        name: data for name, data in content(folder).items() if not name.startswith(".")
    }
    assert (folder / "COCO_val2014_000000000000.jpg").stat().st_mtime_ns == first


def test_a_writing_that_fails_leaves_no_draft(pope, tmp_path, monkeypatch):
    def full(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"000000000000\.jpg: cannot be written .*No space left"):
        load_hub(pope, tmp_path / "images")
    assert content(tmp_path / "images") == {}


@pytest.mark.parametrize("name", ["../out.jpg", "/etc/out.jpg", "C:\\out.jpg", "a/../../out.jpg"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    path = write(tmp_path / "x.parquet", [pope_row(1, image_source=name)])
    with pytest.raises(UserError, match=r"row 1: .*wanted"):
        load_hub(path, tmp_path / "images")
    assert not (tmp_path / "images").exists()
    assert not (tmp_path / "out.jpg").exists()


def test_no_more_pictures_are_held_in_memory_than_a_few_groups_of_rows(tmp_path, monkeypatch):
    import pyarrow

    big = [
        pope_row(n, image_source=f"b{n}", image={"bytes": bytes([n]) * 1_000_000, "path": None}) for n in range(1, 101)
    ]
    path = write(tmp_path / "x.parquet", big, group=10)
    before, held = pyarrow.total_allocated_bytes(), []
    monkeypatch.setattr(PictureFolder, "keep", lambda *given: held.append(pyarrow.total_allocated_bytes()))
    load_hub(path, tmp_path / "images")
    assert len(held) == 100
    assert max(held) - before < 40_000_000
