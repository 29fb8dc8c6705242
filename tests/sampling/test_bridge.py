"""The bridge from a guide to a posterior: an unbiased evidence, honest errors, shares of modes."""

import math

import pytest
import torch
from densities import DOUBLE, bent

from pyro_nf.flows import make_flow
from pyro_nf.sampling.bridge import ISLANDS, Bridged, _renewed, across, bridged
from pyro_nf.sampling.chains import Chains

EACH = 4  # particles of an island


def identity(dim):
    return make_flow("diag", dim).double()


def begin(log_density, dim, each=EACH, seed=0):
    torch.manual_seed(seed)
    z = torch.randn(ISLANDS * each, dim, dtype=DOUBLE)
    return Chains(log_density, identity(dim), z, jumps=True)


def normal(z):
    return -(z.square() + math.log(2 * math.pi)).sum(-1) / 2


def test_the_mean_weight_is_unbiased_however_few_the_particles_are():
    """A banana, of which quadrature tells the evidence, by many islands of four particles."""
    grid = torch.linspace(-9, 9, 1801, dtype=DOUBLE)
    tall = torch.linspace(-6, 86, 9201, dtype=DOUBLE)
    points = torch.stack(torch.meshgrid(grid, tall, indexing="ij"), -1)
    truth = float((-bent(points)).flatten().logsumexp(0)) + 2 * math.log(0.01)
    chains = begin(lambda u: -bent(u), 2)
    steps = bridged(chains).steps
    assert len(steps) > 2
    found = []
    for _ in range(40):
        chains.start(torch.randn_like(chains.z))
        found.append((bridged(chains, steps).log_weights.logsumexp(-1) - math.log(EACH)).exp())
    ratio = torch.cat(found) / math.exp(truth)
    error = float(ratio.std()) / math.sqrt(len(ratio))
    assert error < 0.05
    assert abs(float(ratio.mean()) - 1) < 3 * error


def test_where_the_weights_are_nearly_equal_draws_stay_where_they_are():
    torch.manual_seed(0)
    z = torch.randn(2048, 2, dtype=DOUBLE)

    def near(u):
        return normal(u) + 0.1 * u[:, 0] + 5

    found = across(near, identity(2), z, near(z) - normal(z), 256)
    assert found.steps == (1.0,)
    assert torch.equal(found.z.flatten(0, 1), z)
    log_evidence, error = found.log_evidence
    assert error < 0.01
    assert abs(log_evidence - 5 - 0.1**2 / 2) < 3 * error


@pytest.mark.parametrize("broken", [math.nan, -math.inf])
def test_what_cannot_be_computed_weighs_nothing(broken):
    """A normal density of half the width, where it can be computed: for positive numbers."""

    def half(u):
        return torch.where(u[:, 0] > 0, -2 * u.square().sum(-1), broken)

    torch.manual_seed(0)
    z = torch.randn(2048, 1, dtype=DOUBLE)
    found = across(half, identity(1), z, half(z) - normal(z), 512)
    log_evidence, error = found.log_evidence
    assert len(found.steps) > 1
    assert error < 0.05
    assert abs(log_evidence - math.log(math.sqrt(math.pi / 2) / 2)) < 3 * error


@pytest.mark.parametrize("asked", [0, 2])
def test_where_it_is_late_the_next_step_is_the_last_and_the_evidence_is_still_unbiased(asked):
    """A normal density of a third of the width, to which there are more than three steps."""

    def third(u):
        return normal(3 * u) + 5

    torch.manual_seed(0)
    z = torch.randn(8192, 1, dtype=DOUBLE)
    weights = third(z) - normal(z)
    torch.manual_seed(1)
    whole = across(third, identity(1), z, weights, 1024)
    torch.manual_seed(1)
    late = iter([False] * asked + [True] * 9)
    found = across(third, identity(1), z, weights, 1024, lambda: next(late))
    assert len(whole.steps) > 3
    assert len(found.steps) == asked + 1
    assert found.steps[:-1] == pytest.approx(whole.steps[:asked])
    assert found.steps[-1] == 1
    assert found.z.shape[:2].numel() == 1024  # no more are sent
    log_evidence, error = found.log_evidence
    assert error < 0.1
    assert abs(log_evidence - 5 + math.log(3)) < 3 * error


def test_without_a_possible_draw_there_is_no_evidence():
    torch.manual_seed(0)
    z = torch.randn(2048, 1, dtype=DOUBLE)
    found = across(lambda u: torch.nan * u.sum(-1), identity(1), z, torch.nan * z[:, 0], 64)
    assert not math.isfinite(found.log_evidence[0])


def test_steps_that_are_unstable_are_rejected():
    """A posterior a hundred times as narrow as the guide, for which all steps are too long."""
    found = bridged(begin(lambda u: -((100 * u).square()).sum(-1) / 2, 1, 32))
    log_evidence, error = found.log_evidence
    assert bool(found.z.isfinite().all())
    assert abs(log_evidence - math.log(math.sqrt(2 * math.pi) / 100)) < max(3 * error, 0.1)


def test_shares_of_modes_are_those_of_the_weights():
    """Two modes of 0.9 and 0.1, four of the guide's standard deviations apart."""

    def two(u):
        parts = [math.log(p) + normal((u - c) / 0.3) for p, c in ((0.9, -2), (0.1, 2))]
        return torch.logaddexp(*parts) - math.log(0.3)

    found = bridged(begin(two, 1, 64))
    weights = found.log_weights.flatten().softmax(0)
    share = float(weights[found.z.flatten() > 0].sum())
    assert abs(share - 0.1) < 0.03  # 2,048 particles, of which some tell the same
    assert abs(found.log_evidence[0]) < 3 * found.log_evidence[1]


def test_an_island_that_has_all_the_weight_makes_the_error_large():
    log_weights = torch.zeros(ISLANDS, EACH, dtype=DOUBLE)
    log_weights[3] = 50.0
    found = Bridged(torch.zeros(ISLANDS, EACH, 1), log_weights, (1.0,))
    assert found.log_evidence[1] == pytest.approx(1.0)
    assert found.log_evidence[0] == pytest.approx(50 - math.log(ISLANDS))


def test_an_island_goes_on_with_its_mean_weight_where_few_particles_have_it():
    chains = begin(lambda u: -u.square().sum(-1), 1)
    before = chains.z.view(ISLANDS, EACH).clone()
    log_weights = torch.zeros(ISLANDS, EACH, dtype=DOUBLE)
    log_weights[0, 2] = 30.0
    log_weights[1] = -torch.inf
    after = _renewed(chains, log_weights)
    z = chains.z.view(ISLANDS, EACH)
    assert torch.allclose(after.logsumexp(-1)[[0, 2]], log_weights.logsumexp(-1)[[0, 2]])
    assert z[0].tolist() == [float(before[0, 2])] * EACH
    assert torch.equal(z[1:], before[1:])
    assert torch.equal(after[1:], log_weights[1:])
