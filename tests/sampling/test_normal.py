"""Warm starts: the normal approximation in whose coordinates a flow begins."""

import math
from functools import partial

import pytest
import torch

from pyro_nf import fit
from pyro_nf.examples import EIGHT_SCHOOLS, eight_schools
from pyro_nf.model import scored
from pyro_nf.sampling import normal as whiten
from pyro_nf.sampling.normal import BRIEF, ROUNDS, Coordinates, climb, find_coordinates

D = 5


def fit_normal(log_density, *args):
    *_, found = whiten.fit_normal(partial(scored, log_density), *args)
    return found


def narrow(dim):
    return 0.1 * torch.eye(dim, dtype=torch.float64)


def correlated(u):
    """The log density of a normal distribution with scales from 1e-3 to 1, log Z = 1.5."""
    scales = torch.logspace(-3, 0, D).to(u)
    mix = torch.eye(D).to(u) + 0.5 * torch.ones(D, D).to(u).tril(-1)
    z = torch.linalg.solve_triangular(mix, ((u - 7.0) / scales).unsqueeze(-1), upper=False)
    log_det = scales.log().sum()
    return 1.5 - z.squeeze(-1).square().sum(-1) / 2 - log_det - D * math.log(2 * math.pi) / 2


def volatility(count=60):
    """The log density of a random walk of log variances, in non-centred coordinates."""
    generator = torch.Generator().manual_seed(0)
    steps = 0.4 * torch.randn(count, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, generator=generator, dtype=torch.float64)
    data = (steps.cumsum(0) / 2).exp() * noise

    def log_density(u):
        level, log_sigma, z = u[..., 0], u[..., 1], u[..., 2:]
        h = level.unsqueeze(-1) + log_sigma.exp().unsqueeze(-1) * z.cumsum(-1)
        prior = level.square() / 18 + (log_sigma + 1).square() / 2 + z.square().sum(-1) / 2
        return -prior - (h + data.square() * (-h).exp()).sum(-1) / 2

    return log_density, count + 2


def test_normal_posteriors_are_found():
    """As near as an effective share of a half asks for, where the rounds end."""
    found = find_coordinates(correlated, torch.zeros(D, dtype=torch.float64), narrow(D))
    assert found.elbo == pytest.approx(1.5, abs=0.2)
    assert found.elbo < 1.5
    assert found.ess > 0.8
    scales = torch.logspace(-3, 0, D, dtype=torch.float64)
    assert ((found.shift - 7.0) / scales).abs().max() < 0.5
    assert (found.scale_tril.diagonal() / scales).log().abs().max() < 0.1


def test_the_bound_does_not_depend_on_where_the_steps_start():
    """Rounds that lead downhill are taken back: without, these bounds differ by 80 nats."""
    log_density, dim = volatility()
    generator = torch.Generator().manual_seed(2)
    bounds = []
    for _ in range(6):
        start = 0.3 * torch.randn(dim, generator=generator, dtype=torch.float64)
        bounds.append(fit_normal(log_density, start, narrow(dim)).elbo)
    assert max(bounds) - min(bounds) < 2.0  # about as far as the last rounds wander


def test_draws_too_wild_are_looked_at_more_closely():
    """From a scale a million times too wide, where all else has failed, too."""

    def log_density(u):
        far = (u.abs() > 100).any(-1)
        return torch.where(far, torch.nan, -u.square().sum(-1) / 2)

    wide = 1e6 * torch.eye(D, dtype=torch.float64)
    found = fit_normal(log_density, torch.zeros(D, dtype=torch.float64), wide)
    assert found.ess > 0.5  # where the rounds end


def test_where_nothing_is_finite_there_is_no_approximation():
    calls = []

    def log_density(u):
        calls.append(len(u))
        return torch.full(u.shape[:-1], math.nan).to(u) + 0 * u.sum(-1)

    assert find_coordinates(log_density, torch.zeros(D, dtype=torch.float64), narrow(D)) is None
    assert len(calls) < 4 * ROUNDS + 500


@pytest.mark.parametrize(("behind", "expected"), [(D + 1.0, BRIEF), (D - 1.0, ROUNDS)])
def test_rounds_from_the_mode_end_early_where_others_are_far_ahead(monkeypatch, behind, expected):
    taken = []

    def fit_normal(_, shift, tril, most):
        taken.append(0)
        own = len(taken) - 1
        for _ in range(most):
            taken[own] += 1
            yield Coordinates(shift, tril, -behind if own == 0 else 0.0, 0.1)

    monkeypatch.setattr(whiten, "fit_normal", fit_normal)
    find_coordinates(correlated, torch.zeros(D, dtype=torch.float64), narrow(D))
    assert taken == [expected, ROUNDS]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_dimension(dtype):
    def log_density(u):
        return -((u - 3).square() * 50).sum(-1)

    found = find_coordinates(
        log_density, torch.zeros(1, dtype=dtype), torch.full((1,), 0.1, dtype=dtype)
    )
    assert found.scale_tril.dtype == dtype
    assert float(found.shift) == pytest.approx(3.0, abs=1e-3)
    assert float(found.scale_tril) == pytest.approx(0.1, rel=1e-3)


def test_the_climb_ends_at_the_mode_of_a_badly_scaled_density():
    scale = torch.logspace(-4, 2, 7, dtype=torch.float64)

    def log_density(u):
        return -((u - scale) / scale).square().sum(-1) / 2

    found = climb(partial(scored, log_density), torch.zeros(7, dtype=torch.float64))
    torch.testing.assert_close(found / scale, torch.ones(7, dtype=torch.float64), rtol=0, atol=1e-3)


def test_an_error_of_our_own_is_no_failing_numerics(monkeypatch):
    """A size mismatch planted in the warm start flies; before, it gave a guide without one."""

    def mismatched(log_density, mode):
        return torch.eye(len(mode) + 1, dtype=mode.dtype)

    monkeypatch.setattr("pyro_nf.sampling.normal.curvature", mismatched)
    with pytest.raises(RuntimeError, match=r"size|shape"):
        fit(eight_schools, *EIGHT_SCHOOLS.data, steps=5, progress=False)
