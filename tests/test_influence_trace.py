"""Wrong answers become choices between texts, and choices are traced: against a dense solve, kept, and resumed."""

from __future__ import annotations

import math
from dataclasses import replace
from zlib import crc32

import numpy as np
import pytest
import torch
from torch import nn

from vdd._check import UserError
from vdd.diagnosis import Misread, claim
from vdd.influence import ECIF, Choice, NotSolvedError, Towers, TraceMispredictions, Tracer
from vdd.influence.pairs import PairRecord
from vdd.influence.query import loss_of
from vdd.influence.statements import contrasted, denial, statement
from vdd.influence.store import Store
from vdd.records import Answer, Misprediction, Question

IMAGE, TEXT, SPACE, COUNT = 5, 6, 4, 12


def vector(name, size):
    """A vector of its own for every name."""
    return torch.randn(size, generator=torch.Generator().manual_seed(crc32(str(name).encode())), dtype=torch.float64)


class Named(Towers):
    """Linear towers over names; "unread" has no image, and texts that begin with "alike" are one."""

    def image_inputs(self, given):
        if "unread" in map(str, given):
            raise UserError("image unread: no such file")
        return torch.stack([vector(one, IMAGE) for one in given])

    def text_inputs(self, given):
        return torch.stack([vector("alike" if one.startswith("alike") else one, TEXT) for one in given])


def towers():
    torch.manual_seed(0)
    image, text = (nn.Linear(size, SPACE, bias=False, dtype=torch.float64) for size in (IMAGE, TEXT))
    return Named(image.eval(), text.eval(), log_scale=1.5)


RECORDS = [PairRecord(f"p{n}", f"{n}.png", f"caption {n}") for n in range(COUNT)]


def ecif(**options):
    own = towers()
    pairs = own.pairs([r.image for r in RECORDS], [r.caption for r in RECORDS], [r.id for r in RECORDS])
    return ECIF(own, pairs, **{"partitions": 2, "batch_size": 6, "rank": 64, **options})


QUERY = Choice("asked.png", ["there is a fox.", "there is a dog.", "there is a cat."], (1,))

pytestmark = pytest.mark.filterwarnings("ignore::vdd.influence.NotOptimalWarning")


@pytest.fixture(scope="module")
def tracer():
    return Tracer(ecif(), RECORDS, probes=16)


# ------------------------------------------------------------------------------------------------------------- texts


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("Is there a fox in the image?", "there is a fox in the image."),
        ("Is there a fox in the image? Please answer yes or no.", "there is a fox in the image."),
        ("Is there a fox in the image? Please answer this question with one word.", "there is a fox in the image."),
        ("Is there a fox?\nAnswer the question using a single word or phrase.", "there is a fox."),
        ("is there a snowboard in the imange ?", "there is a snowboard in the image."),
        ("Are there two cats in this picture?", "there are two cats in this picture."),
        ("Are there any cats?", "there are cats."),
        ("Is there a fox? And what color is it?", None),
        ("What color is the fox?", None),
        ("Is the fox red?", None),
        ("Is there ?", None),
        ("", None),
    ],
)
def test_an_existence_question_becomes_what_it_asks_for(question, said):
    assert statement(question) == said


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ("there is a fox.", "there is no fox."),
        ("there is an apple on the left.", "there is no apple on the left."),
        ("there are cats.", "there are no cats."),
        ("there are two cats.", "there are not two cats."),
        ("there is only one bottle.", "there is not only one bottle."),
    ],
)
def test_a_statement_is_denied(claim, said):
    assert denial(claim) == said


def asked(text, label, number=1):
    return Question(number, "a.png", text, label)


ABOUT = [
    asked("Is there a fox?", "no", 1),
    asked("Is there a dog?", "yes", 2),
    asked("Is there a cat?", "yes", 3),
    asked("Is there a bus?", "no", 4),
    asked("What color is the dog?", "red", 5),
]


def wrong(question, truth):
    return Misread(1, "a.png", question, "", truth)


def test_a_wrong_yes_stands_against_what_is_there():
    found = contrasted(wrong("Is there a fox?", "no"), "yes", ABOUT)
    assert (found.texts, found.right) == (("there is a dog.", "there is a cat.", "there is a fox."), (0, 1))


def test_a_wrong_no_stands_against_what_is_not_there():
    found = contrasted(wrong("Is there a dog?", "yes"), "no", ABOUT)
    assert (found.texts, found.right) == (("there is a dog.", "there is a fox.", "there is a bus."), (0,))


