"""What is read of a question file: likeliest tokens, priors, each question's figures; by hand on small rows."""

from __future__ import annotations

import json
import math

import pytest
import torch

import vdd.analysis.looking as looking
from tests.zoo import MEMBERS, picture
from vdd._check import UserError
from vdd.analysed import AttentionShare, Likely, PriorShare, QuestionRead, read_kind
from vdd.analysis.attention import Attended
from vdd.analysis.likeliest import Mean, likeliest, spelled
from vdd.analysis.looking import conditions_of, looked
from vdd.analysis.prior import SETS, Shares, known_words, label_set, possible_labels
from vdd.analysis.studies import MeanAttention, Study, first_tokens, follow, read_file, subsets_of
from vdd.pipeline import Pipeline
from vdd.records import Question

TEXTS = ("is there a fox in the image ?", "is there a dog in the image ?", "what color is the cat ?")


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Five questions about two pictures, one of them gone."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(2):
        picture(number).save(folder / f"{number}.png")
    images = ("0.png", "1.png", "0.png", "gone.png", "1.png")
    labels = ("yes", "no", None, "yes", "no")
    questions = [
        Question(n, image, TEXTS[n % 3], label) for n, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    return questions, folder


@pytest.fixture(scope="module")
def pipeline(llava):
    return Pipeline(*llava)


def row_of(pipeline, question, folder, condition):
    """First-token probabilities of one question by itself."""
    from vdd.images import load_image

    inputs = pipeline.inputs([load_image(folder / question.image)], [question.text])
    return pipeline.distributions(inputs, (condition,))[condition][0].exp()


# ------------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("size", [1, 2, 16])
def test_a_question_is_read_alike_in_every_batch_and_an_unreadable_one_is_left_out(pipeline, asked, size):
    questions, folder = asked
    told = []
    conditions = ("image", "none", "unk", "zero", "one")
    found = list(looked(pipeline, questions, folder, conditions, batch_size=size, progress=lambda *n: told.append(n)))
    read = [question for batch in found for question in batch.questions]
    assert [question.question_id for question in read] == [0, 1, 2, 4]
    assert told[-1] == (5, 5)
    for condition in conditions:
        rows = torch.cat([batch.rows[condition] for batch in found]).exp()
        for row, question in zip(rows, read, strict=True):
            torch.testing.assert_close(row, row_of(pipeline, question, folder, condition), rtol=1e-9, atol=1e-12)


def test_a_batch_that_does_not_fit_the_memory_is_halved(pipeline, asked, monkeypatch):
    questions, folder = asked
    sizes = []
    read = looking._read

    def small(pipeline, batch, *more):
        sizes.append(len(batch))
        if len(batch) > 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return read(pipeline, batch, *more)

    monkeypatch.setattr(looking, "_read", small)
    found = list(looked(pipeline, questions, folder, ("image",), batch_size=16))
    assert [len(batch.questions) for batch in found] == [1] * 4
    assert sizes == [4, 2, 1, 1, 2, 1, 1]

    def never(*_):
        raise RuntimeError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(looking, "_read", never)
    with pytest.raises(UserError, match="one question by itself"):
        list(looked(pipeline, questions, folder, ("image",)))


def test_references_that_make_no_sense_for_a_family_are_not_looked_at(pipeline):
    assert conditions_of(pipeline) == ("image", "none", "unk", "noise", "zero", "one")
    for name, lacking in (("Idefics3", {"zero"}), ("Mllama", {"unk"})):
        member = next(member for member in MEMBERS if member.name == name)
        if member.available:
            assert lacking.isdisjoint(conditions_of(Pipeline(*member.build())))


# ------------------------------------------------------------------------------------------------------- likeliest


class Words:
    """A tokenizer of five tokens."""

    pieces = ("▁yes", "no", "<0xE5>", "\n", "Ġred")
    texts = ("yes", "no", "\ufffd", "\n", " red")

    def convert_ids_to_tokens(self, token):
        return self.pieces[token]

    def decode(self, tokens, **_):
        return "".join(self.texts[token] for token in tokens)


def test_tokens_are_spelled_so_that_they_can_be_told_apart():
    assert spelled(Words(), range(5)) == ["␣yes", "no", "<0xE5>", "⏎", "␣red"]


def test_the_mean_is_over_all_batches_and_ties_go_to_the_lower_id():
    mean = Mean()
    rows = torch.tensor([[1, 1, 2, 2, 2], [2, 2, 1, 1, 2], [4, 4, 0, 0, 0]], dtype=torch.float64) / 8
    for part in (rows[:2], rows[2:]):
        mean.add({"image": part.log(), "none": part.flip(1).log()})
    (image, none) = likeliest(mean.rows, Words(), scope="", questions=mean.questions, count=3)
    assert (image.questions, image.condition) == (3, "image")
    assert image.tokens == ["␣yes", "no", "␣red"]
    assert image.probabilities == pytest.approx([7 / 24, 7 / 24, 4 / 24])
    assert none.tokens == ["⏎", "␣red", "␣yes"]
    assert none.given_image == pytest.approx([3 / 24, 4 / 24, 7 / 24])


def test_a_question_files_likeliest_tokens_are_the_mean_of_its_questions_own(pipeline, asked):
    questions, folder = asked
    found = first_tokens(pipeline, questions, folder)
    rows = [row_of(pipeline, question, folder, "none") for question in questions if question.image != "gone.png"]
    mean = torch.stack(rows).mean(dim=0)
    none = next(record for record in found if record.condition == "none")
    assert none.probabilities == pytest.approx(sorted(mean.tolist(), reverse=True)[:15])
    assert none.tokens[0] == spelled(pipeline.processor.tokenizer, [int(mean.argmax())])[0]


# ----------------------------------------------------------------------------------------------------------- prior


def test_shares_are_means_of_normalised_rows_and_true_ones_are_counted_within_the_set():
    shares = Shares(("red", "blue"))
    shares.add(
        {"image": torch.tensor([[0.2, 0.2], [0.3, 0.1]]), "none": torch.tensor([[0.1, 0.3]] * 2)}, ["Red ", None]
    )
    shares.add({"image": torch.tensor([[0.0, 0.5]]), "none": torch.tensor([[0.0, 0.0]])}, ["green"])
    red, blue = shares.shares("colors")
    assert red.shares == pytest.approx({"image": (0.5 + 0.75 + 0) / 3, "none": 0.5 / 3})
    assert blue.shares["image"] == pytest.approx((0.5 + 0.25 + 1) / 3)
    assert red.masses == pytest.approx({"image": 1.3 / 3, "none": 0.8 / 3})
    assert (red.truth, blue.truth, red.labelled, red.questions) == (1.0, 0.0, 1, 3)
    assert Shares(("a", "b")).shares("empty") == []


@pytest.mark.parametrize("wrong", ["", "red", "red,", "red,red", "fruits"])
def test_a_label_set_is_a_known_name_or_two_words_and_more(wrong):
    assert label_set("colors") == SETS["colors"]
    assert label_set("a, b") == ("a", "b")
    with pytest.raises(UserError, match="label set"):
        label_set(wrong)


def test_of_a_named_set_the_words_that_the_tokenizer_does_not_know_are_left_out(pipeline):
    unknown = pipeline.processor.tokenizer.unk_token_id
    assert known_words(SETS["colors"], pipeline.tokens, unknown) == ("red", "blue", "brown")
    with pytest.raises(UserError, match="tells 0 of the labels"):
        known_words(("left", "right"), pipeline.tokens, unknown)


def test_possible_labels_are_the_given_ones_or_those_that_occur():
    def of(*labels):
        return [Question(n, "a.png", "?", label) for n, label in enumerate(labels)]

    assert possible_labels(of("Yes", "yes "), None) == ("yes", "no")
    assert possible_labels(of("red", None, "blue"), None) == ("blue", "red")
    assert possible_labels(of("red", None), None) == ()
    assert possible_labels(of(None), None) == ()
    assert possible_labels(of(*map(str, range(27))), None) == ()
    assert possible_labels(of("red"), "a,b") == ("a", "b")


# ---------------------------------------------------------------------------------------------------------- records


def test_the_records_of_a_file_hold_each_questions_figures_and_are_read_once(pipeline, asked, tmp_path):
    questions, folder = asked
    study = Study(
        questions,
        folder,
        labels=("yes", "no"),
        sets={"labels": ("yes", "no"), "colors": ("red", "blue")},
        subsets={0: "one", 1: "two"},
        batch_size=2,
        single=1,
    )
    read_file(pipeline, study, tmp_path, {"a": 1})
    read = read_kind(tmp_path, QuestionRead)
    assert [(one.question_id, one.subset, one.label) for one in read] == [
        (0, "one", "yes"), (1, "two", "no"), (2, "", None), (4, "", "no"),
    ]  # fmt: skip
    yes = pipeline.processor.tokenizer.convert_tokens_to_ids("yes")
    for one in read:
        question = questions[one.question_id]
        seen, none = (row_of(pipeline, question, folder, name).tolist() for name in ("image", "none"))
        assert one.labels["image"]["yes"] == pytest.approx(seen[yes], rel=1e-9)
        assert one.labels["none"]["yes"] == pytest.approx(none[yes], rel=1e-9)
        divergence = sum(p * math.log(p / q) for p, q in zip(seen, none, strict=True))
        assert one.kl_vocabulary["none"] == pytest.approx(divergence, rel=1e-6)
    assert {record.scope for record in read_kind(tmp_path, Likely)} == {"", questions[1].text}
    assert [record.label for record in read_kind(tmp_path, PriorShare)] == ["yes", "no", "red", "blue"]
    path = tmp_path / "records" / "questions.jsonl"
    before = path.stat().st_mtime_ns
    read_file(pipeline, study, tmp_path, {"a": 1})
    assert path.stat().st_mtime_ns == before, "the same was read again"
    read_file(pipeline, study, tmp_path, {"a": 2})
    assert json.loads(path.read_text().splitlines()[0]) == {"about": {"a": 2}}


def test_attention_is_followed_for_so_many_questions_and_means_are_over_answers(pipeline, asked, tmp_path):
    questions, folder = asked
    told = []
    settings = {"count": 3, "max_new_tokens": 2, "progress": lambda *n: told.append(n)}
    follow(pipeline, Study(questions, folder), tmp_path, {}, **settings)
    found = read_kind(tmp_path, AttentionShare)
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert {record.questions for record in found} == {2}, "of the three one has no image"
    assert {record.layer for record in found} == {None, 0, 1}
    for record in found:
        assert record.image + record.text + record.special == pytest.approx(1, abs=1e-12)
        assert (record.image == 0) == (record.condition == "none")
    follow(pipeline, Study(questions, folder), tmp_path, {}, text="what is it ?", **settings)
    assert told[3:] == [(1, 3), (2, 3), (3, 3)], "once for each image"


def test_the_mean_over_answers_leaves_out_what_an_answer_has_not():
    nan = math.nan
    short = torch.tensor([[[0.2, 0.8, 0.0], [nan] * 3]], dtype=torch.float64)  # one step, the second layer without
    long = torch.tensor([[[0.4, 0.6, 0.0], [nan] * 3], [[0.6, 0.2, 0.2], [nan] * 3]], dtype=torch.float64)
    mean = MeanAttention()
    for mass in (short, long):
        mean.add(Attended((1,), mass, mass))
    found = {(one.condition, one.layer, one.step): one for one in mean.shares()}
    assert set(found) == {(c, *place) for c in ("image", "none") for place in ((0, None), (None, 1), (None, 2))}
    assert found["image", 0, None].image == pytest.approx((0.2 + 0.5) / 2)
    assert (found["image", None, 2].questions, found["image", None, 2].special) == (1, pytest.approx(0.2))


def test_a_field_of_the_file_parts_the_questions(tmp_path):
    path = tmp_path / "asked.jsonl"
    lines = [{"question_id": n, "image": "a", "text": "?", "kind": f" {n % 2}"} for n in range(60)]
    path.write_text("\n".join(map(json.dumps, lines)))
    questions = [Question(n, "a", "?") for n in range(3)]
    assert subsets_of(path, "kind", questions) == {0: "0", 1: "1", 2: "0"}
    with pytest.raises(UserError, match="no 'category' in it"):
        subsets_of(path, "category", questions)
    with pytest.raises(UserError, match="60 different values"):
        subsets_of(path, "question_id", [Question(n, "a", "?") for n in range(60)])
