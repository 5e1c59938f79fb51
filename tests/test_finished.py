"""Which folders are finished runs, and what is said where one is none."""

from __future__ import annotations

import pytest

from tests.finished_runs import write_run
from vdd._check import UserError
from vdd.finished import find_runs, read_run


def test_draws_of_one_way_are_one_leg_with_their_mean_cost(tmp_path):
    run = read_run(write_run(tmp_path / "run", n=40))
    drawn = {one.leg.name: one for one in run.legs}
    assert "T=1.2" not in drawn
    assert [len(one.answers) for one in run.legs] == [1, 1, 1, 1, 1, 1, 2]
    assert drawn["T=1"].forwards == pytest.approx((1 + 2) / 2)
    assert drawn["T=1"].seconds == pytest.approx((0.5 + 6 / 8 + 0.5 + 7 / 8) / 2 / 40)


def test_a_folder_of_runs_stands_for_the_runs_in_it_each_once(tmp_path):
    runs = [write_run(tmp_path / "demo" / name) for name in ("adversarial", "random")]
    assert find_runs([tmp_path / "demo"]) == runs
    assert find_runs([runs[1], tmp_path / "demo", runs[0]]) == [runs[1], runs[0]]


def test_the_folder_that_the_runs_images_are_in_is_left_out(tmp_path):
    run = write_run(tmp_path / "demo" / "random")
    data = tmp_path / "demo" / "data"
    (data / "images").mkdir(parents=True)
    assert find_runs([data, run]) == [run]
    (tmp_path / "demo" / "notes").mkdir()
    with pytest.raises(UserError, match=r"notes: is no run \(it has no run\.json\) and holds none"):
        find_runs([run, tmp_path / "demo" / "notes"])
    with pytest.raises(UserError, match="data: is no run"):
        find_runs([data])


def test_a_folder_that_is_not_there_is_a_users_error(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        find_runs([tmp_path / "nowhere"])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"legs": []}', '{"legs": 3}'])
def test_a_run_without_a_description_is_a_users_error_that_names_the_file(tmp_path, text):
    folder = write_run(tmp_path / "run")
    (folder / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"run\.json: .*; wanted what a run of vdd writes"):
        read_run(folder)
