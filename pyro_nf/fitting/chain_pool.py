"""Draws of the posterior from which a guide learns, besides its own."""

import math

import torch
from torch import Tensor

from pyro_nf.fitting.objectives import WEIGHT, beside, wide
from pyro_nf.fitting.step import Estimate
from pyro_nf.flows import Flow
from pyro_nf.guides import AutoFlowGuide
from pyro_nf.model import NUMERICS, Target, through, traced_scores
from pyro_nf.sampling import MAX_DIM, SETTLING, chains, explore, resampled

__all__ = ["Pool", "pool_of"]

CHAINS = 4  # for each of the guide's own draws a step
MORE = 4  # times as many chains for several modes
CHOICE = 4  # draws for each chain, from which its start is chosen
# Shares of the decay of the rate at which the chains go on, in better coordinates; they reach far
# arms of a posterior one after the other.
AGAIN = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
LOOKS = 100  # draws for each dimension, which tell where a guide lies


class Pool:
    """A pool of posterior draws u, by chains in the guide's coordinates, and what it trains.

    Arguments:
        guide: A guide whose flow carries the score.
        target: The log density of the posterior.
        particles: The number of the guide's own draws a step; there are `CHAINS` chains for each.
        cheap: Whether the chains can go on at all of these times, and not the last alone.

    Attributes:
        draws: The pool, with shape ``(n, D)``; None before there is one.
        slopes: The gradients of log p there, for one mode.
        modes: How many modes the posterior has, as far as is known.
        again: Shares of the decay of the rate, at which the pool is to be refilled.
    """

    def __init__(
        self, guide: AutoFlowGuide, target: Target, particles: int, cheap: bool = True
    ) -> None:
        self.guide, self.target, self.particles = guide, target, particles
        self.count = CHAINS * particles  # of chains
        self.draws: Tensor | None = None
        self.slopes: Tensor | None = None
        self.modes = 1
        self.again = AGAIN if cheap else AGAIN[-1:]

    @property
    def several(self) -> bool:
        """Whether there are several modes."""
        return self.modes > 1

    @property
    def flow(self) -> Flow:
        """The flow from noise to u."""
        return self.guide.get_transform()

    def explore(self) -> None:
        """Fill the pool, and move the guide to its coordinates, if there are several modes."""
        if self.target.dim > MAX_DIM:
            return
        hierarchy = self.guide.hierarchy
        with torch.no_grad():
            draws = self.guide.get_posterior().sample(torch.Size([LOOKS * self.target.dim]))
            free = hierarchy.inv(draws)  # a bent ridge has many summits, of which it has none
        try:
            density = through(hierarchy, self.target)
            found = explore(density, free.mean(0), _root(free), MORE * self.count)
            if found is not None:
                free, self.modes = found
                self.guide.flow.move(free.mean(0), _root(free))
                self.draws = chains(self.target, self.flow, hierarchy(free))
        except NUMERICS:  # numerics of the model, out there
            return

    def fill(self) -> None:
        """Fill the pool with draws of chains, from where the pool or else the guide is."""
        if self.draws is not None:
            starts = self.draws[torch.randperm(len(self.draws))[: MORE * self.count]]
            self.draws = chains(self.target, self.flow, starts)
            return
        posterior = self.guide.get_posterior()
        with torch.no_grad():
            choice = posterior.sample(torch.Size([CHOICE * self.count]))
            log_weights = self._density(choice) - posterior.log_prob(choice)
        self.draws, self.slopes = self._drawn(choice[resampled(log_weights, self.count)])

    def refill(self) -> None:
        """Let the chains go on, in the flow's coordinates of now.

        Where they do so several times, they need not settle again, and each time renews a half of
        the pool, since what the chains of one round say together is noisy. The pool is filled in
        place, since a traced step knows its tensors.
        """
        assert self.draws is not None  # filled before
        assert self.slopes is not None
        often = len(self.again) > 1
        draws, slopes = self._drawn(self.draws[-self.count :], 0 if often else SETTLING)
        if often:
            old = torch.randperm(len(draws) - self.count, device=draws.device)[: len(draws) // 2]
            draws[old], slopes[old] = self.draws[old], self.slopes[old]
        self.draws.copy_(draws)
        self.slopes.copy_(slopes)

    def _density(self, u: Tensor) -> Tensor:
        """The log density of the posterior; NaN at points with which the numerics fail."""
        try:
            return self.target(u)
        except NUMERICS:
            if len(u) == 1:
                return u.new_full((1,), math.nan)
        return torch.cat([self._density(part) for part in u.chunk(2)])

    def _drawn(self, starts: Tensor, settling: int = SETTLING) -> tuple[Tensor, Tensor]:
        """Draws of chains, their last states at the end, and the gradients of log p there."""
        draws = chains(self.target, self.flow, starts, settling)
        scores = traced_scores(self.target, starts)
        return draws, torch.cat([scores(part)[1] for part in draws.split(len(starts))])

    def objective(self) -> Estimate:
        """The ELBO's loss, and what has the gradient to follow: with draws of the pool, if any."""
        if self.draws is None:
            return wide(self.target, self.flow, self.particles)
        return beside(self.target, self.flow, self.particles, self.draws, self.slopes)

    @torch.no_grad()
    def loss(self) -> float:
        """The divergence times its weight, up to a constant; 0 for an empty pool."""
        if self.draws is None:
            return 0.0
        x, log_det = self.flow.inverse_and_log_det(self.draws)
        # The inverse has the other sign: log q = log N(x) + log |det dx / du|.
        return WEIGHT * float((x.square().sum(-1) / 2 - log_det).mean())


def _root(draws: Tensor) -> Tensor:
    """The Cholesky factor of the covariance of draws, with shape ``(D, D)``."""
    return torch.linalg.cholesky(torch.cov(draws.T).reshape(draws.shape[-1], -1))


def pool_of(
    guide: AutoFlowGuide, target: Target, particles: int, cheap: bool = True
) -> Pool | None:
    """A pool, still empty, if there can be one for this guide."""
    able = target.vectorized and guide.gradient == "path" and guide.get_transform().carries_score
    return Pool(guide, target, particles, cheap) if able else None