@pytest.mark.parametrize(
    ("truth", "said", "texts"),
    [("no", "yes", ("there is no fox.", "there is a fox.")), ("yes", "no", ("there is a fox.", "there is no fox."))],
)
def test_where_nothing_else_is_known_a_statement_stands_against_its_denial(truth, said, texts):
    found = contrasted(wrong("Is there a fox?", truth), said)
    assert (found.texts, found.right) == (texts, (0,))
    assert contrasted(wrong("Is there a fox?", truth), said, [asked("Is there a fox?", truth)]) == found


def test_any_other_question_stands_with_both_answers():
    found = contrasted(wrong("What color is it?", "red"), "blue", ABOUT)
    assert (found.texts, found.right) == (("What color is it? red", "What color is it? blue"), (0,))
    found = contrasted(wrong("Is the fox red?", "no"), "yes")
    assert found.texts == ("Is the fox red? no", "Is the fox red? yes")


@pytest.mark.parametrize("said", ["", "  ", "No", "no "])
def test_no_answer_and_the_right_one_are_not_asked_about(said):
    assert contrasted(wrong("Is there a fox?", "no"), said, ABOUT) is None


# ------------------------------------------------------------------------------------------------------------ tracing


def dense(own):
    """H⁻¹ as a matrix."""
    size = len(own.theta)
    return torch.linalg.inv(torch.stack([own.point.gauss_newton(row) for row in torch.eye(size, dtype=torch.float64)]))


@pytest.mark.slow
def test_scores_are_those_of_a_dense_solve_and_the_norms_of_many_probes_rank_alike(tracer):
    own, found = tracer.ecif, Tracer(tracer.ecif, RECORDS).influences(QUERY)
    inverse, gradient = dense(own), own.query_gradient(QUERY)
    tied, free = [], []
    for place in range(COUNT):
        p, q = (inverse @ part for part in own.point.removal([place], "exact"))
        assert found.delta_loss_on_removal[place].item() == pytest.approx(float(gradient @ (p + q)), rel=1e-3, abs=1e-6)
        tied.append(float(gradient @ (p + q) / (p + q).norm()))
        b = torch.stack([gradient @ p, gradient @ q])
        gram = torch.stack([torch.stack([p @ p, p @ q]), torch.stack([p @ q, q @ q])])
        free.append(math.copysign(math.sqrt(float(b @ torch.linalg.solve(gram, b))), tied[-1]))
    ranks = [np.argsort(np.argsort(values)) for values in (tied, found.tied.tolist(), free, found.free.tolist())]
    assert np.corrcoef(ranks[0], ranks[1])[0, 1] > 0.95
    assert np.corrcoef(ranks[2], ranks[3])[0, 1] > 0.9
    np.testing.assert_allclose(found.tied, tied, rtol=0.6)
    assert (found.tied.sign() == found.free.sign()).all()


def test_the_probability_is_the_towers_own(tracer):
    own = tracer.ecif.towers
    parameters = own.parameters
    image = parameters["image.weight"] @ vector("asked.png", IMAGE)
    texts = torch.stack([parameters["text.weight"] @ vector(text, TEXT) for text in QUERY.texts])
    cosines = torch.nn.functional.cosine_similarity(texts, image.unsqueeze(0))
    want = (math.exp(1.5) * cosines).softmax(0)[1]
    found = tracer.trace(QUERY)
    assert found.probability == pytest.approx(float(want), rel=1e-9)
    assert found.tower_is_right == (float(want) > 0.5)
    trained = ECIF(
        own.with_parameters({**parameters, "image.weight": parameters["text.weight"][:, :IMAGE]}), tracer.ecif.data
    )
    told = Tracer(trained, RECORDS, tower=own, probes=1)
    assert told.influences(QUERY).probability == pytest.approx(float(want), rel=1e-9)


def test_harmful_pairs_come_worst_first_helpful_ones_best_first_and_neither_twice(tracer):
    found = tracer.trace(QUERY, 20)
    harmful, helpful = ([pair.tied for pair in pairs] for pairs in (found.harmful, found.helpful))
    assert harmful == sorted(harmful)
    assert max(harmful) < 0
    assert helpful == sorted(helpful, reverse=True)
    assert min(helpful) > 0
    assert {pair.id for pair in (*found.harmful, *found.helpful)} == {record.id for record in RECORDS}
    assert all((pair.tied < 0) == (pair.delta_loss_on_removal < 0) for pair in (*found.harmful, *found.helpful))
    assert [pair.id for pair in tracer.trace(QUERY, 2).harmful] == [pair.id for pair in found.harmful[:2]]
    (first, *_) = found.harmful
    record = next(record for record in RECORDS if record.id == first.id)
    assert (first.image, first.caption) == (record.image, record.caption)
    clip, loss = tracer.ecif.point.pair_figures()
    place = RECORDS.index(record)
    assert (first.clip_score, first.pair_loss) == (float(clip[place]), float(loss[place]))


