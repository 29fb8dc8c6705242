"""Of what a density of two dimensions can be drawn."""

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer.autoguide.guides import AutoContinuous, AutoGuide
from torch import Tensor
from torch.distributions import Distribution

from pyro_nf.flows import Flow

__all__ = ["density_of"]

SAMPLE = 2000  # draws, around which the limits of a picture are

Density = Callable[[Tensor], Tensor]


def density_of(target: Any) -> tuple[Density, Tensor | None]:
    """The log density of a target, and draws of it if it can be drawn from.

    Arguments:
        target: A flow, for what it makes of a standard normal distribution; an autoguide that
            packs its sites into a vector, in unconstrained coordinates; a distribution; or a
            function from points of shape ``(n, 2)`` to log densities.
    """
    if isinstance(target, Flow):
        return _of_flow(target)
    if isinstance(target, AutoContinuous):
        return _of_distribution(target.get_posterior())
    if isinstance(target, Distribution):
        return _of_distribution(target)
    if callable(target) and not isinstance(target, AutoGuide):
        return target, None
    raise TypeError(f"expected a flow, a guide, a distribution or a function, got {target!r}")


@torch.no_grad()
def _of_flow(flow: Flow) -> tuple[Density, Tensor]:
    _check_two(flow.dim)
    like = next(iter(flow.parameters()), torch.empty(0))
    noise = torch.randn(SAMPLE, flow.dim, generator=torch.Generator().manual_seed(0))

    def log_density(points: Tensor) -> Tensor:
        x, log_det = flow.inverse_and_log_det(points.to(like))
        return log_det - x.square().sum(-1) / 2 - math.log(2 * math.pi)

    return log_density, flow.forward_and_log_det(noise.to(like))[0]


@torch.no_grad()
def _of_distribution(distribution: Distribution) -> tuple[Density, Tensor]:
    with torch.random.fork_rng(devices=[]):
        sample = distribution.sample(torch.Size([SAMPLE]))
    _check_two(sample.shape[-1] if sample.dim() == 2 else 0)
    return lambda points: distribution.log_prob(points.to(sample)), sample


def _check_two(dim: int) -> None:
    if dim != 2:
        raise ValueError(f"a density is drawn of two dimensions, and this has {dim}")
