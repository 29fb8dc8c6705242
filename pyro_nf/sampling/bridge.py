"""From draws of a guide to those of a posterior by way of all between, and its evidence."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_nf.flows import Flow
from pyro_nf.model import LogDensity
from pyro_nf.sampling.chains import Chains
from pyro_nf.sampling.importance import log_mean

__all__ = ["ISLANDS", "Bridged", "across", "bridged"]

ISLANDS = 32  # of particles, whose spread tells the error of the evidence
ALIKE = 0.9  # conditional effective share of the weights of a step
RENEW = 0.5  # effective share of an island's weights below which it is resampled
MOST = 100  # steps; the last of so many is as long as it must be
ACCURATE = 0.03  # standard error of the log evidence with which no more particles are sent
TURNS = 4  # of particles, at most
HALVINGS = 40  # by which the length of a step is found


@dataclass(frozen=True)
class Bridged:
    """Islands of particles that have come from a guide to a posterior.

    Attributes:
        z: Where they are, in the guide's coordinates, with shape ``(K, M, D)``.
        log_weights: As an importance sample of the posterior, with shape ``(K, M)``. The mean of
            the weights of an island is an estimate of the evidence.
        steps: The inverse temperatures on the way, the last of them 1.
    """

    z: Tensor
    log_weights: Tensor
    steps: tuple[float, ...]

    @property
    def log_evidence(self) -> tuple[float, float]:
        """The log evidence, and its standard error, which the islands tell."""
        return log_mean(_log_means(self.log_weights))


def _never() -> bool:
    return False


def across(
    log_density: LogDensity,
    flow: Flow,
    z: Tensor,
    log_weights: Tensor,
    together: int,
    is_late: Callable[[], bool] = _never,
) -> Bridged:
    """From draws of a guide to a posterior, in as many steps as it takes, most often in one.

    Where their weights are nearly equal they stay where they are. Else some of them go across the
    bridge, and others by the same steps, until the evidence is accurate.

    Arguments:
        log_density: :math:`\\log p(u)` for u of shape ``(n, D)``.
        flow: The flow from z to u.
        z: Draws of the guide, with shape ``(n, D)``.
        log_weights: As an importance sample of the posterior, with shape ``(n,)``.
        together: How many go together.
        is_late: Whether it is time to end, as for :func:`bridged`. No more particles are sent then.
    """
    islands = ISLANDS, -1
    gain = _possible(log_weights).view(islands)
    found = Bridged(z.unflatten(0, islands), gain, (1.0,))
    if _share(torch.zeros_like(gain), gain, 1.0) >= ALIKE:
        return found
    chains = Chains(log_density, flow, z[:together], jumps=True)
    found = bridged(chains, is_late=is_late)
    for _ in range(1, TURNS):
        if found.log_evidence[1] < ACCURATE or is_late():
            break
        chains.start(torch.randn_like(chains.z))
        more = bridged(chains, found.steps)
        log_weights = torch.cat([found.log_weights, more.log_weights])
        found = Bridged(torch.cat([found.z, more.z]), log_weights, found.steps)
    return found


def bridged(
    chains: Chains, steps: tuple[float, ...] = (), is_late: Callable[[], bool] = _never
) -> Bridged:
    r"""Annealed importance sampling along the bridge between a guide and a posterior.

    Particles begin as draws of the guide, at :math:`b_0 = 0`. With the importance weight w of a
    place, a step multiplies the weight of each particle by

    .. math:: w(z)^{b_k - b_{k - 1}}, \qquad w(z) = p(f(z)) |\det J_f(z)| / N(z; 0, I),

    and chains then move it by :math:`N^{1 - b_k} (p |\det J_f|)^{b_k}`. A step is as long as keeps
    the conditional effective share of the weights, of which each island has as much as any other.
    Where those of an island have come to differ much it is resampled, and goes on with their mean.

    References:
        Annealed Importance Sampling (Neal, 2001) https://arxiv.org/abs/physics/9803008

        Toward Automatic Model Comparison: An Adaptive Sequential Monte Carlo Approach (Zhou,
        Johansen and Aston, 2016) https://arxiv.org/abs/1303.3123

    Arguments:
        chains: Chains at draws of the guide, in islands; they move.
        steps: The inverse temperatures, if they are known. Then the mean weight is unbiased,
            however few the particles are.
        is_late: Whether it is time to end: the next step that is to be found is the last then.
    """
    log_weights = torch.zeros_like(chains.value).double().view(ISLANDS, -1)
    b, taken = 0.0, list[float]()
    while b < 1:
        gain = _possible(chains.log_weights).view(ISLANDS, -1)
        if steps:
            new = steps[len(taken)]
        else:
            ends = len(taken) == MOST - 1 or is_late()
            new = 1.0 if ends else _next(log_weights, gain, b)
        log_weights, b = log_weights + (new - b) * gain, new
        taken.append(b)
        if b < 1:
            log_weights = _renewed(chains, log_weights)
            chains.b = b
            chains.go()
    chains.b = 1.0
    return Bridged(chains.z.unflatten(0, (ISLANDS, -1)), log_weights, tuple(taken))


def _possible(log_weights: Tensor) -> Tensor:
    """In double precision, and zero where they are no numbers."""
    return torch.where(log_weights.isfinite(), log_weights, -torch.inf).double()


def _log_means(log_weights: Tensor) -> Tensor:
    """Of each island."""
    return log_weights.logsumexp(-1) - math.log(log_weights.shape[-1])


def _share(log_weights: Tensor, gain: Tensor, length: float) -> float:
    """The conditional effective share of the weights of a step."""
    before = log_weights.log_softmax(-1).nan_to_num(nan=-torch.inf) - math.log(len(log_weights))
    after = before + length * gain
    return float((2 * after.logsumexp((0, 1)) - (after + length * gain).logsumexp((0, 1))).exp())


def _next(log_weights: Tensor, gain: Tensor, b: float) -> float:
    """The inverse temperature after b."""
    if not _share(log_weights, gain, 1 - b) < ALIKE:  # NaN where no particle is possible
        return 1.0
    low, high = b, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if _share(log_weights, gain, middle - b) < ALIKE:
            high = middle
        else:
            low = middle
    return high


def _renewed(chains: Chains, log_weights: Tensor) -> Tensor:
    """Resample the islands that need it, systematically; and the weights after that."""
    islands, size = log_weights.shape
    weights = log_weights.softmax(-1)
    poor = 1 / weights.square().sum(-1) < RENEW * size  # not where they are NaN, all zero
    shift = torch.rand(islands, 1).to(weights)
    pointers = (torch.arange(size).to(weights) + shift) / size
    chosen = torch.searchsorted(weights.cumsum(-1), pointers).clamp_max(size - 1)
    same = torch.arange(size, device=chosen.device).expand_as(chosen)
    index = torch.where(poor.unsqueeze(-1), chosen, same)
    first = size * torch.arange(islands, device=chosen.device).unsqueeze(-1)
    chains.choose((index + first).flatten())
    means = _log_means(log_weights).unsqueeze(-1).expand_as(log_weights)
    return torch.where(poor.unsqueeze(-1), means, log_weights)
