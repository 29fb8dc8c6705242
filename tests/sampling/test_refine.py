"""Chains that go on where a flow ends, until they have arrived."""

import math
from dataclasses import replace

import pytest
import torch

from pyro_nf.flows import make_flow
from pyro_nf.sampling.bridge import Bridged
from pyro_nf.sampling.refine import (
    ARRIVED,
    CHOICE,
    FEWEST,
    LOOPED,
    MOST,
    SUPERCHAINS,
    Phase,
    how_many,
    phases,
    starts,
)

CHAINS = 16


def begin(dim, seed=0):
    torch.manual_seed(seed)
    z = torch.randn(SUPERCHAINS, 1, dim, dtype=torch.float64)
    return z.expand(-1, CHAINS, -1)


def identity(dim):
    return make_flow("diag", dim).double()


def test_they_end_in_the_posterior_from_a_flow_that_is_not():
    """A normal distribution of which the flow has neither the mean nor the widths."""
    mean = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    tril = torch.tensor([[1.0, 0, 0], [0.5, 0.6, 0], [-0.3, 0.2, 2.0]], dtype=torch.float64)
    posterior = torch.distributions.MultivariateNormal(mean, scale_tril=tril)
    for phase in phases(posterior.log_prob, identity(3), begin(3), 20):
        if phase.has_arrived:
            break
        assert phase.transitions < 1000
    u = phase.u.flatten(0, 2)
    width = posterior.stddev
    # A draw of each chain is worth one of its own at the least: 512 have errors of 0.044.
    assert float(((u.mean(0) - mean) / width).abs().max()) < 0.1
    assert float((u.std(0) / width).log().abs().max()) < 0.1


def test_each_phase_goes_as_far_as_all_before():
    run = phases(lambda u: -u.square().sum(-1) / 2, identity(1), begin(1), 3)
    found = [next(run) for _ in range(3)]
    assert [phase.transitions for phase in found] == [32, 64, 128]
    assert [phase.u.shape for phase in found] == [(16, SUPERCHAINS, CHAINS, 1)] * 3


def test_modes_that_they_cannot_leave_keep_them_from_arriving():
    def log_density(u):
        return torch.logaddexp(-(u - 6).square().sum(-1), -(u + 6).square().sum(-1))

    run = phases(log_density, identity(1), 6 * begin(1).sign(), 20)
    found = [next(run) for _ in range(3)]
    assert not any(phase.has_arrived for phase in found)
    assert all(bool(phase.away.all()) for phase in found)


def test_a_density_that_cannot_be_computed_keeps_them_from_arriving():
    run = phases(lambda u: torch.nan * u.sum(-1), identity(1), begin(1), 20)
    assert not next(run).has_arrived


@pytest.mark.parametrize(
    ("work", "memory", "expected"),
    [
        (100.0, 10**6, MOST),
        (10_000.0, 10**6, 256),
        (1e9, 10**6, FEWEST),
        (math.inf, 10**6, LOOPED),
        (100.0, 300, 256),
        (100.0, 1, 2 * SUPERCHAINS),
    ],
)
def test_a_dear_density_has_fewer_chains(work, memory, expected):
    assert how_many(work, memory) == expected


@pytest.mark.parametrize(("chains", "mark"), [(2, ARRIVED), (8, ARRIVED), (32, 1.0039)])
def test_however_many_chains_there_are_each_must_have_moved(chains, mark):
    """That of four independent draws each, 1 + 1 / (2 * 4 * M), where that is less."""
    r_hat = torch.tensor([1.0, 1 + 1 / (7 * chains)])
    u = torch.zeros(1, SUPERCHAINS, chains, 2)
    phase = Phase(u, r_hat, 1.0, torch.zeros(2), 32)
    assert phase.mark == pytest.approx(mark, abs=1e-5)
    assert phase.is_slow
    assert not phase.has_arrived
    assert phase.away.tolist() == [False, True]
    assert not replace(phase, r_hat=1 + (r_hat - 1) / 2).is_slow
    assert replace(phase, r_hat=torch.ones(2)).has_arrived
    assert not replace(phase, r_hat=torch.ones(2), r_hat_log_p=1.02).has_arrived
    assert not replace(phase, r_hat=torch.ones(2), drift=torch.full((2,), 0.1)).has_arrived
    assert replace(phase, r_hat=torch.full((2,), torch.nan)).is_slow


