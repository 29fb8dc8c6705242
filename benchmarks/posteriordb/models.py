"""Two posteriors of posteriordb, https://github.com/stan-dev/posteriordb, as Pyro models.

Each function takes the data and returns a model without arguments.
"""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import transform_to


class Flat(dist.ImproperUniform):
    """A flat prior, with the dtype of `like`, of which guides can draw a value to start with."""

    def __init__(self, support, like):
        super().__init__(support, torch.Size(), torch.Size())
        self._like = like.new_empty(())

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Flat":
        new = super().expand(batch_shape, self._get_checked_instance(Flat, _instance))
        new._like = self._like
        return new

    def sample(self, sample_shape=()):
        shape = torch.Size(sample_shape) + self.batch_shape
        return transform_to(self.support)(self._like.new_empty(shape).normal_())


def eight_schools_noncentered(data: dict[str, Tensor]):
    """y ~ Normal(mu + tau z, sigma), z ~ Normal(0, 1), mu ~ Normal(0, 5), tau ~ HalfCauchy(5)."""
    y, sigma = data["y"], data["sigma"]

    def model():
        mu = pyro.sample("mu", dist.Normal(y.new_tensor(0.0), 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(y.new_tensor(5.0)))
        with pyro.plate("schools", len(y)):
            z = pyro.sample("theta_trans", dist.Normal(y.new_tensor(0.0), 1.0))
            pyro.sample("y", dist.Normal(mu + tau * z, sigma), obs=y)

    return model


def kilpisjarvi(data: dict[str, Tensor]):
    """y ~ Normal(alpha + beta x, sigma), alpha and beta normal, sigma > 0 flat."""
    x, y = data["x"], data["y"]

    def model():
        alpha = pyro.sample("alpha", dist.Normal(data["pmualpha"], data["psalpha"]))
        beta = pyro.sample("beta", dist.Normal(data["pmubeta"], data["psbeta"]))
        sigma = pyro.sample("sigma", Flat(constraints.positive, y))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(alpha + beta * x, sigma), obs=y)

    return model
