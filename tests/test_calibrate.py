"""Post-hoc debiasing against plain floats; labels as tokens; label probabilities against teacher forcing by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import calibrate as plain
from tests.oracles.recompute import encode, next_logits, seconds
from vdd.calibrate import AffineCalibration, Labels, average_prior
from vdd.pipeline import LlavaPipeline

POSITIVE = st.floats(1e-3, 1.0)
MODE = st.sampled_from(["diagonal", "identity"])


@st.composite
def tables(draw, count):
    """`count` tables (batch, labels) of positive numbers, all of one shape."""
    batch, labels = draw(st.integers(1, 4)), draw(st.integers(2, 5))
    row = st.lists(POSITIVE, min_size=labels, max_size=labels)
    return [draw(st.lists(row, min_size=batch, max_size=batch)) for _ in range(count)]


def tensor(rows, dtype=torch.float64):
    return torch.tensor(rows, dtype=dtype)


def close(got, want):
    torch.testing.assert_close(got, tensor(want), rtol=1e-9, atol=1e-12)


@given(tables(2), MODE, st.sampled_from([0.0, 1e-4, 0.1]))
def test_scores_are_those_of_the_printed_formula(pair, mode, smoothing):
    p, prior = pair
    got = AffineCalibration.from_prior(tensor(prior), mode=mode, smoothing=smoothing)(tensor(p))
    close(got, [plain.debiased(a, b, mode=mode, smoothing=smoothing) for a, b in zip(p, prior, strict=True)])


@given(tables(2))
def test_by_default_a_ten_thousandth_is_added_to_the_normalised_prior_and_the_mode_is_diagonal(pair):
    p, prior = pair
    got = AffineCalibration.from_prior(tensor(prior))(tensor(p))
    close(got, [plain.debiased(a, b, mode="diagonal", smoothing=1e-4) for a, b in zip(p, prior, strict=True)])


@given(tables(2), MODE)
def test_an_averaged_prior_is_one_for_the_whole_set_and_serves_other_batches(pair, mode):
    p, prior = pair
    calibration = AffineCalibration.from_prior(tensor(prior), mode=mode, average=True)
    shared = plain.mean_of(prior)
    close(calibration(tensor(p + p)), [plain.debiased(row, shared, mode=mode) for row in p + p])


@given(tables(2))
def test_both_is_the_mean_of_the_two_priors_each_normalised_first(pair):
    none, unk = pair
    close(average_prior(tensor(none), tensor(unk)), [plain.mean_of(rows) for rows in zip(none, unk, strict=True)])


@given(tables(1))
def test_weight_and_bias_are_what_the_paper_calls_w_and_b(one):
    prior = one[0]
    smoothed = tensor([plain.shares(row) for row in prior]) + 1e-4
    diagonal = AffineCalibration.from_prior(tensor(prior))
    torch.testing.assert_close(diagonal.weight, torch.stack([torch.diag(1 / row) for row in smoothed]))
    assert not diagonal.bias.any()
    identity = AffineCalibration.from_prior(tensor(prior), mode="identity")
    assert torch.equal(identity.weight, torch.eye(smoothed.shape[1], dtype=torch.float64))
    torch.testing.assert_close(identity.bias, -smoothed)


def test_the_papers_worked_example_comes_out():
    got = AffineCalibration.from_prior(torch.tensor([[0.67, 0.33]]))(torch.tensor([[0.55, 0.45]]))
    # 0.55/0.67 : 0.45/0.33 is 0.3758 : 0.6242; the figure prints it as .375 and .625
    assert got[0].tolist() == pytest.approx([0.375, 0.625], abs=1e-3)


@given(tables(1), MODE)
def test_what_the_model_says_without_an_image_scores_all_labels_alike(one, mode):
    prior = tensor(one[0])
    got = AffineCalibration.from_prior(prior, mode=mode, smoothing=0.0)(prior)
    torch.testing.assert_close(got, got[:, :1].expand_as(got), rtol=1e-9, atol=1e-12)
    if mode == "diagonal":
        torch.testing.assert_close(got, torch.full_like(got, 1 / got.shape[1]))


@given(tables(1), st.floats(0.01, 3.0))
def test_a_uniform_prior_changes_nothing_in_the_diagonal_mode_and_no_order_in_the_identity_mode(one, height):
    p = tensor(one[0])
    uniform = torch.full_like(p, height)
    close(AffineCalibration.from_prior(uniform)(p), [plain.shares(row) for row in one[0]])
    ranked = AffineCalibration.from_prior(uniform, mode="identity")(p)
    shares = tensor([plain.shares(row) for row in one[0]])
    close(ranked - ranked[:, :1], (shares - shares[:, :1]).tolist())


@given(tables(2))
def test_only_the_diagonal_mode_is_divided_by_its_sum(pair):
    p, prior = map(tensor, pair)
    torch.testing.assert_close(AffineCalibration.from_prior(prior)(p).sum(-1), torch.ones(len(p), dtype=p.dtype))
    scores = AffineCalibration.from_prior(prior, mode="identity", smoothing=0.0)(p)
    torch.testing.assert_close(scores.sum(-1), torch.zeros(len(p), dtype=p.dtype), atol=1e-9, rtol=0)
    assert (scores <= 0).any(dim=-1).all()


@given(tables(2), MODE)
def test_neither_the_prior_nor_the_probabilities_are_modified(pair, mode):
    p, prior = map(tensor, pair)
    kept = p.clone(), prior.clone()
    AffineCalibration.from_prior(prior, mode=mode, average=True)(p)
    assert torch.equal(p, kept[0])
    assert torch.equal(prior, kept[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    p, prior = torch.tensor([[0.55, 0.45]], dtype=dtype), torch.tensor([[0.9, 0.1]], dtype=dtype)
    got = AffineCalibration.from_prior(prior)(p)
    assert got.dtype == torch.float32
    assert got[0].tolist() == pytest.approx(plain.debiased(p[0].tolist(), prior[0].tolist()), rel=1e-5)


@pytest.mark.parametrize("row", [[math.nan, 0.5], [-0.1, 1.1], [0.0, 0.0], [math.inf, 1.0], [-math.inf, 1.0]])
def test_rows_that_are_no_probabilities_are_an_error_wherever_they_come_from(row):
    good = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    bad = torch.tensor([[0.5, 0.5], row])
    with pytest.raises(ValueError, match="prior came with NaN, negative or all-zero rows"):
        AffineCalibration.from_prior(bad)
    with pytest.raises(ValueError, match="label probabilities came with NaN, negative or all-zero rows"):
        AffineCalibration.from_prior(good)(bad)
    with pytest.raises(ValueError, match="prior came with NaN"):
        average_prior(good, bad)


@pytest.mark.parametrize("shape", [(2,), (2, 1), (1, 2, 2)])
def test_anything_but_batch_by_labels_is_an_error_that_shows_the_shape(shape):
    with pytest.raises(ValueError, match=r"came as \(.*\); wanted \(batch, labels\)"):
        AffineCalibration.from_prior(torch.full(shape, 0.5))


def test_a_prior_of_zero_is_smoothed_and_without_smoothing_an_error():
    prior, p = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]])
    assert AffineCalibration.from_prior(prior)(p)[0].tolist() == pytest.approx(plain.debiased([0.5, 0.5], [1.0, 0.0]))
    with pytest.raises(ValueError, match="smoothing is off"):
        AffineCalibration.from_prior(prior, smoothing=0.0)


def test_unknown_modes_and_negative_smoothing_are_errors():
    prior = torch.tensor([[0.5, 0.5]])
    with pytest.raises(ValueError, match="unknown mode 'affine'; known: diagonal, identity"):
        AffineCalibration.from_prior(prior, mode="affine")
    with pytest.raises(ValueError, match="smoothing is -1; wanted a number ≥ 0"):
        AffineCalibration.from_prior(prior, smoothing=-1.0)


# ------------------------------------------------------------------------------------------------------------ labels

SPELLED = {"yes": 1, "Yes": 2, " yes": 3, " Yes": 4, "no": 5, "No": 6, " no": 7, " No": 8}


def test_a_word_stands_for_itself_in_lower_case_and_capitalised_with_and_without_a_space():
    labels = Labels.from_words(lambda text: [SPELLED[text]], ["yes", "no"])
    assert labels.names == ("yes", "no")
    assert [sorted(form for (form,) in forms) for forms in labels.forms] == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert labels.single_token


def test_forms_that_a_user_gives_are_taken_as_they_are():
    labels = Labels.from_words(lambda text: [SPELLED[text]], {"ja": ["yes", "Yes"], "nein": ["no"]})
    assert labels.names == ("ja", "nein")
    assert labels.forms == (((1,), (2,)), ((5,),))


def test_a_form_that_begins_with_another_of_the_same_label_is_not_counted_twice():
    ids = {"a": [1], "a b": [1, 2], "a b c": [1, 2, 3], "d": [4]}
    labels = Labels.from_words(ids.__getitem__, {"x": ["a b c", "a b", "a"], "y": ["d"]})
    assert labels.forms == (((1,),), ((4,),))
    log_probs = torch.tensor([[0.1, 0.4, 0.2, 0.2, 0.1]], dtype=torch.float64).log()
    close(labels.probabilities(log_probs), [[0.4, 0.1]])


@pytest.mark.parametrize(
    "ids",
    [
        pytest.param({"a": [1], "b": [1]}, id="equal"),
        pytest.param({"a": [1], "b": [1, 2]}, id="the first begins the second"),
        pytest.param({"a": [1, 2, 3], "b": [1, 2]}, id="the second begins the first"),
    ],
)
def test_labels_that_cannot_be_told_apart_are_an_error(ids):
    with pytest.raises(ValueError, match="wanted labels that can be told apart"):
        Labels.from_words(ids.__getitem__, {name: [name] for name in ids})


def test_words_that_the_tokenizer_does_not_know_are_an_error_that_asks_for_it(llava):
    pipeline = LlavaPipeline(*llava)
    with pytest.raises(ValueError, match=r"zebra.*Does the tokenizer know"):
        pipeline.labels(("zebra", "giraffe"))


@pytest.mark.parametrize("words", [[], ["yes"], ["yes", "yes"], {"yes": ["yes"]}])
def test_fewer_than_two_labels_are_an_error(words):
    with pytest.raises(ValueError, match="wanted at least two"):
        Labels.from_words(lambda text: [SPELLED[text]], words)


@pytest.mark.parametrize("words", [["yes", ""], {"yes": ["yes"], "no": []}, {"yes": ["yes"], "no": [""]}])
def test_a_label_without_tokens_is_an_error_that_names_it(words):
    with pytest.raises(ValueError, match=r"the label '(no|)' has no tokens"):
        Labels.from_words(lambda text: [SPELLED[text]] if text.strip() else [], words)


@given(st.lists(st.floats(-8, 0), min_size=9, max_size=9))
def test_the_sum_over_forms_is_the_default_and_the_best_form_an_option(scores):
    labels = Labels.from_words(lambda text: [SPELLED[text]], ["yes", "no"])
    log_probs = tensor([scores]).log_softmax(-1)
    p = log_probs[0].exp().tolist()
    close(labels.probabilities(log_probs), [[sum(p[1:5]), sum(p[5:9])]])
    close(labels.probabilities(log_probs, best_form=True), [[max(p[1:5]), max(p[5:9])]])


def test_a_label_of_two_tokens_without_the_second_ones_probabilities_is_an_error():
    ids = {"a b": [1, 2], "c": [3]}
    labels = Labels.from_words(ids.__getitem__, {name: [name] for name in ids})
    assert not labels.single_token
    with pytest.raises(ValueError, match="a form of 2 tokens; wanted `rest`"):
        labels.probabilities(torch.zeros(1, 5).log_softmax(-1))


WORDS = {"a fox": ["red fox", "blue fox", "brown dog in the image"], "no": ["no", "no car"]}
QUESTIONS = ["is there a fox ?", "what color is the fox in the image ?", "car ?"]


def teacher_forced(model, second, tokens) -> float:
    """The product of the tokens' conditional probabilities, each from a forward of its own, from scratch."""
    chance = 1.0
    for place, token in enumerate(tokens):
        chance *= float(next_logits(model, second, tokens[:place]).softmax(-1)[token])
    return chance


@pytest.mark.parametrize("condition", ["image", "none", "unk"])
@pytest.mark.parametrize("best", [False, True], ids=["sum", "best"])
def test_labels_of_several_words_have_the_product_of_the_conditionals(llava, condition, best):
    model, processor = llava
    pipeline = LlavaPipeline(model, processor)
    inputs = encode(processor, QUESTIONS)
    labels = pipeline.labels(WORDS)
    got = pipeline.label_probabilities(inputs, labels, best_form=best)[condition]
    prompts = seconds(processor, QUESTIONS, {"image": "seen"}.get(condition, condition), inputs=inputs)
    tally = max if best else math.fsum
    distinct = {**WORDS, "no": ["no"]}  # "no car" begins with "no", which has it counted already
    want = [
        [
            tally([teacher_forced(model, second, processor.tokenizer(form).input_ids) for form in forms])
            for forms in distinct.values()
        ]
        for (second,) in prompts
    ]
    torch.testing.assert_close(got.double(), tensor(want), rtol=1e-6, atol=1e-12)
