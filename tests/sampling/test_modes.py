"""A look for several modes: all of them, with their shares, and one left alone."""

import math

import pytest
import torch
from densities import DOUBLE, bumps, flat, scaled, target_of

from pyro_nf.sampling.modes import LEFT, SPREAD, explore, find_summits, scattered


def test_several_modes_are_found_with_their_shares():
    torch.manual_seed(0)
    _, target = target_of(flat(3, bumps))
    middle = torch.full((3,), 3.0, dtype=DOUBLE)  # what a normal approximation knows: one mode
    draws, modes = explore(target, middle, torch.eye(3, dtype=DOUBLE), 4000)
    assert modes == 2
    share = (draws.mean(-1) > 0).double().mean()
    assert abs(share - 0.7) < 0.05


@pytest.mark.parametrize("seed", range(4))
def test_a_mode_is_found_to_which_one_climb_in_two_hundred_leads(seed):
    torch.manual_seed(seed)
    centre = torch.tensor([6.8, 7.8, -4.4, 3.8, -1.3], dtype=DOUBLE)

    def far_and_narrow(u):
        near = -u.square().sum(-1) / 2 + math.log(0.7)
        far = -((u - centre) / 0.5).square().sum(-1) / 2 + math.log(0.3 / 0.5**5)
        return -torch.logaddexp(near, far)

    _, target = target_of(flat(5, far_and_narrow))
    found = explore(target, torch.zeros(5, dtype=DOUBLE), torch.eye(5, dtype=DOUBLE), 4000)
    assert found is not None
    draws, modes = found
    assert modes == 2
    share = ((draws - centre).norm(dim=-1) < 6).double().mean()
    assert abs(share - 0.3) < 0.05


def test_one_mode_is_left_alone():
    torch.manual_seed(0)
    _, target = target_of(flat(2, scaled))
    assert explore(target, torch.zeros(2, dtype=DOUBLE), torch.eye(2, dtype=DOUBLE), 100) is None


@pytest.mark.parametrize("cost", [100.0, 1e9])
def test_each_summit_knows_its_curvature_whatever_a_density_costs(cost):
    torch.manual_seed(0)
    root = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.5, 0.0], [-0.3, 0.2, 2.0]], dtype=DOUBLE)
    precision = torch.cholesky_inverse(root)

    def two(u):
        gaps = torch.stack([u - 6.0, u + 6.0])
        return (-(gaps @ precision * gaps).sum(-1) / 2).logsumexp(0)

    zero, wide = torch.zeros(3, dtype=DOUBLE), torch.full((3,), 6.0, dtype=DOUBLE)
    found = find_summits(two, scattered(zero, wide, 200), zero, wide, cost)
    there = found.left < LEFT  # the others are ends of climbs that have not arrived
    assert there.sum() == 2
    assert torch.allclose(found.centres[there].abs(), torch.tensor(6.0, dtype=DOUBLE), atol=0.1)
    for inverse in found.inverse[there]:
        assert torch.allclose(SPREAD**2 * inverse.mT @ inverse, precision, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("cost", [100.0, 1e9])
def test_climbs_end_where_a_density_is_no_number(cost):
    torch.manual_seed(0)

    def half(u):
        return -(u[:, 0].log() - 1.0).square() - u[:, 1].square()

    one = torch.ones(2, dtype=DOUBLE)
    found = find_summits(half, scattered(one, one, 200), one, one, cost)
    assert torch.allclose(found.centres[0], torch.tensor([math.e, 0.0], dtype=DOUBLE), atol=0.1)
    nowhere = scattered(one, one, 200) * torch.tensor([0.0, 1.0]) - one
    assert find_summits(half, nowhere, one, one, cost) is None
