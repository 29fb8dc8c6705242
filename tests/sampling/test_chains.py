"""Chains in a flow's coordinates: draws of the posterior, also where numerics fail."""

import math

import pytest
import torch
from densities import DOUBLE, flat, scaled, target_of

from pyro_nf.flows import make_flow
from pyro_nf.sampling.chains import TRIED, Chains, chains


def test_chains_draw_from_the_posterior_wherever_they_start():
    torch.manual_seed(0)
    guide, target = target_of(flat(2, scaled), init_scale=1.0)
    draws = chains(target, guide.get_transform(), torch.full((400, 2), 2.0, dtype=DOUBLE))
    # The draws of a chain are alike; there are at least as many free ones as chains.
    error = torch.tensor([1.0, 3.0], dtype=DOUBLE) / 20
    assert bool((draws.mean(0).abs() < 4 * error).all())
    assert bool(((draws.std(0) / torch.tensor([1.0, 3.0]) - 1).abs() < 4 / 28).all())


def test_chains_go_on_where_the_numerics_of_one_fail():
    torch.manual_seed(0)

    def energy(u):
        factor = torch.linalg.cholesky((3.5 - u.abs()).reshape(1, 1))
        return u.square().sum(-1) / 2 + 0 * factor.sum()

    guide, target = target_of(flat(1, energy), init_scale=1.0)
    draws = chains(target, guide.get_transform(), torch.zeros(64, 1, dtype=DOUBLE))
    with pytest.raises(torch.linalg.LinAlgError):
        energy(torch.tensor([4.0], dtype=DOUBLE))
    assert math.isnan(float(target(torch.tensor([4.0], dtype=DOUBLE))))
    assert float(draws.abs().max()) <= 3.5
    # There are at least as many free draws as chains.
    assert abs(float(draws.std()) - 1) < 4 / math.sqrt(2 * 64)


def identity(dim):
    return make_flow("diag", dim).double()


@pytest.mark.parametrize("jumps", [False, True])
def test_on_the_way_they_draw_from_the_density_between(jumps):
    """Between N(0, 1) and N(1, 1 / 4), at b = 1/2, lies N(4 / 5, 2 / 5)."""
    torch.manual_seed(0)
    start = torch.zeros(1000, 1, dtype=DOUBLE)
    moving = Chains(lambda u: -2 * (u - 1).square().sum(-1), identity(1), start, jumps=jumps)
    moving.b = 0.5
    for _ in range(20):
        moving.go()
    assert abs(float(moving.z.mean()) - 0.8) < 4 * math.sqrt(0.4 / 1000)
    assert abs(float(moving.z.var()) / 0.4 - 1) < 4 * math.sqrt(2 / 1000)


def test_jumps_lead_from_mode_to_mode():
    """Two modes of 0.7 and 0.3, twelve standard deviations apart; all chains start in one."""

    def log_density(u):
        parts = [math.log(p) - 8 * (u - c).square().sum(-1) for p, c in ((0.7, 1.5), (0.3, -1.5))]
        return torch.logaddexp(*parts)

    torch.manual_seed(0)
    share = []
    for jumps in (False, True):
        start = torch.full((1000, 1), 1.5, dtype=DOUBLE)
        moving = Chains(log_density, identity(1), start, jumps=jumps)
        for _ in range(40):
            moving.go()
        share.append(float((moving.z > 0).double().mean()))
    assert share[0] > 0.95
    assert abs(share[1] - 0.7) < 4 * math.sqrt(0.21 / 1000)


def test_they_jump_no_more_where_next_to_none_do():
    torch.manual_seed(0)
    start = torch.zeros(200, 8, dtype=DOUBLE)
    narrow = Chains(lambda u: -(u / 0.1).square().sum(-1) / 2, identity(8), start, jumps=True)
    for _ in range(TRIED):
        assert narrow.jumps
        narrow.go()
    assert not narrow.jumps
