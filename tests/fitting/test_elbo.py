"""Batches that stand in no plate, against exact answers."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyro_nf import fit
from pyro_nf.fitting.elbo import PlainSum


def unplated():
    """Latents and observations in batches, as for NUTS; the posterior is N(y / 2, 1 / 2)."""
    theta = pyro.sample("theta", dist.Normal(torch.zeros(3), 1.0))
    pyro.sample("y", dist.Normal(theta, 1.0), obs=torch.tensor([1.0, -2.0, 4.0]))


@pytest.mark.parametrize("particles", [1, None])
def test_batches_need_no_plate(particles):
    posterior = fit(unplated, particles=particles, steps=200, seed=0, progress=False, refine=False)
    torch.manual_seed(0)
    draws = posterior.draws(20_000)["theta"]
    # The errors of means and sds of so many draws are 0.005 and less.
    torch.testing.assert_close(draws.mean(0), torch.tensor([0.5, -1.0, 2.0]), atol=0.02, rtol=0)
    torch.testing.assert_close(draws.std(0), torch.full((3,), 0.5**0.5), atol=0.02, rtol=0)


def test_the_loss_is_that_of_plates():
    def guide():
        pyro.sample("at", dist.Delta(torch.tensor([0.3, 0.4])).to_event(1))

    def model(plate=True):
        at = pyro.sample("at", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        normal = dist.Normal(at, 1.0)
        if plate:
            with pyro.plate("two", 2):
                pyro.sample("y", normal, obs=torch.tensor([1.0, 2.0]))
        else:
            pyro.sample("y", normal, obs=torch.tensor([1.0, 2.0]))

    plated = Trace_ELBO().loss(model, guide)
    assert PlainSum().loss(lambda: model(False), guide) == pytest.approx(plated, abs=1e-5)


def test_draws_without_a_gradient_need_their_plates():
    def latent():
        pyro.sample("k", dist.Bernoulli(torch.full((3,), 0.5)))

    with pytest.raises(ValueError, match="invalid log_prob shape"):
        PlainSum().loss(latent, latent)
