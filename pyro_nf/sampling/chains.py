"""Short Markov chains, many side by side, in the coordinates that a flow has learned."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pyro_nf.flows import Flow
from pyro_nf.model import LogDensity, through, traced_scores

__all__ = ["Chains", "chains"]

KEPT = 25  # transitions
SETTLING = 25  # transitions before these, for chains that do not start in the posterior
LEAPS = 8  # steps of a transition, at most
PATH = 2.0  # their length together: a little more than a quarter of a normal variable's orbit
STEP = 0.5  # their size at first, over the fourth root of the dimension
WANTED = 0.8  # share of transitions to accept


class Chains:
    r"""Chains of Hamiltonian Monte Carlo where a flow makes a posterior nearly normal.

    For :math:`u = f(z)` a chain moves z by the density :math:`p(f(z)) |\det J_f(z)|`. A transition
    is a few leapfrog steps of one size for all chains, which follows the rate of acceptance. One
    to where the log density cannot be computed moves no chain.

    References:
        NeuTra-lizing Bad Geometry in Hamiltonian Monte Carlo (Hoffman et al., 2019)
        https://arxiv.org/abs/1903.03704

        MCMC Using Hamiltonian Dynamics (Neal, 2011)
        https://arxiv.org/abs/1206.1901

    Arguments:
        log_density: :math:`\log p(u)` for u of shape ``(n, D)``.
        flow: The flow f.
        z: Where the chains start, with shape ``(n, D)``.
        octaves: How much shorter the steps of some chains are: by up to so many halvings, few of
            them most often, anew for each transition. Where a posterior narrows to a neck, no
            others lead on.

    Attributes:
        z: Where they are.
        value: The log density of z there, with shape ``(n,)``.
    """

    def __init__(
        self, log_density: LogDensity, flow: Flow, z: Tensor, octaves: float = 0.0
    ) -> None:
        self._scores = traced_scores(through(flow, log_density), z)
        self.z = z
        self.value, self._slope = self._scores(z)
        self._octaves, self._size, self._done = octaves, STEP / z.shape[-1] ** 0.25, 0

    def go(self) -> None:
        """Make a transition."""
        size, value = self._size, self.value
        speed = torch.randn_like(self.z)
        # Steps of random size, lest a chain return to where it was.
        length = torch.full_like(value, size * (0.8 + 0.4 * float(torch.rand(()))))
        if self._octaves:
            length = length * 2.0 ** (-self._octaves * torch.rand_like(value).square())
        leaps = min(LEAPS, math.ceil(PATH / size))
        z, new, slope, gain = _leap(self._scores, self.z, value, self._slope, speed, length, leaps)
        chance = gain.clamp_max(0.0).exp().nan_to_num(0.0)
        taken = torch.rand_like(chance) < chance
        self.value = torch.where(taken, new, value)
        self.z = torch.where(taken.unsqueeze(-1), z, self.z)
        self._slope = torch.where(taken.unsqueeze(-1), slope, self._slope)
        self._size *= 2.0 ** ((float(chance.mean()) - WANTED) / (1 + self._done) ** 0.5)
        self._done += 1


def chains(
    log_density: LogDensity,
    flow: Flow,
    starts: Tensor,
    settling: int = SETTLING,
    octaves: float = 0.0,
) -> Tensor:
    """Draws of a posterior by :class:`Chains`.

    Arguments:
        log_density: :math:`\\log p(u)` for u of shape ``(n, D)``.
        flow: The flow from z to u.
        starts: Where the chains start, in u, with shape ``(n, D)``.
        settling: The number of transitions before the first that is kept.
        octaves: How much shorter the steps of some chains are.

    Returns:
        Draws of u, of all chains, with shape ``(n * transitions, D)``.
    """
    with torch.no_grad():
        z = flow.inverse_and_log_det(starts)[0]
    moving = Chains(log_density, flow, z, octaves)
    kept = []
    for index in range(settling + KEPT):
        moving.go()
        if index >= settling:
            kept.append(moving.z)
    with torch.no_grad():
        return flow.forward_and_log_det(torch.cat(kept))[0]


def _leap(
    scores: Callable[[Tensor], tuple[Tensor, Tensor]],
    z: Tensor,
    value: Tensor,
    slope: Tensor,
    speed: Tensor,
    length: Tensor,
    leaps: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where leapfrog steps lead, value and slope there, and the gain in the log joint density."""
    before = value - speed.square().sum(-1) / 2
    length = length.unsqueeze(-1)
    for _ in range(leaps):
        speed = speed + length / 2 * slope
        z = z + length * speed
        value, slope = scores(z)
        speed = speed + length / 2 * slope
    return z, value, slope, value - speed.square().sum(-1) / 2 - before
