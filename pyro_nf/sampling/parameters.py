"""The parameters of a log density, moved to where its evidence is largest."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_nf.model import LogDensity
from pyro_nf.sampling.normal import GOOD, HALF, LBFGS, MARGIN, Coordinates, find_coordinates

__all__ = ["Climbed", "climb_evidence"]

CLIMB = 100  # normal approximations on the way
STILL = 1e-3  # nats that the last step of a climb may win


class Climbed(NamedTuple):
    """What a climb has come to.

    Attributes:
        gain: The nats that it has won.
        reached: The log evidence there, or its lower bound.
        sure: Whether it is the evidence itself at both ends, and not the lower bound.
    """

    gain: float
    reached: float
    sure: bool


def climb_evidence(
    log_density: LogDensity, start: Tensor, scale: Tensor, leaves: Sequence[Tensor]
) -> Climbed:
    r"""Climb, in the parameters, the evidence that normal approximations of the posterior tell.

    Each value of the parameters :math:`\theta` has an approximation q of its own, made of the one
    before. The evidence and its gradient are those of its importance weights, or where these are
    of few draws, of its lower bound:

    .. math::
        \log \hat p(x) = \log \frac 1 n \sum_i \frac{p(x, u_i; \theta)}{q(u_i)}, \qquad
        \hat L = \frac 1 n \sum_i \log \frac{p(x, u_i; \theta)}{q(u_i)}

    The draws are made of the same noise each time, so that L-BFGS climbs one surface. Where it
    leads to parameters without a density, or nowhere, the best are kept.

    Arguments:
        log_density: :math:`\log p(x, u; \theta)` for u of shape ``(n, D)``, and of ``(D,)``.
        start: Where in u to start, with shape ``(D,)``.
        scale: A triangular root of a covariance to start with, or its diagonal.
        leaves: The parameters, which are changed in place.
    """
    here: list[Coordinates] = []
    before = [leaf.detach().clone() for leaf in leaves]
    ways: list[tuple[float, bool, list[Tensor]]] = []  # a loss, whether of the evidence, and where
    optimizer = LBFGS(
        leaves,
        max_iter=CLIMB,
        max_eval=CLIMB,
        tolerance_change=STILL,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        at = here[-1] if here else None
        found = find_coordinates(
            log_density, at.shift if at else start, at.scale_tril if at else scale
        )
        if found is None:
            raise _NowhereError
        here[:] = [found]
        loss = _loss(log_density, found)
        if not loss.requires_grad:
            raise _NowhereError
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = torch.zeros_like(leaf) if gradient is None else gradient
        reached = float(loss.detach())
        if not math.isfinite(reached):
            raise _NowhereError
        ways.append((reached, found.ess >= GOOD, [leaf.detach().clone() for leaf in leaves]))
        return loss.detach()

    try:
        optimizer.step(closure)
    except _NowhereError:
        pass
    finally:
        best = min(ways, key=lambda way: way[0]) if ways else (math.inf, False, before)
        with torch.no_grad():
            for leaf, value in zip(leaves, best[2], strict=True):
                leaf.copy_(value)
                leaf.grad = None
    first = ways[0] if ways else best
    return Climbed(first[0] - best[0] if ways else 0.0, -best[0], first[1] and best[1])


class _NowhereError(Exception):
    """There is no normal approximation at some parameters, or it does not depend on them."""


def _loss(log_density: LogDensity, found: Coordinates) -> Tensor:
    """Less the evidence, by importance weights where they are of many draws."""
    dim, even = len(found.shift), found.ess >= GOOD
    tril = found.scale_tril if even else found.scale_tril / MARGIN
    generator = torch.Generator(tril.device).manual_seed(0)
    half = torch.randn(HALF + dim, dim, generator=generator, dtype=tril.dtype, device=tril.device)
    z = torch.cat([half, -half])
    log_q = -z.square().sum(-1) / 2 - tril.diagonal().log().sum() - dim * math.log(2 * math.pi) / 2
    log_weights = (log_density(found.shift + z @ tril.mT) - log_q).double()
    return math.log(len(z)) - log_weights.logsumexp(0) if even else -log_weights.mean()
