"""The commands around an evaluation, as a user gives them: MME, free answers, search, advice, and what they refuse."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from vdd._check import UserError
from vdd.cli import app
from vdd.config import load_leg
from vdd.data import load_questions
from vdd.toy.questions import mme_lines, write_split
from vdd.toy.scenes import render, scene_at

FOLDER_METHOD = '''
def generate(model, input_ids, logits_processor=None, stopping_criteria=None, generation_config=None, word=7, **kwargs):
    """Says one word, whatever is shown."""
    return __import__("torch").cat([input_ids, input_ids.new_full((len(input_ids), 1), word)], dim=1)
'''


def invoke(*args):
    return CliRunner().invoke(app, list(map(str, args)))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    write_split(folder, "dev")
    return folder


@pytest.fixture(scope="module")
def mme(tmp_path_factory):
    """Ten images of one subtask in MME's own layout."""
    folder = tmp_path_factory.mktemp("mme")
    (folder / "color").mkdir()
    for number, scene in enumerate(scene_at("dev", place) for place in range(10)):
        render(scene).save(folder / "color" / f"{number}.png")
        lines = [line.split("\t")[1:3] for line in mme_lines([scene], "color")]
        (folder / "color" / f"{number}.txt").write_text("".join(f"{text}\t{label}\n" for text, label in lines))
    return folder


def test_mme_is_answered_in_every_leg_and_summed(mme, tmp_path):
    result = invoke("eval", "mme", "--folder", mme, "--out", tmp_path / "out", "--max-new-tokens", 2, "--repeats", 2)
    assert result.exit_code == 0, result.exception
    rows = {row["leg"]: row for row in json.loads((tmp_path / "out" / "scores.json").read_text())}
    assert {"greedy", "vdd-none", "posthoc-none", "T=1", "cutoff-only@T=1"} <= set(rows)
    assert rows["T=1"]["draws"] == 2
    asked = load_questions(tmp_path / "out" / "questions.jsonl", labels=("yes", "no"))
    said = [json.loads(x)["text"] for x in (tmp_path / "out" / "answers" / "greedy.jsonl").read_text().splitlines()]
    right = [text.strip().lower().startswith(q.label) for q, text in zip(asked, said, strict=True)]
    both = [a and b for a, b in zip(right[::2], right[1::2], strict=True)]
    assert rows["greedy"]["color"] == pytest.approx(100 * sum(right) / len(right) + 100 * sum(both) / len(both))
    assert rows["greedy"]["accuracy"] == pytest.approx(sum(right) / len(right))
    assert (rows["greedy"]["gain"], rows["greedy"]["mcnemar"]) == (None, None)
    assert rows["T=1"]["gain"][0] == pytest.approx(rows["T=1"]["accuracy"] - rows["greedy"]["accuracy"])
    assert rows["greedy"]["signature"].startswith("mme|without:")
    assert "| greedy |" in (tmp_path / "out" / "table.md").read_text()


