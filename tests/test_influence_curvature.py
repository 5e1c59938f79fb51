"""Conjugate gradients against dense solves, and the Nyström sketch against dense eigenvalues."""

from __future__ import annotations

import math

import pytest
import torch

from vdd.influence.curvature import sketch, solve

SIZE = 30


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def matrix(values, seed=0):
    """Symmetric, with these eigenvalues."""
    basis = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator(seed), dtype=torch.float64)).Q
    return basis @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ basis.T


def vector(size=SIZE, seed=9):
    return torch.randn(size, generator=generator(seed), dtype=torch.float64)


class Counted:
    """Products with a matrix, counted."""

    def __init__(self, a):
        self.a, self.calls = a, 0

    def __call__(self, x):
        self.calls += 1
        return self.a @ x


def test_the_solution_is_that_of_a_dense_solve():
    a, b = matrix(torch.linspace(0.5, 20, SIZE).tolist()), vector()
    found, how = solve(product := Counted(a), b, tolerance=1e-12, max_products=200)
    torch.testing.assert_close(found, torch.linalg.solve(a, b), rtol=1e-10, atol=1e-11)
    assert how.converged
    assert how.products == product.calls
    assert how.residual == pytest.approx(float((b - a @ found).norm() / b.norm()), rel=1e-6)
    assert 0.5 - 1e-9 <= how.smallest_curvature <= 20


def test_the_residual_is_the_true_one_though_the_recursion_has_drifted():
    a, b = matrix(torch.logspace(0, 11, SIZE).tolist()), vector()
    found, how = solve(lambda x: a @ x, b, tolerance=1e-14, max_products=300)
    assert how.residual == pytest.approx(float((b - a @ found).norm() / b.norm()), rel=1e-6)
    assert how.converged == (how.residual <= 1e-14)


def test_a_solve_that_is_cut_short_says_so():
    a, b = matrix(torch.logspace(0, 4, SIZE).tolist()), vector()
    found, how = solve(product := Counted(a), b, tolerance=1e-10, max_products=3)
    assert not how.converged
    assert how.residual == pytest.approx(float((b - a @ found).norm() / b.norm()), rel=1e-9)
    assert how.products == product.calls <= 4


@pytest.mark.parametrize("worst", [-5.0, 0.0])
def test_a_direction_that_does_not_bend_up_ends_the_search_and_is_no_convergence(worst):
    values = [worst] * 10 + torch.linspace(1, 3, SIZE - 10).tolist()
    found, how = solve(lambda x: matrix(values) @ x, vector(), tolerance=1e-8, max_products=100)
    assert not how.converged
    assert found.isfinite().all()
    assert how.smallest_curvature < 1e-9


def test_a_search_that_goes_astray_gives_the_best_that_it_passed():
    a, b = matrix(torch.logspace(-3, 3, SIZE).tolist()), vector()
    noise = torch.randn(SIZE, SIZE, generator=generator(1), dtype=torch.float64)
    found, how = solve(lambda x: a @ x + 1e-4 * noise @ x, b, tolerance=1e-12, max_products=200)
    assert how.residual <= 1.0
    assert found.norm() < 1e4 * b.norm()


def test_a_start_at_the_solution_needs_no_step():
    a, b = matrix(torch.logspace(0, 3, SIZE).tolist()), vector()
    found, how = solve(lambda x: a @ x, b, tolerance=1e-8, max_products=100, start=torch.linalg.solve(a, b))
    assert how.products <= 2
    assert how.converged
    torch.testing.assert_close(found, torch.linalg.solve(a, b))


def test_nothing_on_the_right_gives_nothing_on_the_left():
    found, how = solve(Counted(matrix([1.0] * SIZE)), torch.zeros(SIZE), tolerance=1e-8, max_products=5)
    assert not found.any()
    assert how.converged
    assert how.products == 0


def test_the_inputs_stay_as_they_are():
    a, b, start = matrix(torch.linspace(1, 9, SIZE).tolist()), vector(), vector(seed=3)
    before = b.clone(), start.clone()
    solve(lambda x: a @ x, b, tolerance=1e-8, max_products=50, start=start)
    assert torch.equal(b, before[0])
    assert torch.equal(start, before[1])


