"""The contrast against its printed formula in pure Python; the traps that a tensor version falls into; planted bugs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles.contrast import debias_row, plausible
from tests.strategies import ALPHA, BETA, branches
from vdd.contrast import BLOCK, contrast, m3id_alpha, nolan_alpha, several_plausible


def as_oracle_says(formula, seen, blind, alpha, beta) -> None:
    """Compare every row of `formula(seen, blind)` with the pure-Python transcription."""
    got = formula(seen, blind, alpha=alpha, beta=beta)
    for row in range(len(seen)):
        want = debias_row(seen[row].tolist(), blind[row].tolist(), alpha, beta)
        want = torch.tensor(want, dtype=torch.float64)
        kept = [keep and x > -math.inf for keep, x in zip(plausible(seen[row].tolist(), beta), seen[row], strict=True)]
        assert torch.isfinite(got[row]).tolist() == kept
        torch.testing.assert_close(got[row].exp().double(), want, rtol=1e-9, atol=1e-12)


@given(branches(), ALPHA, BETA)
def test_matches_the_papers_formula(pair, alpha, beta):
    as_oracle_says(contrast, *pair, alpha, beta)


@given(branches(rows=3, forbid=True), ALPHA, BETA)
def test_matches_the_papers_formula_in_batches_with_forbidden_tokens(pair, alpha, beta):
    as_oracle_says(contrast, *pair, alpha, beta)


@given(branches(rows=2, dtype=torch.float32), ALPHA, BETA)
def test_float32_is_float32_and_near_the_formula(pair, alpha, beta):
    seen, blind = pair
    got = contrast(seen, blind, alpha=alpha, beta=beta)
    assert got.dtype == torch.float32
    for row in range(2):
        want = debias_row(seen[row].tolist(), blind[row].tolist(), alpha, beta)
        for token, (p, keep) in enumerate(zip(want, plausible(seen[row].tolist(), beta), strict=True)):
            gap = seen[row].max() - seen[row, token]
            if beta and abs(float(gap) + math.log(beta)) < 1e-6:
                return  # float32 cannot tell this distance from the cut-off
            assert math.isinf(float(got[row, token])) is not keep
            assert float(got[row, token].exp()) == pytest.approx(p, rel=2e-4, abs=1e-6)


@given(branches(rows=4), st.lists(st.floats(0, 5), min_size=4, max_size=4), BETA)
def test_alpha_may_differ_from_row_to_row(pair, alphas, beta):
    seen, blind = pair
    got = contrast(seen, blind, alpha=torch.tensor(alphas, dtype=torch.float64)[:, None], beta=beta)
    for row, alpha in enumerate(alphas):
        torch.testing.assert_close(
            got[row], contrast(seen[row : row + 1], blind[row : row + 1], alpha=alpha, beta=beta)[0]
        )


@pytest.mark.parametrize("vocab", [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 5 * BLOCK + 7])
@pytest.mark.parametrize("beta", [0.0, 0.1, 1e-30])
def test_every_block_of_a_vocabulary_is_searched_to_its_ends(vocab, beta):
    generator = torch.Generator().manual_seed(vocab)
    seen, blind = torch.randint(-64, 65, (2, 8, vocab), generator=generator).double() / 8
    for row, token in enumerate((0, 1, BLOCK - 2, BLOCK, BLOCK + 1, vocab - 1)):
        seen[row, min(token, vocab - 1)] = 11.0  # alone in the kept set, or nearly
    seen[6, ::2] = blind[7, ::3] = -math.inf
    as_oracle_says(contrast, seen, blind, 1.0, beta)
    as_oracle_says(contrast, seen[::2], blind[::2], 1.0, beta)  # not contiguous
    as_oracle_says(contrast, seen[:, 1:], blind[:, 1:], 1.0, beta)


# ---- trap 1: half precision

#: A type and a row that is exact in it, with one token a step above the cut-off's edge and one a step below:
#: log 0.1 = −2.302585 itself is −2.296875 in bfloat16 and −2.302734 in float16.
NEAR_THE_CUTOFF = [(torch.bfloat16, [9.0, 6.71875, 6.6875]), (torch.float16, [9.0, 6.69921875, 6.6953125])]


@pytest.mark.parametrize(("dtype", "row"), NEAR_THE_CUTOFF)
def test_half_precision_is_upcast_before_the_cutoff_is_decided(dtype, row):
    seen = torch.tensor([row]).to(dtype)
    assert seen.tolist() == [row]
    got = contrast(seen, torch.zeros_like(seen), alpha=1.0, beta=0.1)
    assert got.dtype == torch.float32
    assert torch.isfinite(got[0]).tolist() == plausible(row, 0.1)


def test_half_precision_keeps_the_set_that_the_oracle_keeps_and_deciding_in_half_would_not():
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.bfloat16, torch.float16):
        seen = (torch.rand(60, 200, generator=generator) * 4 + 16 * torch.rand(60, 1, generator=generator)).to(dtype)
        got = torch.isfinite(contrast(seen, torch.zeros_like(seen), alpha=1.0, beta=0.1))
        want = torch.tensor([plausible(row, 0.1) for row in seen.tolist()])
        in_half = seen >= (torch.tensor(math.log(0.1), dtype=dtype) + seen.amax(-1, keepdim=True))
        assert torch.equal(got, want)
        assert not torch.equal(in_half, want)


# ---- trap 2: normalised


@given(branches(rows=3, forbid=True), ALPHA, BETA)
def test_every_row_is_a_distribution_so_that_beams_add_up_fairly(pair, alpha, beta):
    total = contrast(*pair, alpha=alpha, beta=beta).logsumexp(-1)
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-12)


@given(branches(rows=2), ALPHA, BETA)
def test_log_probabilities_and_logits_give_the_same(pair, alpha, beta):
    seen, blind = pair
    torch.testing.assert_close(
        contrast(seen, blind, alpha=alpha, beta=beta),
        contrast(seen.log_softmax(-1), blind.log_softmax(-1), alpha=alpha, beta=beta * (1 - 1e-12)),
        rtol=1e-9,
        atol=1e-9,
    )


# ---- trap 3: forbidden image-free tokens


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0, 100.0])
def test_a_token_that_the_image_free_branch_forbids_is_preferred_by_a_finite_margin(dtype, alpha):
    for forbidden in (-math.inf, torch.finfo(dtype).min):
        seen = torch.tensor([[1.0, 2.0, 1.5, -9.0]], dtype=dtype)
        blind = torch.tensor([[forbidden, 0.0, 0.5, forbidden]], dtype=dtype)
        got = contrast(seen, blind, alpha=alpha, beta=0.1)
        want = debias_row(seen[0].tolist(), blind[0].tolist(), alpha, 0.1)
        assert torch.isfinite(got[0]).tolist() == [True, True, True, False]
        torch.testing.assert_close(got[0].exp().double(), torch.tensor(want, dtype=torch.float64), rtol=1e-4, atol=1e-6)


def test_a_token_that_both_branches_forbid_stays_forbidden():
    for beta in (0.0, 0.1):
        got = contrast(torch.tensor([[0.0, -math.inf]]), torch.tensor([[0.0, -math.inf]]), alpha=1.0, beta=beta)
        assert got.tolist() == [[0.0, -math.inf]]


# ---- trap 5: batch-mates


@given(branches(rows=4, forbid=True), ALPHA, BETA)
def test_a_row_does_not_depend_on_its_batch_mates(pair, alpha, beta):
    seen, blind = pair
    together = contrast(seen, blind, alpha=alpha, beta=beta)
    for row in range(4):
        alone = contrast(seen[row : row + 1], blind[row : row + 1], alpha=alpha, beta=beta)[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-12, atol=1e-12)


# ---- traps 6 and 7: the cut-off


@pytest.mark.parametrize("beta", [0.1, 0.2, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_token_exactly_at_the_cutoff_stays(beta, dtype):
    edge = torch.tensor(math.log(beta), dtype=dtype)
    below = torch.nextafter(edge, torch.tensor(-math.inf, dtype=dtype))
    seen = torch.stack([torch.zeros((), dtype=dtype), edge, below])[None]
    got = contrast(seen, torch.zeros_like(seen), alpha=1.0, beta=beta)
    assert torch.isfinite(got[0]).tolist() == [True, True, False]


@given(branches(rows=2, forbid=True), BETA)
def test_alpha_0_only_cuts_off(pair, beta):
    seen, blind = pair
    got = contrast(seen, blind, alpha=0.0, beta=beta)
    for row, (logits, others) in enumerate(zip(seen.tolist(), blind.tolist(), strict=True)):
        kept = torch.tensor(plausible(logits, beta))
        want = torch.where(kept, seen[row], -math.inf).log_softmax(-1)
        torch.testing.assert_close(got[row], want, rtol=1e-12, atol=1e-12)
        assert others == blind[row].tolist()


@given(branches(), ALPHA)
def test_beta_1_keeps_all_tied_maxima_and_nothing_else(pair, alpha):
    seen, blind = pair
    got = contrast(seen, blind, alpha=alpha, beta=1.0)
    assert torch.equal(torch.isfinite(got), seen == seen.max())


@given(branches(), st.floats(0.01, 3))
def test_the_cutoff_looks_at_the_image_conditioned_scores_alone(pair, alpha):
    seen, blind = pair
    for beta in (0.1, 0.5):
        kept = torch.isfinite(contrast(seen, blind, alpha=alpha, beta=beta))
        assert torch.equal(kept, torch.isfinite(contrast(seen, blind.flip(-1), alpha=alpha, beta=beta)))


# ---- trap 8: what must not matter


@given(branches(rows=2, forbid=True), ALPHA, BETA, st.integers(-4000, 4000), st.integers(-4000, 4000))
def test_adding_a_constant_to_either_branch_changes_nothing(pair, alpha, beta, up, down):
    seen, blind = pair
    want = contrast(seen, blind, alpha=alpha, beta=beta)
    got = contrast(seen + up / 8, blind + down / 8, alpha=alpha, beta=beta)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@given(branches(rows=2, forbid=True), ALPHA, BETA, st.randoms(use_true_random=False))
def test_renumbering_the_vocabulary_changes_nothing(pair, alpha, beta, random):
    seen, blind = pair
    order = list(range(seen.shape[1]))
    random.shuffle(order)
    want = contrast(seen, blind, alpha=alpha, beta=beta)[:, order]
    torch.testing.assert_close(
        contrast(seen[:, order], blind[:, order], alpha=alpha, beta=beta), want, rtol=1e-9, atol=1e-9
    )


# ---- trap 9: inputs and errors


@given(branches(rows=2, forbid=True), ALPHA, BETA)
def test_inputs_are_not_modified_and_nothing_is_nan(pair, alpha, beta):
    seen, blind = pair
    before = seen.clone(), blind.clone()
    got = contrast(seen, blind, alpha=alpha, beta=beta)
    assert torch.equal(seen, before[0])
    assert torch.equal(blind, before[1])
    assert not got.isnan().any()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("side", ["seen", "blind"])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_nan_or_plus_infinity_is_an_error_that_names_branch_and_row(bad, side, alpha):
    pair = {"seen": torch.zeros(3, 4), "blind": torch.zeros(3, 4)}
    pair[side][1, 2] = bad
    with pytest.raises(ValueError, match=rf"`{side}` has rows \(1\)"):
        contrast(**pair, alpha=alpha, beta=0.1)


@pytest.mark.parametrize("side", ["seen", "blind"])
def test_a_row_in_which_every_token_is_forbidden_is_an_error(side):
    pair = {"seen": torch.zeros(2, 4), "blind": torch.zeros(2, 4)}
    pair[side][0] = -math.inf
    with pytest.raises(ValueError, match=rf"`{side}` has rows \(0\)"):
        contrast(**pair, alpha=1.0, beta=0.1)


@pytest.mark.parametrize(
    ("seen", "blind"), [((2, 5), (2, 6)), ((2, 5), (1, 5)), ((5,), (5,)), ((1, 2, 5), (1, 2, 5)), ((2, 5), (5,))]
)
def test_unequal_or_other_than_two_dimensional_shapes_are_an_error_that_shows_them(seen, blind):
    with pytest.raises(ValueError, match=r"must be \(batch, vocab\)") as error:
        contrast(torch.zeros(seen), torch.zeros(blind), alpha=1.0, beta=0.1)
    assert str(seen) in str(error.value)
    assert str(blind) in str(error.value)


@pytest.mark.parametrize(
    ("alpha", "beta", "name"),
    [
        *[(value, 0.1, "alpha") for value in (-0.1, math.nan, math.inf, True)],
        *[(1.0, value, "beta") for value in (-0.1, 1.1, math.nan, "0.1")],
    ],
)
def test_alpha_and_beta_out_of_range_are_errors_that_name_them(alpha, beta, name):
    with pytest.raises(ValueError, match=f"contrast: {name} is .*; wanted a number"):
        contrast(torch.zeros(1, 3), torch.zeros(1, 3), alpha=alpha, beta=beta)


def test_a_negative_alpha_in_a_tensor_is_an_error_too():
    with pytest.raises(ValueError, match="alpha"):
        contrast(torch.zeros(2, 3), torch.zeros(2, 3), alpha=torch.tensor([[1.0], [-1.0]]), beta=0.1)


def test_nan_in_an_alpha_tensor_is_an_error_and_never_nan_out():
    with pytest.raises(ValueError, match="alpha"):
        contrast(torch.zeros(2, 3), torch.ones(2, 3), alpha=torch.tensor([[1.0], [math.nan]]), beta=0.1)


# ---- schedules


@pytest.mark.parametrize("step", [1, 2, 17, 400])
@pytest.mark.parametrize("decay", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("confidence", [0.1, 0.3, 0.9])
def test_m3ids_strength_is_its_printed_formula_in_double(step, decay, confidence):
    seen = torch.tensor([[0.0, 0.0, 0.0, 0.0], [4.0, 0.0, 0.0, 0.0]], dtype=torch.float64)  # max p = 0.25 and 0.948
    got = m3id_alpha(seen, step, decay=decay, confidence=confidence)
    gamma = math.exp(-decay * step)
    for strength, top in zip(got[:, 0].tolist(), (0.25, 0.948), strict=True):
        assert strength == pytest.approx((1 - gamma) / gamma if top < confidence else 0.0, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("step", [4500, 40_000])
def test_m3ids_strength_in_a_long_text_stays_0_where_the_model_is_sure_and_gives_no_nan_where_it_is_not(step, dtype):
    seen = torch.tensor([[9.0, 0.0, 0.0, 0.0], [1.0, 0.5, 0.0, 0.0]], dtype=dtype)
    alpha = m3id_alpha(seen, step, decay=0.02, confidence=0.9)
    assert float(alpha[0]) == 0
    got = contrast(seen, seen.flip(-1), alpha=alpha, beta=0.0)
    assert not got.isnan().any()
    torch.testing.assert_close(got[0], seen[0].log_softmax(-1))
    assert int(got[1].argmax()) == 0


def test_nolans_strength_stays_between_once_and_twice_its_scale_and_is_finite_for_equal_branches():
    seen = torch.tensor([[0.0, 3.0, -math.inf], [1.0, 1.0, 1.0]])
    blind = torch.tensor([[0.0, 3.0, -math.inf], [80.0, -80.0, 0.0]])
    got = nolan_alpha(seen, blind, scale=0.8)
    assert got.shape == (2, 1)
    assert float(got[0]) == pytest.approx(1.6)
    assert 0.8 < float(got[1]) < 0.9


# ---- planted bugs: this suite can fail


def planted(bug: str):
    """A copy of the formula with one mistake; "" has none."""

    def formula(seen, blind, *, alpha, beta):
        log_p = seen.log_softmax(-1)
        top = seen.max() if bug == "maximum over the whole batch" else seen.amax(-1, keepdim=True)
        low = blind.clamp(min=float("-inf") if bug == "no floor" else -50 + blind.amax(-1, keepdim=True))
        moved = (1 + alpha) * log_p - alpha * low.log_softmax(-1)
        edge = math.log(beta) if beta else -math.inf
        judged, limit = seen - top, torch.tensor(edge, dtype=log_p.dtype)
        if bug == "cut-off on the contrasted distribution":
            judged = moved - moved.amax(-1, keepdim=True)
        if bug == "decided in bfloat16":
            judged, limit = seen.bfloat16() - seen.bfloat16().amax(-1, keepdim=True), limit.bfloat16()
        kept = judged > limit if bug == "< for ≤" else judged >= limit
        if bug == "alpha on the wrong branch":
            moved = (1 + alpha) * low.log_softmax(-1) - alpha * log_p
        out = torch.where(kept, moved, -math.inf)
        return out if bug == "not normalised" else out.log_softmax(-1)

    return formula


def battery():
    """A tie at the cut-off, batches with unequal maxima, a forbidden token, a near miss."""
    tie = torch.tensor([[0.0, math.log(0.5), -3.0]], dtype=torch.float64)
    yield tie, torch.zeros(1, 3, dtype=torch.float64), 1.0, 0.5
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        seen = torch.randint(-32, 33, (3, 9), generator=generator).double() / 8
        yield seen, torch.randint(-32, 33, (3, 9), generator=generator).double() / 8, 1.0, 0.1
    forbidden = torch.tensor([[0.5, 0.0, -math.inf]], dtype=torch.float64)
    yield torch.tensor([[0.0, 0.25, 0.5]], dtype=torch.float64), forbidden, 1.0, 0.1
    near = torch.tensor([[19.375, 17.125, 17.0703125]], dtype=torch.float64)
    yield near, torch.zeros_like(near), 1.0, 0.1


def passes_the_battery(formula) -> None:
    for seen, blind, alpha, beta in battery():
        as_oracle_says(formula, seen, blind, alpha, beta)


BUGS = [
    "< for ≤",
    "maximum over the whole batch",
    "cut-off on the contrasted distribution",
    "not normalised",
    "no floor",
    "decided in bfloat16",
    "alpha on the wrong branch",
]


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught_by_the_oracle(bug):
    with pytest.raises(AssertionError):
        passes_the_battery(planted(bug))


def test_the_formula_without_a_planted_bug_and_the_package_pass_the_same_battery():
    passes_the_battery(contrast)
    passes_the_battery(planted(""))


@given(branches(rows=4, forbid=True), BETA)
def test_several_are_plausible_where_the_cut_off_keeps_more_than_one_token(pair, beta):
    seen, _ = pair
    kept = [sum(plausible(row.tolist(), beta)) for row in seen]
    assert several_plausible(seen, beta=beta).tolist() == [count > 1 for count in kept]


@pytest.mark.parametrize("broken", [[math.nan, 1.0, 0.0], [math.inf, 1.0, 0.0], [-math.inf] * 3])
def test_scores_that_a_contrast_refuses_are_not_passed_over_as_decided(broken):
    assert several_plausible(torch.tensor([broken]), beta=0.1).all()