def test_free_answers_are_a_file_a_leg(data, tmp_path):
    lines = [{"question_id": n, "image": f"{n:05}.png", "text": "Describe the image."} for n in range(3)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = ["--questions", tmp_path / "q.jsonl", "--images", data / "images", "--out", tmp_path / "out"]
    result = invoke("eval", "open", *files, "--max-new-tokens", 6)
    assert result.exit_code == 0, result.exception
    names = {path.stem for path in (tmp_path / "out" / "answers").iterdir()}
    assert names == {"greedy", "vdd-none", "vdd-unk", "vdd-both", "T=1", "cutoff-only@T=1", "vdd-none@T=1"}
    again = invoke("eval", "open", *files, "--max-new-tokens", 6)
    assert again.exit_code == 0, again.exception


def test_a_folder_with_a_method_is_a_leg_and_is_called_with_its_settings(data, tmp_path):
    (tmp_path / "mine" / "custom_generate").mkdir(parents=True)
    (tmp_path / "mine" / "custom_generate" / "generate.py").write_text(FOLDER_METHOD)
    files = ["--questions", data / "pope_random.json", "--images", data / "images", "--out", tmp_path / "out"]
    more = ["--limit", 12, "--max-new-tokens", 2, "--repeats", 1, "--custom-generate", f"{tmp_path / 'mine'},word=9"]
    result = invoke("eval", "pope", *files, *more)
    assert result.exit_code == 0, result.exception
    said = {
        json.loads(x)["text"] for x in (tmp_path / "out" / "answers" / "mine+word=9.jsonl").read_text().splitlines()
    }
    from vdd.toy import load

    assert said == {load()[1].tokenizer.decode(9, skip_special_tokens=True).strip()}
    rows = {row["leg"]: row for row in json.loads((tmp_path / "out" / "scores.json").read_text())}
    assert "custom:mine,word=9" in rows["mine+word=9"]["signature"]


def test_a_method_on_the_hub_wants_leave_to_run_its_code(data, tmp_path):
    files = ["--questions", data / "pope_random.json", "--images", data / "images", "--out", tmp_path / "out"]
    result = invoke("eval", "pope", *files, "--custom-generate", "transformers-community/dola,dola_layers=low")
    assert isinstance(result.exception, UserError)
    assert "--trust-remote-code, since its code is run" in str(result.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.weights
def test_dola_from_the_hub_is_a_leg(data, tmp_path):
    files = ["--questions", data / "pope_random.json", "--images", data / "images", "--out", tmp_path / "out"]
    dola = ["--custom-generate", "transformers-community/dola,dola_layers=low", "--trust-remote-code"]
    result = invoke("eval", "pope", *files, *dola, "--limit", 12, "--max-new-tokens", 2, "--repeats", 1)
    assert result.exit_code == 0, result.exception


def test_other_labels_of_the_same_questions_stand_beside(data, tmp_path):
    lines = (data / "pope_random.json").read_text().splitlines()[:12]
    other = [json.loads(line) for line in lines]
    other[3]["label"] = "no" if other[3]["label"] == "yes" else "yes"
    (tmp_path / "toy_repope_random.json").write_text("".join(json.dumps(line) + "\n" for line in other[:8]))
    files = ["--questions", data / "pope_random.json", "--images", data / "images", "--out", tmp_path / "out"]
    more = ["--limit", 12, "--max-new-tokens", 2, "--repeats", 1, "--dev-share", 0]
    result = invoke("eval", "pope", *files, *more, "--relabelled", tmp_path / "toy_repope_random.json")
    assert result.exit_code == 0, result.exception
    own, again = (json.loads((tmp_path / "out" / n).read_text()) for n in ("scores.json", "scores-relabelled.json"))
    assert (own[0]["n"], again[0]["n"]) == (12, 8)


def test_settings_are_chosen_on_images_that_the_scores_never_see(data, tmp_path):
    files = ["--questions", data / "pope_popular.json", "--images", data / "images", "--out", tmp_path / "out"]
    result = invoke("eval", "pope", *files, "--limit", 40, "--max-new-tokens", 2, "--repeats", 1, "--dev-share", 0.4)
    assert result.exit_code == 0, result.exception
    sides = [
        {q.image for q in load_questions(tmp_path / "out" / place / "questions.jsonl", labels=("yes", "no"))}
        for place in (".", "dev")
    ]
    assert not sides[0] & sides[1]
    chosen = json.loads((tmp_path / "out" / "chosen.json").read_text())
    legs = {leg["name"]: leg for leg in json.loads((tmp_path / "out" / "run.json").read_text())["legs"]}
    for name, debias in chosen["debias"].items():
        assert legs[f"vdd-{name}"]["debias"] == debias
    if chosen["bias"]:
        assert legs["bias"]["bias"] == chosen["bias"]


@pytest.mark.slow
def test_a_search_goes_on_and_says_the_same_again(data, tmp_path):
    files = ["--questions", data / "pope_random.json", "--images", data / "images", "--out", tmp_path / "out"]
    more = ["--alpha", 1, "--alpha", 2, "--beta", 0.1, "--seeds", 2]
    first = invoke("search", *files, *more)
    assert first.exit_code == 0, first.exception
    assert "best if chosen on test" in first.output
    before = (tmp_path / "out" / "search.json").read_bytes()
    assert invoke("search", *files, *more).exit_code == 0
    assert (tmp_path / "out" / "search.json").read_bytes() == before


def test_where_first_tokens_decide_nothing_the_search_generates(data, tmp_path, monkeypatch):
    monkeypatch.setattr("vdd.search.UNDECIDED", -1.0)
    lines = (data / "pope_random.json").read_text().splitlines()[:12]
    (tmp_path / "q.json").write_text("\n".join(lines) + "\n")
    files = ["--questions", tmp_path / "q.json", "--images", data / "images", "--out", tmp_path / "out"]
    result = invoke("search", *files, "--alpha", 1, "--beta", 0.1, "--seeds", 1, "--max-new-tokens", 2)
    assert result.exit_code == 0, result.exception
    assert "answers are generated instead" in result.output
    names = {row["name"] for row in json.loads((tmp_path / "out" / "search.json").read_text())["configurations"]}
    assert {path.stem for path in (tmp_path / "out" / "generated" / "answers").iterdir()} == names


@pytest.mark.slow
def test_advice_is_words_a_table_and_a_file_that_eval_decodes_by(data, tmp_path):
    files = ["--questions", data / "pope_adversarial.json", "--images", data / "images"]
    result = invoke("advise", *files, "--out", tmp_path / "advice")
    assert result.exit_code == 0, result.exception
    assert "Debiasing helps here" in " ".join(result.output.split())
    leg = load_leg(tmp_path / "advice" / "vdd.json")
    assert (tmp_path / "advice" / "advice.md").is_file()
    more = ["--limit", 12, "--max-new-tokens", 2, "--repeats", 1, "--config", tmp_path / "advice" / "vdd.json"]
    result = invoke("eval", "pope", *files, "--out", tmp_path / "out", *more)
    assert result.exit_code == 0, result.exception
    legs = {one["name"]: one for one in json.loads((tmp_path / "out" / "run.json").read_text())["legs"]}
    assert legs["config"]["bias"] == leg.bias


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("search", "--dev-share", 1.5), "share is 1.5"),
        (("search", "--seeds", 0), "seeds"),
        (("search", "--alpha", -1), "alpha"),
        (("advise", "--folds", 1), "folds"),
        (("eval", "pope", "--method", "vdc"), "method"),
        (("eval", "pope", "--repeats", 0), "repeats"),
        (("eval", "pope", "--dev-share", 2), "dev_share"),
        (("eval", "pope", "--config", "missing.json"), "cannot be read"),
        (("eval", "pope", "--dev", "missing.json"), "no such file"),
    ],
    ids=str,
)
def test_mistakes_are_named_before_a_model_is_opened_and_nothing_is_written(data, tmp_path, command, message):
    files = ["--questions", data / "pope_random.json", "--images", data / "images", "--out", tmp_path / "out"]
    result = invoke(*command, *files)
    assert isinstance(result.exception, UserError), result.output
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()