@pytest.mark.parametrize("rank", [6, 10])
def test_a_sketch_of_a_low_rank_matrix_is_the_matrix_even_where_it_has_more_columns(rank):
    values = [50.0, 20.0, 9.0, 4.0, 1.0, 0.3] + [0.0] * (SIZE - 6)
    a = matrix(values)
    found = sketch(lambda x: a @ x, SIZE, rank, 0.1, a, generator())
    torch.testing.assert_close(found.values[:6], torch.tensor(values[:6], dtype=torch.float64), rtol=1e-9, atol=1e-10)
    assert float(found.values[6:].sum()) < 1e-9
    torch.testing.assert_close(found.vectors @ torch.diag(found.values) @ found.vectors.T, a, rtol=1e-9, atol=1e-9)
    eye = torch.eye(rank, dtype=torch.float64)
    torch.testing.assert_close(found.vectors.T @ found.vectors, eye, rtol=0, atol=1e-10)


def test_a_sketch_never_overrates_the_matrix():
    a = matrix(torch.logspace(2, -3, SIZE).tolist())
    found = sketch(lambda x: a @ x, SIZE, 8, 0.1, a, generator())
    gap = a - found.vectors @ torch.diag(found.values) @ found.vectors.T
    assert float(torch.linalg.eigvalsh(gap).min()) > -1e-9
    assert found.values.tolist() == sorted(found.values.tolist(), reverse=True)


def test_the_preconditioner_is_the_inverse_of_the_sketch_and_the_identity_elsewhere():
    a = matrix([50.0, 20.0, 9.0, 4.0] + [0.0] * (SIZE - 4))
    found = sketch(lambda x: a @ x, SIZE, 4, 0.5, a, generator())
    applied = torch.stack([found.apply(column) for column in torch.eye(SIZE, dtype=torch.float64)])
    want = (4.0 + 0.5) * torch.linalg.inv(a + 0.5 * torch.eye(SIZE, dtype=torch.float64))
    inside = found.vectors @ found.vectors.T
    outside = torch.eye(SIZE, dtype=torch.float64) - inside
    torch.testing.assert_close(applied, inside @ want + outside, rtol=1e-9, atol=1e-9)


def test_fewer_products_are_needed_with_a_sketch_than_without():
    a = matrix(torch.logspace(4, 0, 8).tolist() + torch.linspace(0.05, 0, SIZE - 8).tolist())
    bent = a + 0.01 * torch.eye(SIZE, dtype=torch.float64)
    found = sketch(lambda x: a @ x, SIZE, 10, 0.01, a, generator())
    plain, bare = solve(lambda x: bent @ x, vector(), tolerance=1e-8, max_products=400)
    helped, how = solve(lambda x: bent @ x, vector(), tolerance=1e-8, max_products=400, precondition=found.apply)
    assert how.converged
    assert how.products < 0.6 * bare.products
    torch.testing.assert_close(helped, torch.linalg.solve(bent, vector()), rtol=1e-5, atol=1e-5)
    assert plain.shape == helped.shape


@pytest.mark.parametrize("rank", [4, 12])
def test_singular_sketches_and_solves_work_in_float32(rank):
    a = matrix([100.0, 40.0, 3.0] + [0.0] * (SIZE - 3)).float()
    found = sketch(lambda x: a @ x, SIZE, rank, 0.1, a, generator())
    assert found.values.dtype == torch.float32
    # in float32 every value is right to a share of the largest, the small ones too
    torch.testing.assert_close(found.values[:3], torch.tensor([100.0, 40.0, 3.0]), rtol=0, atol=1e-4 * 100)
    bent = a + 0.1 * torch.eye(SIZE)
    x, how = solve(lambda v: bent @ v, vector().float(), tolerance=1e-3, max_products=20, precondition=found.apply)
    assert how.converged
    want = torch.linalg.solve(bent.double(), vector().float().double())
    torch.testing.assert_close(x.double(), want, rtol=1e-2, atol=1e-2)


def test_a_matrix_of_nothing_is_sketched_as_nothing():
    found = sketch(torch.zeros_like, SIZE, 3, 0.2, torch.zeros(SIZE, dtype=torch.float64), generator())
    assert not found.values.any()
    torch.testing.assert_close(found.apply(vector()), vector())
    assert math.isclose(found.shift, 0.2)
