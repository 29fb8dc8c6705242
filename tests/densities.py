"""Densities of known shape, as models and as targets, for tests of what looks at a density."""

import math

import pyro
import pyro.distributions as dist
import torch

from pyro_nf import AutoFlowGuide
from pyro_nf.model.target import Target

DOUBLE = torch.float64


def flat(dim, energy):
    """A model whose log posterior is minus an energy."""

    def model():
        zero = torch.zeros(dim, dtype=DOUBLE)
        u = pyro.sample("u", dist.Normal(zero, 1.0).to_event(1))
        pyro.factor("energy", u.square().sum(-1) / 2 - energy(u))

    return model


def bumps(u):
    """Two normal distributions, of shares 0.7 and 0.3, some eight standard deviations apart."""
    left = -(u - 3.0).square().sum(-1) / 2 + math.log(0.7)
    right = -(u + 3.0).square().sum(-1) / 2 + math.log(0.3)
    return -torch.logaddexp(left, right)


def bent(u):
    """A banana."""
    return u[..., 0].square() / 2 + (u[..., 1] - u[..., 0].square()).square()


def scaled(u):
    return (u / torch.tensor([1.0, 3.0], dtype=DOUBLE)).square().sum(-1) / 2


def target_of(model, flow="diag", **options):
    guide = AutoFlowGuide(model, flow, **options).setup()
    return guide, Target.of(guide)