def test_removing_a_harmful_pair_makes_the_right_text_likelier(tracer):
    worst = tracer.trace(QUERY).harmful[0]
    own = tracer.ecif.towers
    assert loss_of(QUERY, own.with_parameters(tracer.ecif.edit([worst.id]))) < loss_of(QUERY, own)


def test_probes_are_solved_once_kept_and_gone_on_with(tmp_path, monkeypatch):
    solved, quick = [], {"damping": 50.0, "rank": 4}
    solve = ECIF.solve

    def counted(self, target, **options):
        solved.append("tolerance" in options)
        if sum(solved) == stop:
            raise RuntimeError
        return solve(self, target, **options)

    monkeypatch.setattr(ECIF, "solve", counted)
    store = Store(tmp_path, "of these")
    stop = 4
    with pytest.raises(RuntimeError):
        Tracer(ecif(**quick), RECORDS, probes=6, store=store).trace(QUERY)
    stop, solved[:] = 99, []
    resumed = Tracer(ecif(**quick), RECORDS, probes=6, store=store)
    first = resumed.trace(QUERY)
    assert sum(solved) == 3
    resumed.trace(QUERY)
    again = Tracer(ecif(**quick), RECORDS, probes=6, store=store).trace(QUERY)
    assert sum(solved) == 3
    assert first == again
    assert first == Tracer(ecif(**quick), RECORDS, probes=6).trace(QUERY)
    assert sum(solved) == 9
    Tracer(ecif(**quick), RECORDS, probes=6, store=Store(tmp_path, "of others")).trace(QUERY)
    assert sum(solved) == 15


def test_texts_that_the_tower_reads_alike_are_said_to_be_so(tracer):
    alike = Choice("asked.png", ["alike but for the end", "alike to the end"], (0,))
    with pytest.raises(UserError, match="alike"):
        tracer.trace(alike)
    misread = Misread(1, "asked.png", texts=alike.texts, right=alike.right)
    found = tracer.attempt(misread, "asked.png")
    assert "alike" in found.reason
    assert found.probability is None
    assert found.harmful == ()


def test_an_unreadable_image_is_a_reason_and_an_unsolved_system_an_error(tracer):
    misread = Misread(1, "unread", texts=QUERY.texts, right=QUERY.right)
    assert "no such file" in tracer.attempt(misread, "unread").reason
    unsolved = Tracer(ecif(max_products=1, rank=1), RECORDS, probes=1)
    with pytest.raises(NotSolvedError):
        unsolved.attempt(replace(misread, image="asked.png"), "asked.png")


def test_records_of_other_pairs_are_refused():
    with pytest.raises(UserError, match="11 records are not the 12 pairs"):
        Tracer(ecif(), RECORDS[1:])


# ------------------------------------------------------------------------------------------------------- the callback


def mistake(question, said, truth, images=("asked.png",)):
    return Misprediction(images, question, Answer(0, question, ", ".join(images), said), truth)


def test_the_callback_collects_traces_and_reasons(tracer, tmp_path):
    hook = TraceMispredictions(tracer, tmp_path / "kept", top=2)
    hook(mistake("Is there a fox?", "Yes, there is.", "no"))
    hook(mistake("What color is it?", "blue", "red"))
    hook(mistake("Is there a fox?", "yes", "no", ("a.png", "b.png")))
    hook(mistake("Is there a fox?", "", "red"))
    first, second, third, fourth = hook.traced
    assert first.misread.texts == ("there is no fox.", "there is a fox.")
    assert (first.misread.answer, first.misread.truth, len(first.harmful)) == ("Yes, there is.", "no", 2)
    assert second.misread.texts == ("What color is it? red", "What color is it? blue")
    assert "2 images" in third.reason
    assert fourth.reason is not None
    assert [one.misread.question_id for one in hook.traced] == [0, 1, 2, 3]
    again = TraceMispredictions(tracer, tmp_path / "kept", top=2)
    again(mistake("Is there a fox?", "yes", "no"))
    assert again.traced[0].misread.question_id == 4
    kept = claim(tmp_path / "kept", {"pairs": COUNT, "top": 2})
    assert [one.misread.question_id for one in kept] == [0, 1, 2, 3, 4]


def test_an_unsolved_system_does_not_stop_the_pipeline_that_calls():
    hook = TraceMispredictions(Tracer(ecif(max_products=1, rank=1), RECORDS, probes=1))
    hook(mistake("Is there a fox?", "yes", "no"))
    assert "not solved" in hook.traced[0].reason
