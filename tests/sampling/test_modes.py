"""A look for several modes: all of them, with their shares, and one left alone."""

import math

import pytest
import torch
from densities import DOUBLE, bumps, flat, scaled, target_of

from pyro_nf.sampling.modes import explore


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
