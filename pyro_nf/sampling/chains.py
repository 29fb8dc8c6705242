"""Short Markov chains, many side by side, in the coordinates that a flow has learned."""

import math

import torch
from torch import Tensor

from pyro_nf.flows import Flow
from pyro_nf.model import LogDensity, through, traced_scores

__all__ = ["OUTWARDS", "Chains", "chains"]

KEPT = 25  # transitions
SETTLING = 25  # transitions before these, for chains that do not start in the posterior
LEAPS = 8  # steps of a transition, at most
PATH = 2.0  # their length together: a little more than a quarter of a normal variable's orbit
STEP = 0.5  # their size at first, over the fourth root of the dimension
OCTAVES, SELDOM = 10.0, 6  # halvings of a step, at most; a third has one, a twelfth has six
OUTWARDS = 3.0  # standard deviations of the radius of normal draws, by which jumps may go further
TRIED, WORTH = 16, 0.01  # jumps of a chain, and the share to be taken if there are to be more
WANTED = 0.8  # share of transitions to accept


class Chains:
    r"""Chains of Hamiltonian Monte Carlo where a flow makes a posterior nearly normal.

    For :math:`u = f(z)` a chain moves z by the density :math:`p(f(z)) |\det J_f(z)|`. A transition
    is a few leapfrog steps of one size for all chains, which follows the rate of acceptance. One
    to where the log density cannot be computed moves no chain. On the way from the guide, standard
    normal in z, to the posterior the density is

    .. math:: N(z; 0, I)^{1 - b} (p(f(z)) |\det J_f(z)|)^b.

    Between modes no steps lead, and few out of far tails. After each transition a chain may jump to
    another draw of the guide, or of one that is wider by some s, anew each time:

    .. math:: z' \sim N(0, s^2 I) \quad \text{with the chance} \quad
        \min(1, w(z') / w(z)), \qquad w(z) = \pi(z) / N(z; 0, s^2 I),

    where :math:`\pi` is the density above.

    References:
        NeuTra-lizing Bad Geometry in Hamiltonian Monte Carlo (Hoffman et al., 2019)
        https://arxiv.org/abs/1903.03704

        MCMC Using Hamiltonian Dynamics (Neal, 2011)
        https://arxiv.org/abs/1206.1901

        Markov Chains for Exploring Posterior Distributions (Tierney, 1994)
        https://doi.org/10.1214/aos/1176325750

    Arguments:
        log_density: :math:`\log p(u)` for u of shape ``(n, D)``.
        flow: The flow f.
        z: Where the chains start, with shape ``(n, D)``.
        necks: Whether the steps of a few chains are shorter, anew for each transition, down to a
            thousandth. Where a posterior narrows to a neck, or a flow bends far out, no others lead
            on.
        jumps: Whether chains jump.

    Attributes:
        z: Where they are.
        value: The log density of z there at b = 1, with shape ``(n,)``.
        b: The inverse temperature, from 0, the guide, to 1, the posterior.
        jumps: Whether chains jump; no longer where next to none of them do.
    """

    def __init__(
        self,
        log_density: LogDensity,
        flow: Flow,
        z: Tensor,
        necks: bool = False,
        jumps: bool = False,
    ) -> None:
        self._scores = traced_scores(through(flow, log_density), z)
        self._necks, self._size, self._done = necks, STEP / z.shape[-1] ** 0.25, 0
        self.b, self.jumps, self._jumped, self._tried = 1.0, jumps, 0.0, 0
        self.start(z)

    def start(self, z: Tensor) -> None:
        """Be at other places, as many."""
        self.z = z
        self.value, self._slope = self._scores(z)

    def choose(self, index: Tensor) -> None:
        """Be where the chains of an index are, with shape ``(n,)``."""
        self.z, self.value, self._slope = self.z[index], self.value[index], self._slope[index]

    @property
    def log_weights(self) -> Tensor:
        """Of their places as draws of the guide, of the posterior; with shape ``(n,)``."""
        normal = -(self.z.square() + math.log(2 * math.pi)).sum(-1) / 2
        return self.value - normal

    def go(self) -> None:
        """Make a transition."""
        size = self._size
        speed = torch.randn_like(self.z)
        # Steps of random size, lest a chain return to where it was.
        length = torch.full_like(self.value, size * (0.8 + 0.4 * float(torch.rand(()))))
        if self._necks:
            length = length * 2.0 ** (-OCTAVES * torch.rand_like(length) ** SELDOM)
        leaps = min(LEAPS, math.ceil(PATH / size))
        chance = self._take(*self._leap(speed, length.unsqueeze(-1), leaps))
        self._size *= 2.0 ** ((chance - WANTED) / (1 + self._done) ** 0.5)
        self._done += 1
        if self.jumps:
            self._jump()

    def _jump(self) -> None:
        """Propose another draw of the guide to each chain, or of a wider one."""
        wider = 1 + OUTWARDS / math.sqrt(self.z.shape[-1]) * float(torch.rand(())) ** 2
        z = wider * torch.randn_like(self.z)
        value, slope = self._scores(z)
        less = (z.square() - self.z.square()).sum(-1) / (2 * wider**2)
        gain = self._bridge(z, value) - self._bridge(self.z, self.value) + less
        self._jumped += self._take(z, value, slope, gain)
        self._tried += 1
        self.jumps = self._tried < TRIED or self._jumped > WORTH * self._tried

    def _take(self, z: Tensor, value: Tensor, slope: Tensor, gain: Tensor) -> float:
        """Go elsewhere, as a gain in the log density allows; and the mean chance of that."""
        chance = gain.clamp_max(0.0).exp().nan_to_num(0.0)
        taken = torch.rand_like(chance) < chance
        self.value = torch.where(taken, value, self.value)
        self.z = torch.where(taken.unsqueeze(-1), z, self.z)
        self._slope = torch.where(taken.unsqueeze(-1), slope, self._slope)
        return float(chance.mean())

    def _leap(
        self, speed: Tensor, length: Tensor, leaps: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Where leapfrog steps lead, value and slope there, and the gain in the log joint."""
        z, value, slope = self.z, self.value, self._slope
        before = self._bridge(z, value) - speed.square().sum(-1) / 2
        for _ in range(leaps):
            speed = speed + length / 2 * self._pull(z, slope)
            z = z + length * speed
            value, slope = self._scores(z)
            speed = speed + length / 2 * self._pull(z, slope)
        return z, value, slope, self._bridge(z, value) - speed.square().sum(-1) / 2 - before

    def _bridge(self, z: Tensor, value: Tensor) -> Tensor:
        """The log density at the inverse temperature, up to a constant."""
        return self.b * value - (1 - self.b) * z.square().sum(-1) / 2

    def _pull(self, z: Tensor, slope: Tensor) -> Tensor:
        """Its gradient."""
        return self.b * slope - (1 - self.b) * z


def chains(
    log_density: LogDensity,
    flow: Flow,
    starts: Tensor,
    settling: int = SETTLING,
    necks: bool = False,
) -> Tensor:
    """Draws of a posterior by :class:`Chains`.

    Arguments:
        log_density: :math:`\\log p(u)` for u of shape ``(n, D)``.
        flow: The flow from z to u.
        starts: Where the chains start, in u, with shape ``(n, D)``.
        settling: The number of transitions before the first that is kept.
        necks: Whether the steps of a few chains are shorter.

    Returns:
        Draws of u, of all chains, with shape ``(n * transitions, D)``.
    """
    with torch.no_grad():
        z = flow.inverse_and_log_det(starts)[0]
    moving = Chains(log_density, flow, z, necks)
    kept = []
    for index in range(settling + KEPT):
        moving.go()
        if index >= settling:
            kept.append(moving.z)
    with torch.no_grad():
        return flow.forward_and_log_det(torch.cat(kept))[0]
