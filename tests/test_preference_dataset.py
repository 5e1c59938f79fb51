"""Rows from users' files; pairs in TRL's form as parquet and JSON lines, and back; what `check` finds."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from vdd._check import UserError
from vdd.preference.checks import check_pairs
from vdd.preference.dataset import read_pairs, trl_rows, write_pairs
from vdd.preference.pairs import Pair, Refused, Row
from vdd.preference.sources import LATER, read_rows

SHADES = {"a.png": 10, "sub/b.jpg": 200, "c.png": 90}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    (folder / "sub").mkdir()
    for name, shade in SHADES.items():
        Image.new("RGB", (8, 6), (shade, 0, 0)).save(folder / name)
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:40])
    (folder / "empty.png").write_bytes(b"")
    return folder


@pytest.fixture
def pairs(images):
    return [
        Pair(
            7, (images / "a.png",), "What is it?", "A «red» fox.\n", "A blue\u2028fox.", "bdhs-attention", 0.99, 2, 0.5,
            "words", 2**63 - 1, "toy",
        ),
        Pair("x y", (images / "sub/b.jpg", images / "c.png"), "Und nun? 🦊", "ja", "nein", rho=None, similarity=-0.25),
        Pair("007", (images / "a.png",), "Is it?", "Yes", "No"),
    ]  # fmt: skip


def write_lines(path: Path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


class TestSources:
    """Files of rows."""

    ROWS = (
        {"id": 7, "image": "a.png", "prompt": "What is it?", "answer": "A fox."},
        {"id": "x", "image": "sub/b.jpg", "prompt": 'And "this"?\nSay it.', "answer": "Ünï, quoted"},
    )

    @pytest.fixture
    def wanted(self, images):
        return [Row(row["id"], (Path(images, row["image"]),), row["prompt"], row["answer"]) for row in self.ROWS]

    def test_every_form_gives_the_same_rows(self, images, wanted, tmp_path):
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        renamed = [
            {"id": r["id"], "images": [r["image"]], "question": r["prompt"], "chosen": r["answer"]} for r in self.ROWS
        ]
        (tmp_path / "array.json").write_text(json.dumps(list(self.ROWS)))
        files = [tmp_path / "array.json", write_lines(tmp_path / "r.jsonl", self.ROWS)]
        files.append(write_lines(tmp_path / "renamed.jsonl", renamed))
        for name, delimiter in (("r.csv", ","), ("r.tsv", "\t")):
            with open(tmp_path / name, "w", encoding="utf-8-sig", newline="") as file:
                writer = csv.DictWriter(file, list(self.ROWS[0]), delimiter=delimiter)
                writer.writeheader()
                writer.writerows(self.ROWS)
            files.append(tmp_path / name)
        for file in files:
            assert read_rows(file, images) == (wanted, [])
        named = [{**row, "id": str(row["id"])} for row in renamed]
        parquet.write_table(arrow.Table.from_pylist(named), tmp_path / "r.parquet")
        rows, refused = read_rows(tmp_path / "r.parquet", images)
        assert rows == [replace(row, id=str(row.id)) for row in wanted]
        assert refused == []

    def test_llavas_first_turn_is_a_row_and_later_ones_are_told_of(self, images, tmp_path):
        turns = [
            {"from": "human", "value": "<image>\nWhat is it?"},
            {"from": "gpt", "value": "A fox."},
            {"from": "human", "value": "And its colour?"},
            {"from": "gpt", "value": "Red."},
        ]
        records = [
            {"id": "one", "image": "a.png", "conversations": turns},
            {"id": "behind", "image": "a.png", "conversations": [{**turns[0], "value": "What?\n<image>"}, turns[1]]},
            {"id": "within", "image": "a.png", "conversations": [{**turns[0], "value": "In <image> what?"}, turns[1]]},
            {"id": "blind", "conversations": turns[2:]},
            {"id": "turned", "image": "a.png", "conversations": turns[1:3]},
        ]
        rows, refused = read_rows(write_lines(tmp_path / "r.json", records), images)
        picture = (images / "a.png",)
        assert rows == [Row("one", picture, "What is it?", "A fox."), Row("behind", picture, "What?", "A fox.")]
        reasons = {one.id: one.reason for one in refused}
        assert reasons.pop("one#2") == f"turn 2: {LATER}"
        assert "within the prompt" in reasons.pop("within")
        assert "no image" in reasons.pop("blind")
        assert "wanted a turn from human" in reasons.pop("turned")
        assert reasons == {}

    def test_an_id_that_conversations_repeat_is_numbered(self, images, tmp_path):
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A fox."}]
        record = {"id": 7, "image": "a.png", "conversations": turns}
        rows, refused = read_rows(write_lines(tmp_path / "r.jsonl", [record] * 3), images)
        assert [row.id for row in rows] == [7, "7~2", "7~3"]
        assert refused == []

    def test_without_ids_the_line_is_the_id(self, images, tmp_path):
        records = [{**row, "id": None} for row in self.ROWS]
        assert [row.id for row in read_rows(write_lines(tmp_path / "r.jsonl", records), images)[0]] == [1, 2]

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"image": "gone.png"}, "no such file"),
            ({"image": "../a.png"}, "'..' in it"),
            ({"image": "/etc/hostname"}, "an absolute path"),
            ({"image": "sub"}, "is a folder"),
            ({"image": "x" * 5000}, "xxx: no such file"),
            ({"image": "empty.png"}, "0 bytes"),
            ({"image": ""}, "no image"),
            ({"image": []}, "no image"),
            ({"image": ["a.png", 5]}, "image is 5"),
            ({"image": {"bytes": "x"}}, "image is {'bytes'"),
            ({"prompt": " "}, "prompt is empty"),
            ({"prompt": 5}, "prompt is 5"),
            ({"prompt": "<image>\n "}, "empty but for its placeholder"),
            ({"prompt": "<image><image> what?"}, "2 placeholders for 1 images"),
            ({"answer": None}, "answer is empty"),
            ({"answer": "an <image>"}, "holds '<image>'"),
            ({"id": 1.5}, "id is 1.5"),
            ({"id": True}, "id is True"),
            ({"conversations": "what"}, "conversations is 'what'"),
            ({"conversations": [{"from": "human", "value": ""}, 3]}, "what human says is ''"),
        ],
    )
    def test_a_row_that_cannot_be_used_is_listed_and_left_out(self, images, wanted, tmp_path, change, reason):
        rows, (refused,) = read_rows(write_lines(tmp_path / "r.jsonl", [self.ROWS[0] | change, self.ROWS[1]]), images)
        assert rows == wanted[1:]
        assert reason in refused.reason
        assert len(refused.reason) < 200

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("r.csv", "1,a.png,what\n", "no column images or image"),
            ("r.csv", "image,prompt,answer\n", "there is no row"),
            ("r.csv", 'image,prompt,answer\na.png,"open\n', "broken table"),
            ("r.csv", b"image,prompt,answer\na.png,\xff,x\n", "cannot be read .*UTF-8"),
            ("r.csv", "image,prompt,answer\na.png,what,a, b\n", "4 fields for 3 columns"),
            ("r.csv", "id,image,prompt,answer\n1,a.png,x,y\n1,a.png,x,y\n", "id 1 again, first in .*line 2"),
            ("r.jsonl", '{"image": "a.png"\n', "line 1: broken JSON"),
            ("r.jsonl", '{"image": "gone.png", "prompt": "x", "answer": "y"}\n', "no row can be used .*gone.png"),
            ("r.parquet", b"PAR1 cut", "cannot be read as parquet"),
        ],
    )
    def test_a_file_that_cannot_be_read_is_an_error(self, images, tmp_path, name, content, message):
        if name.endswith("parquet"):
            pytest.importorskip("pyarrow")
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(UserError, match=message):
            read_rows(tmp_path / name, images)

    def test_a_missing_file_or_folder_is_an_error(self, images, tmp_path):
        for name in ("gone.csv", "gone.jsonl"):
            with pytest.raises(UserError, match="no such file"):
                read_rows(tmp_path / name, images)
        with pytest.raises(UserError, match="no such folder"):
            read_rows(write_lines(tmp_path / "r.jsonl", self.ROWS), tmp_path / "gone")

    def test_pictures_inside_a_parquet_file_are_refused_at_once(self, images, tmp_path):
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        rows = [{"images": [{"bytes": b"x", "path": "p"}], "prompt": "c", "answer": "d"}]
        parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "r.parquet")
        with pytest.raises(UserError, match=r"column images is list.*wanted names of files"):
            read_rows(tmp_path / "r.parquet", images)


class TestDataset:
    """Pairs written and read."""

    def test_json_lines_give_back_the_same_pairs(self, pairs, images, tmp_path):
        file = tmp_path / "pairs.jsonl"
        assert write_pairs(pairs, file, images=images) == 3
        assert read_pairs(file, images) == pairs
        assert read_pairs(tmp_path, images) == pairs
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
        assert [line["images"] for line in lines] == [["a.png"], ["sub/b.jpg", "c.png"], ["a.png"]]
        with pytest.raises(UserError, match=r"line 1: image .*a.png: no such file; is it below another folder"):
            read_pairs(file)

    def test_parquet_gives_back_the_same_pairs_with_the_files_own_bytes(self, pairs, images, tmp_path):
        pytest.importorskip("datasets", reason="extra `train` is not installed")
        assert write_pairs(iter(pairs), tmp_path / "pairs.parquet", images=images) == 3
        assert read_pairs(tmp_path / "pairs.parquet", images) == pairs
        embedded = read_pairs(tmp_path)
        own = [replace(pair, images=tuple(Path(one).read_bytes() for one in pair.images)) for pair in pairs]
        assert embedded == own
        assert embedded[0].images[0] is embedded[2].images[0]

    def test_equal_pairs_give_equal_bytes(self, pairs, images, tmp_path):
        pytest.importorskip("datasets", reason="extra `train` is not installed")
        for kind in ("jsonl", "parquet"):
            for name in ("one", "two"):
                write_pairs(pairs, tmp_path / f"{name}.{kind}", images=images)
            assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()

    def test_groups_of_rows_stay_small(self, pairs, images, tmp_path):
        pytest.importorskip("datasets", reason="extra `train` is not installed")
        from pyarrow.parquet import ParquetFile

        many = (replace(pairs[0], id=number) for number in range(250))
        assert write_pairs(many, tmp_path / "pairs.parquet", images=images) == 250
        with ParquetFile(tmp_path / "pairs.parquet") as file:
            assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [100, 100, 50]
        assert [pair.id for pair in read_pairs(tmp_path, images)] == list(range(250))

    def test_pictures_in_memory_go_into_parquet_alone(self, pairs, images, tmp_path):
        pytest.importorskip("datasets", reason="extra `train` is not installed")
        drawn = Image.new("RGB", (3, 2), (1, 2, 3))
        given = [replace(pairs[0], images=(drawn,)), replace(pairs[1], images=((images / "c.png").read_bytes(),))]
        write_pairs(given, tmp_path / "pairs.parquet")
        first, second = read_pairs(tmp_path / "pairs.parquet")
        with Image.open(io.BytesIO(first.images[0])) as picture:
            assert picture.tobytes() == drawn.tobytes()
        assert second.images == given[1].images
        with pytest.raises(UserError, match="7: a picture in memory has no name"):
            write_pairs(given, tmp_path / "pairs.jsonl")
        assert not (tmp_path / "pairs.jsonl").exists()

    def test_datasets_and_trl_take_what_parquet_holds(self, pairs, images, tmp_path, toy):
        datasets = pytest.importorskip("datasets", reason="extra `train` is not installed")
        trl = pytest.importorskip("trl.data_utils", reason="extra `train` is not installed")
        write_pairs(pairs, tmp_path / "pairs.parquet", images=images)
        rows = datasets.load_dataset(
            "parquet", data_files=str(tmp_path / "pairs.parquet"), cache_dir=str(tmp_path / "cache"), split="train"
        )
        assert rows.features["images"].feature == datasets.Image()
        _, processor = toy
        for row, pair in zip(rows, pairs, strict=True):
            assert [picture.getpixel((0, 0)) for picture in row["images"]] == [
                Image.open(one).getpixel((0, 0)) for one in pair.images
            ]
            assert (row["id"], row["seed"], row["rho"]) == (str(pair.id), pair.seed, pair.rho)
            prompt = trl.prepare_multimodal_messages(row["prompt"], images=row["images"])
            parts = prompt[0]["content"]
            assert [part["image"] for part in parts[:-1]] == row["images"]
            assert parts[-1]["text"] == pair.prompt
            for name, said in (("chosen", pair.chosen), ("rejected", pair.rejected)):
                answer = trl.prepare_multimodal_messages(row[name])
                written = processor.apply_chat_template([*prompt, *answer], tokenize=False)
                assert said in written
                assert written.count("<image>") == len(pair.images)

    def test_trl_rows_make_the_same_dataset(self, pairs, images, tmp_path):
        datasets = pytest.importorskip("datasets", reason="extra `train` is not installed")
        from vdd.preference.dataset import features

        rows = [{**row, "id": str(row["id"])} for row in trl_rows(pairs, images=images)]
        made = datasets.Dataset.from_list(rows, features=features())
        write_pairs(pairs, tmp_path / "p.parquet", images=images)
        read = datasets.Dataset.from_parquet(str(tmp_path / "p.parquet"), cache_dir=str(tmp_path / "cache"))
        assert made.features == read.features
        assert made.to_list() == read.to_list()

    @pytest.mark.parametrize(
        ("change", "name", "message"),
        [
            ({"rejected": " A «red» fox."}, "p.jsonl", "chosen and rejected are the same"),
            ({"similarity": float("nan")}, "p.jsonl", "7: similarity is nan; wanted a finite number"),
            ({"images": ("/elsewhere/a.png",)}, "p.jsonl", "is not below"),
            ({"images": ()}, "p.jsonl", "7: no image"),
            ({"rejected": "an <image>"}, "p.jsonl", "rejected holds '<image>'"),
            ({"rejected": "\ud800"}, "p.jsonl", "half of a surrogate pair"),
            ({"seed": 2**63}, "p.jsonl", "seed is 9223372036854775808; wanted a whole number"),
            ({}, "p.csv", "wanted .parquet or .jsonl"),
        ],
    )
    def test_what_cannot_be_written_is_an_error_and_leaves_no_file(
        self, pairs, images, tmp_path, change, name, message
    ):
        with pytest.raises(UserError, match=message):
            write_pairs([pairs[1], replace(pairs[0], **change)], tmp_path / name, images=images)
        assert list(tmp_path.iterdir()) == []

    def test_a_missing_image_is_an_error_in_parquet(self, pairs, images, tmp_path):
        pytest.importorskip("datasets", reason="extra `train` is not installed")
        gone = replace(pairs[0], images=(images / "gone.png",))
        with pytest.raises(UserError, match=r"7: image .*gone.png cannot be read"):
            write_pairs([gone], tmp_path / "p.parquet", images=images)
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_or_file_without_pairs_is_an_error(self, tmp_path):
        with pytest.raises(UserError, match=r"holds no pairs.parquet and no pairs.jsonl"):
            read_pairs(tmp_path)
        with pytest.raises(UserError, match="no such file"):
            read_pairs(tmp_path / "gone.parquet")
        (tmp_path / "pairs.jsonl").write_text("\n")
        with pytest.raises(UserError, match="there is no pair in it"):
            read_pairs(tmp_path)


def changed(record, path, value):
    """A copy of a stored row with one place of it exchanged, or deleted."""
    record = json.loads(json.dumps(record))
    *way, last = path
    place = record
    for step in way:
        place = place[step]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    return record


class TestCheck:
    """What is wrong with which row."""

    @pytest.fixture
    def stored(self, pairs, images, tmp_path):
        write_pairs(pairs, tmp_path / "good.jsonl", images=images)
        return [json.loads(line) for line in (tmp_path / "good.jsonl").read_text().split("\n") if line]

    def test_good_pairs_are_all_pairs(self, pairs, images, tmp_path):
        pytest.importorskip("datasets", reason="extra `train` is not installed")
        for name in ("pairs.jsonl", "pairs.parquet"):
            write_pairs(pairs, tmp_path / name, images=images)
            found = check_pairs(tmp_path / name, images)
            assert (found.rows, found.findings) == (3, ())
            assert found.in_words() == f"{tmp_path / name}: 3 rows, all of them pairs"

    @pytest.mark.parametrize(
        ("path", "value", "what"),
        [
            (("chosen",), KeyError, "chosen is missing"),
            (("rejected", 0, "content", 0, "text"), "A «red» fox. ", "chosen and rejected are the same text"),
            (("chosen", 0, "content", 0, "text"), " \n", "chosen is empty"),
            (("chosen", 0, "content", 0, "text"), 5, "chosen says 5"),
            (("chosen", 0, "content", 0, "text"), "an <image>", "chosen holds '<image>'"),
            (("prompt", 0, "content", 1, "text"), "\ud800 what", "prompt holds half of a surrogate pair"),
            (("prompt", 0, "role"), "assistant", "prompt has the role 'assistant'; wanted 'user'"),
            (("rejected", 0, "role"), None, "rejected has the role None; wanted 'assistant'"),
            (("prompt",), "What is it?", "prompt is 'What is it?'; wanted a list of one message"),
            (("prompt",), [], "prompt is 0 messages"),
            (("prompt", 0, "content"), [{"type": "text", "text": "x"}], "0 image parts for 1 images"),
            (("prompt", 0, "content"), 3, "prompt has the content 3"),
            (("prompt", 0, "content", 0, "type"), "video", "prompt has parts ['video', 'text']"),
            (("chosen", 0, "content"), [{"type": "image"}, {"type": "text", "text": "x"}], "wanted one text"),
            (("images",), [], "images is missing"),
            (("images",), [3], "images is [3]"),
            (("images",), ["gone.png"], "gone.png: no such file"),
            (("images",), ["cut.png"], "cut.png: "),
            (("images",), ["../a.png"], "'..' in it"),
            (("images",), ["a.png", "c.png"], "1 image parts for 2 images"),
            (("id",), "x y", "id 'x y' again, first in"),
            (("similarity",), float("nan"), "similarity is nan; wanted a finite number"),
            (("similarity",), "high", "similarity is 'high'"),
            (("rho",), 1.5, "rho is 1.5"),
            (("iteration",), 0, "iteration is 0"),
            (("seed",), -1, "seed is -1"),
            (("seed",), 2**63, "seed is 9223372036854775808"),
            (("similarity",), 10**400, "similarity is 1000"),
            (("images",), ["x" * 5000], "no such file"),
            (("model",), 3, "model is 3"),
        ],
    )
    def test_each_fault_is_found_and_no_other(self, stored, images, tmp_path, path, value, what):
        file = write_lines(tmp_path / "p.jsonl", [stored[1], changed(stored[0], path, value), stored[2]])
        found = check_pairs(file, images)
        assert {one.where for one in found.wrong} == {f"{file}, line 2"}
        (finding,) = found.wrong
        assert what in finding.what
        assert found.in_words().endswith("3 rows, 1 of them wrong")
        if path != ("id",) and value != ["cut.png"]:  # these two are left to the check
            with pytest.raises(UserError, match="line 2: "):
                read_pairs(file, images)

    def test_an_id_of_another_type_is_wrong(self, stored, images, tmp_path):
        file = write_lines(tmp_path / "p.jsonl", [changed(stored[0], ("id",), [1])])
        assert [one.what for one in check_pairs(file, images).wrong] == ["id is [1]; wanted a whole number or a text"]
        with pytest.raises(UserError, match=r"line 1: id is \[1\]"):
            read_pairs(file, images)

    def test_several_faults_of_a_row_are_all_told(self, stored, images, tmp_path):
        bad = changed(changed(changed(stored[0], ("rho",), -1), ("images",), ["gone.png"]), ("chosen",), None)
        found = check_pairs(write_lines(tmp_path / "p.jsonl", [bad]), images)
        assert len(found.findings) == 3
        assert {one.id for one in found.findings} == {"7"}

    def test_lines_that_are_no_json_do_not_hide_the_others(self, stored, images, tmp_path):
        file = tmp_path / "p.jsonl"
        deep = "[" * 100_000
        file.write_text("\n".join(['{"half": ', "3", f'{{"x": {deep}', json.dumps(stored[0]), "{}"]))
        found = check_pairs(file, images)
        assert found.rows == 5
        wrong = {int(one.where.rpartition(" ")[2]) for one in found.wrong}
        assert wrong == {1, 2, 3, 5}

    def test_one_rejected_answer_in_several_rows_is_only_a_note(self, stored, images, tmp_path):
        file = write_lines(tmp_path / "p.jsonl", [stored[0], changed(stored[0], ("id",), 8)])
        (note,) = check_pairs(file, images).findings
        assert (note.weight, note.what) == ("noted", "its rejected answer is that of 2 rows")
        assert check_pairs(file, images).in_words().endswith("2 rows, all of them pairs; 1 note")

    def test_a_parquet_file_of_another_form_is_told_by_its_columns(self, images, tmp_path):
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist([{"prompt": "x", "chosen": "y"}]), tmp_path / "p.parquet")
        with pytest.raises(UserError, match=r"no column images, no rejected \(it has prompt, chosen\)"):
            check_pairs(tmp_path / "p.parquet")

    def test_a_parquet_files_own_images_are_decoded(self, pairs, images, tmp_path):
        pytest.importorskip("datasets", reason="extra `train` is not installed")
        broken = replace(pairs[0], images=(images / "cut.png",))
        write_pairs([broken, pairs[1]], tmp_path / "p.parquet", images=images)
        (finding,) = check_pairs(tmp_path / "p.parquet").wrong
        assert finding.where.endswith("row 1")
        assert "image" in finding.what

    def test_nothing_at_all_is_an_error(self, tmp_path):
        (tmp_path / "p.jsonl").write_text("")
        with pytest.raises(UserError, match="nothing in it"):
            check_pairs(tmp_path / "p.jsonl")
        with pytest.raises(UserError, match="no such folder"):
            check_pairs(tmp_path / "p.jsonl", tmp_path / "gone")


def test_a_refused_row_keeps_its_id(images, tmp_path):
    file = write_lines(tmp_path / "r.jsonl", [TestSources.ROWS[0], {"id": "bad", "image": "a.png", "prompt": "x"}])
    assert read_rows(file, images)[1] == [Refused("bad", "no answer or chosen")]
