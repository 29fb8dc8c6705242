"""A model as one log density: whether it is one, and what it is random of."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_nf import AutoFlowGuide
from pyro_nf.model import Target


def noise_that_cancels_at_zero(y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(w * torch.randn(()), 1.0), obs=y)


def noise_that_cancels_on_the_diagonal(y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    pyro.sample("y", dist.Normal((w[0] - w[1]) * torch.randn(()), 1.0), obs=y)


def rows_at_random(y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 3, subsample_size=2) as rows:
        pyro.sample("y", dist.Normal(w, 1.0), obs=torch.stack([y, 2 * y, 3 * y])[rows])


def a_number_that_does_not_matter(y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(w, 1.0), obs=y)
    return w + torch.randn(())


def target_of(model):
    y = torch.tensor(1.0)
    return Target.of(AutoFlowGuide(model, "diag").setup(y), (y,))


@pytest.mark.parametrize(
    ("model", "cause"),
    [
        (noise_that_cancels_at_zero, "draws outside of pyro.sample"),
        (noise_that_cancels_on_the_diagonal, "draws outside of pyro.sample"),
        (rows_at_random, "a subsample of the data"),
    ],
)
def test_a_random_density_is_known_wherever_it_starts(model, cause):
    target = target_of(model)
    assert target.random
    assert not target.vectorized
    assert cause in target.reason


def test_random_numbers_that_do_not_matter_make_no_density_random():
    target = target_of(a_number_that_does_not_matter)
    assert (target.random, target.vectorized) == (False, True)
