"""The log density of a model over one vector."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from densities import target_of


@pytest.mark.parametrize(
    "noise",
    [
        lambda x: x * torch.randn(()),  # none where a guide starts, at zero
        lambda x: torch.randn(()) + 0 * x,
    ],
)
def test_noise_of_a_models_own_makes_its_density_random(noise):
    def model():
        x = pyro.sample("x", dist.Normal(torch.zeros(()), 1.0))
        pyro.factor("noise", noise(x))

    _, target = target_of(model)
    assert target.random
    assert not target.vectorized
    assert "numbers that it draws itself" in target.reason
