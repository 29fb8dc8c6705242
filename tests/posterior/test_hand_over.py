"""Posterior.initial_params: where other samplers may start."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS
from pyro.infer.mcmc.util import initialize_model
from torch.distributions import biject_to

from pyro_nf import AutoFlowGuide, Posterior

DATA = torch.tensor([0.3, 1.0, 0.7])


def model(data):
    pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
    pyro.sample("corner", dist.LKJCholesky(2, 1.0))
    low = pyro.sample("low", dist.Uniform(0.0, 1.0))
    pyro.sample("high", dist.Uniform(low, 2.0))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    pyro.sample("which", dist.Bernoulli(0.5))
    with pyro.plate("data", len(data)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(low + z, scale), obs=data)


@pytest.fixture(scope="module")
def posterior():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    shown = pyro.poutine.block(model, hide=["which"])
    return Posterior(model, AutoFlowGuide(shown, "diag").setup(DATA), DATA)


def test_they_are_draws_in_unconstrained_coordinates(posterior):
    pyro.set_rng_seed(1)
    free = posterior.initial_params(5)
    pyro.set_rng_seed(1)
    draws = posterior.draws(5)
    assert free.keys() == posterior.shapes.keys()  # without what is summed out
    for index in range(5):
        row = {name: value[index] for name, value in draws.items()}
        given = pyro.poutine.trace(pyro.poutine.condition(model, row)).get_trace(DATA)
        for name, value in free.items():
            back = biject_to(given.nodes[name]["fn"].support)(value[index])
            assert torch.allclose(back, row[name], atol=1e-5)


def test_pyros_sampler_starts_there(posterior):
    def continuous(data):
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        with pyro.plate("data", len(data)):
            pyro.sample("x", dist.Normal(0.0, scale), obs=data)

    pyro.set_rng_seed(0)
    one = Posterior(continuous, AutoFlowGuide(continuous, "diag").setup(DATA), DATA)
    start = one.initial_params(1)
    _, potential, _, _ = initialize_model(continuous, (DATA,))
    assert torch.isfinite(potential(start))
    mcmc = MCMC(
        NUTS(continuous),
        initial_params=start,
        num_samples=5,
        warmup_steps=5,
        disable_progbar=True,
    )
    mcmc.run(DATA)
    assert mcmc.get_samples()["scale"].shape == (5,)


def test_a_number_of_chains_is_a_whole_one(posterior):
    with pytest.raises(ValueError, match="the number of chains must be 1 or more"):
        posterior.initial_params(0)