def draws(count, dim=1):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(1)).double()


def as_they_are(z, log_weights):
    """The way from a guide to a posterior where there is none to go."""
    return Bridged(z.unsqueeze(0), log_weights.unsqueeze(0), (1.0,))


def started(z, log_weights):
    usable = torch.where(log_weights.isfinite(), log_weights, -torch.inf)
    return starts(z, log_weights, as_they_are(z, usable))


def test_superchains_start_apart_also_where_one_draw_has_all_the_weight():
    torch.manual_seed(0)
    z = draws(CHOICE * SUPERCHAINS)
    log_weights = torch.randn(len(z), dtype=torch.float64)
    log_weights[7] = 100.0
    log_weights[8] = torch.nan
    found = started(z, log_weights)[:, 0].tolist()
    assert len(set(found)) == SUPERCHAINS
    assert float(z[7]) in found
    assert float(z[8]) not in found


def test_half_of_them_start_where_the_weights_are():
    torch.manual_seed(0)
    z = draws(10_000)
    log_weights = math.log(3.0) * (z[:, 0] > 0).double()
    half = SUPERCHAINS // 2
    found = [float((started(z, log_weights)[:half] > 0).double().mean()) for _ in range(200)]
    assert abs(sum(found) / 200 - 0.75) < 0.04  # standard error 0.008


def test_that_half_starts_at_the_end_of_the_way():
    torch.manual_seed(0)
    way = Bridged(draws(640).view(32, 20, 1) + 100, torch.zeros(32, 20).double(), (0.5, 1.0))
    found = starts(draws(2000), torch.zeros(2000).double(), way)
    assert bool((found[: SUPERCHAINS // 2] > 90).all())
    assert bool((found[SUPERCHAINS // 2 :] < 90).all())


def test_modes_that_a_guide_covers_have_their_shares():
    """Shares of 0.7 and 0.3, between which no steps lead; each superchain starts in one."""

    def log_density(u):
        parts = [math.log(p) - 8 * (u - c).square().sum(-1) for p, c in ((0.7, 1.5), (0.3, -1.5))]
        return torch.logaddexp(*parts)

    for phase in phases(log_density, identity(1), 1.5 * begin(1).sign(), 20):
        if phase.has_arrived:
            break
        assert phase.transitions < 1000
    # Superchains differ by as much as the share of independent draws would, four of each chain.
    error = math.sqrt(0.21 / (4 * SUPERCHAINS * CHAINS))
    assert abs(float((phase.u > 0).double().mean()) - 0.7) < 4 * error


@pytest.mark.parametrize("dim", [1, 100])
def test_the_others_surround_the_guide(dim):
    torch.manual_seed(0)
    z = draws(10_000, dim)
    found = torch.stack([started(z, torch.zeros(10_000).double()) for _ in range(100)])
    radius = found[:, SUPERCHAINS // 2 :].square().sum(-1).mean()
    # The mean square of 1 + 3 r / sqrt(D), r uniform, times D.
    c = 3 / math.sqrt(dim)
    expected = dim * (1 + c + c * c / 3)
    assert abs(float(radius) / expected - 1) < 0.1


def test_a_guide_without_possible_draws_is_refused():
    log_weights = torch.full((2000,), -torch.inf).index_fill(0, torch.arange(3), 0.0)
    with pytest.raises(ValueError, match="3 of 2000 draws of the guide have a finite density"):
        started(draws(2000), log_weights)
