"""Chains in a flow's coordinates: draws of the posterior, also where numerics fail."""

import math

import pytest
import torch
from densities import DOUBLE, flat, scaled, target_of

from pyro_nf.sampling.chains import chains


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
