"""Features of pairs: the towers' own; in shards that a kill does not undo; what changed counts anew."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch

from tests.influence_pairs_files import write_pairs
from vdd._check import UserError
from vdd.influence import HubTowers, features
from vdd.influence.features import encoded, readable
from vdd.influence.pairs import read_pairs
from vdd.toy import load_clip


@pytest.fixture(scope="module")
def clip():
    return load_clip()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    return write_pairs(folder / "data", count=11)


@pytest.fixture
def files(made, tmp_path):
    shutil.copytree(made.parent, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def counted(clip, monkeypatch):
    """Towers with a chunk of 3 and shards of 4, and how many images they were given each time."""
    towers, given = HubTowers(*clip, chunk=3), []
    read = towers.image_inputs

    def image_inputs(images):
        found = read(images)
        given.append(len(images))
        return found

    monkeypatch.setattr(towers, "image_inputs", image_inputs)
    monkeypatch.setattr(features, "SHARD", 4)
    return towers, given


def pairs_of(files):
    return read_pairs(files / "pairs.jsonl", files / "images")[0]


def test_features_are_what_the_towers_make_of_the_pairs(counted, files, tmp_path):
    towers, _ = counted
    records = pairs_of(files)
    records[5] = replace(records[5], caption=records[2].caption)
    pairs, kept, skipped = encoded(towers, records, files / "images", tmp_path / "features")
    paths = [files / "images" / record.image for record in records]
    want = towers.pairs(paths, [record.caption for record in records], [record.id for record in records])
    torch.testing.assert_close(pairs.images, want.images)
    torch.testing.assert_close(pairs.texts, want.texts)
    assert (list(pairs.ids), kept, skipped) == (list(want.ids), records, [])
    assert torch.equal(pairs.texts_alike == pairs.texts_alike[2], want.texts_alike == want.texts_alike[2])
    unkept, _, _ = encoded(towers, records, files / "images", None)
    assert torch.equal(unkept.images, pairs.images)


def test_a_killed_run_goes_on_behind_the_last_whole_shard(counted, files, tmp_path):
    towers, given = counted

    def killed(done, total):
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encoded(towers, pairs_of(files), files / "images", tmp_path / "features", progress=killed)
    assert given == [3, 1, 3, 1]
    given.clear()
    pairs, _, _ = encoded(towers, pairs_of(files), files / "images", tmp_path / "features")
    assert given == [3]
    given.clear()
    again, kept, _ = encoded(towers, pairs_of(files), files / "images", tmp_path / "features")
    assert given == []
    assert len(kept) == len(again) == 11
    assert torch.equal(again.images, pairs.images)
    assert torch.equal(again.texts, pairs.texts)


def test_what_changed_is_read_anew_and_nothing_else(counted, files, tmp_path, clip):
    towers, given = counted
    records = pairs_of(files)
    encoded(towers, records, files / "images", tmp_path / "features")
    given.clear()
    shutil.copy(files / "images" / "000.png", files / "images" / "005.png")
    encoded(towers, records, files / "images", tmp_path / "features")
    assert given == [3, 1], "the shard of the picture that was replaced"
    given.clear()
    records[9] = replace(records[9], caption="there is a fox.")
    encoded(towers, records, files / "images", tmp_path / "features")
    assert given == [3], "the shard of the caption that was changed"
    (tmp_path / "features" / "000000.safetensors").write_bytes(b"half")
    given.clear()
    encoded(towers, records, files / "images", tmp_path / "features")
    assert given == [3, 1], "the shard that is broken"
    weight = clip[0].vision_model.post_layernorm.weight
    before = weight.detach().clone()
    try:
        weight.data[0] += 1
        given.clear()
        encoded(towers, records, files / "images", tmp_path / "features")
        assert given == [3, 1, 3, 1, 3], "all, of another model"
    finally:
        weight.data.copy_(before)


def test_images_that_do_not_open_are_listed_and_stay_so(counted, files, tmp_path):
    towers, given = counted
    whole = (files / "images" / "001.png").read_bytes()
    (files / "images" / "001.png").write_bytes(whole[: len(whole) // 2])
    for number in range(4, 8):
        (files / "images" / f"{number:03d}.png").write_bytes(b"")
    records = pairs_of(files)
    for _ in range(2):
        pairs, kept, skipped = encoded(towers, records, files / "images", tmp_path / "features")
        assert [record.id for record in kept] == list(pairs.ids) == [0, 2, 3, 8, 9, 10]
        assert [one.id for one in skipped] == [1, 4, 5, 6, 7]
        assert "truncated" in skipped[0].reason
        assert "0 bytes" in skipped[1].reason
    assert given == [2, 1, 3], "only what opens, and once"
    want = towers.pairs([files / "images" / record.image for record in kept], [record.caption for record in kept])
    torch.testing.assert_close(pairs.images, want.images)
    torch.testing.assert_close(pairs.texts, want.texts)


def test_whole_encoders_read_images_when_asked_and_keep_nothing(clip, files, tmp_path):
    (files / "images" / "001.png").write_bytes(b"no image")
    towers = HubTowers(*clip, params="visual_projection|projection")
    done = []
    pairs, kept, skipped = encoded(
        towers, pairs_of(files), files / "images", tmp_path / "features", progress=lambda *at: done.append(at)
    )
    assert (len(kept), [one.id for one in skipped], done[-1]) == (10, [1], (11, 11))
    assert pairs.images[torch.tensor([0, 3])].shape[:2] == (2, 3)
    assert not (tmp_path / "features").exists()


def test_no_image_that_opens_is_an_error(counted, files, tmp_path):
    for path in (files / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of 11 pairs can be used .*0 bytes"):
        encoded(counted[0], pairs_of(files), files / "images", tmp_path / "features")
    assert readable(pairs_of(files), files / "images")[0] == []


def test_a_folder_that_cannot_be_made_is_an_error(counted, files):
    with pytest.raises(UserError, match="cannot be made a folder"):
        encoded(counted[0], pairs_of(files), files / "images", files / "pairs.jsonl" / "features")
