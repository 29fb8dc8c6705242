"""Draws of the posterior from which a guide learns, besides its own."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_nf.fitting.elbo import Estimate
from pyro_nf.fitting.objectives import beside, wide
from pyro_nf.fitting.recipe import Recipe
from pyro_nf.fitting.schedule import Schedule
from pyro_nf.fitting.step import Step
from pyro_nf.flows import Flow
from pyro_nf.guides import AutoFlowGuide
from pyro_nf.model import Target, through, traced_scores, work
from pyro_nf.sampling import MAX_DIM, SETTLING, all_modes, chains, resampled, root_of

__all__ = ["ChainPool"]


class ChainPool:
    """A pool of posterior draws u, by chains in the guide's coordinates, and what it trains.

    A run asks it before each of its rounds, and after each of its blocks of steps, whether it
    trains something else from there on.

    Arguments:
        guide: A guide whose flow carries the score.
        target: The log density of the posterior.
        particles: The number of the guide's own draws a step; there are some chains for each.
        recipe: How many draws, and when.
        cheap: Whether the chains can go on at all of the recipe's times, and not the last alone.

    Attributes:
        draws: The pool, with shape ``(n, D)``; None before there is one.
        slopes: The gradients of log p there, for one mode.
        modes: How many modes the posterior has, as far as is known.
        refills: Shares of the decay of the rate, at which the pool is to be refilled.
    """

    def __init__(
        self,
        guide: AutoFlowGuide,
        target: Target,
        particles: int,
        recipe: Recipe,
        cheap: bool = True,
    ) -> None:
        self.guide, self.target, self.particles = guide, target, particles
        self.recipe = recipe
        self.count = recipe.chains * particles  # of chains
        self.draws: Tensor | None = None
        self.slopes: Tensor | None = None
        self.modes = 1
        self.refills = recipe.refills if cheap else recipe.refills[-1:]

    @staticmethod
    def is_possible(guide: AutoFlowGuide, target: Target) -> bool:
        """Whether there can be a pool for this guide."""
        along_paths = guide.gradient == "path" and guide.has_transform
        return target.vectorized and along_paths and guide.get_transform().carries_score

    @property
    def is_of_several_modes(self) -> bool:
        """Whether the posterior has several modes, of whose shares no densities tell."""
        return self.modes > 1

    def words(self) -> list[str]:
        """What is to be told of the posterior, if anything is."""
        return [f"there are {self.modes} modes"] if self.is_of_several_modes else []

    @property
    def flow(self) -> Flow:
        """The flow from noise to u."""
        return self.guide.get_transform()

    # ---------------------------------------------------------------- in a run

    def begin(self, step: Step, schedule: Schedule, warmup: int) -> None:
        """Train what its draws ask for: at once, or from the last round where a weight rises."""
        if not warmup or (schedule.is_last and self.draws is not None):
            step.use_objective(self.objective)

    def before_round(self, step: Step, schedule: Schedule) -> bool:
        """Fill the pool before the last round, whose steps learn from it.

        Arguments:
            step: The step.
            schedule: The schedule, in the round that begins.

        Returns:
            Whether something else is trained from here on.
        """
        if self.recipe.goes_on or not schedule.is_last or not self.fill():
            return False
        if not step.use_objective(self.objective):  # planar's inverse ends when it is exact
            self.draws = self.slopes = None
            return False
        step.adam.reset()  # gradients are of another size now
        if not self.is_of_several_modes:
            schedule.lr *= self.recipe.calm
        return True

    def after_block(self, done: int, schedule: Schedule) -> bool:
        """Let the chains go on, where it is time.

        Arguments:
            done: The number of steps so far.
            schedule: The schedule.

        Returns:
            Whether something else is trained from here on.
        """
        if self.slopes is None:
            return False
        gone = done - schedule.turn
        times = [int(share * schedule.length) for share in self.refills]
        if not any(gone - self.recipe.block < time <= gone for time in times):
            return False
        self.refill()
        return True

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"draws": self.draws, "slopes": self.slopes, "modes": self.modes}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Be as it was when a state was asked for."""
        self.draws, self.slopes, self.modes = state["draws"], state["slopes"], state["modes"]

    # ---------------------------------------------------------------- its draws

    def explore(self) -> None:
        """Fill the pool, and move the guide to its coordinates, if there are several modes."""
        if self.target.dim > MAX_DIM:
            return
        hierarchy = self.guide.hierarchy
        with torch.no_grad():
            count = self.recipe.located_by * self.target.dim
            draws = self.guide.get_posterior().sample(torch.Size([count]))
            free = hierarchy.inv(draws)  # a bent ridge has many summits, of which it has none
        density = through(hierarchy, self.target)
        free, self.modes = all_modes(density, free, self.recipe.more_chains * self.count)
        if self.is_of_several_modes:
            self.guide.flow.move(free.mean(0), root_of(free))
            self.draws = chains(self.target, self.flow, hierarchy(free))
            if work(self._stretch, self.draws[:2]) == math.inf:  # planar's inverse has no graph
                self.draws, self.modes = None, 1

    def _stretch(self, u: Tensor) -> Tensor:
        """The log-determinant of the way from u to noise, with shape ``(n,)``."""
        return self.flow.inverse_and_log_det(u)[1]

    def fill(self) -> bool:
        """Fill the pool with draws of chains, from where the pool or else the guide is.

        Returns:
            Whether there are draws now: none where no draw of the guide is possible.
        """
        if self.draws is not None:
            count = self.recipe.more_chains * self.count
            starts = self.draws[torch.randperm(len(self.draws))[:count]]
            self.draws = chains(self.target, self.flow, starts)
            return True
        posterior = self.guide.get_posterior()
        with torch.no_grad():
            choice = posterior.sample(torch.Size([self.recipe.starts * self.count]))
            log_weights = self.target(choice) - posterior.log_prob(choice)
        if not bool(log_weights.isfinite().any()):
            return False
        self.draws, self.slopes = self._drawn(choice[resampled(log_weights, self.count)])
        return True

    def refill(self) -> None:
        """Let the chains go on, in the flow's coordinates of now.

        Where they do so several times, they need not settle again, and each time renews a half of
        the pool, since what the chains of one round say together is noisy. The pool is filled in
        place, since a traced step knows its tensors.
        """
        assert self.draws is not None  # filled before
        assert self.slopes is not None
        often = len(self.refills) > 1
        draws, slopes = self._drawn(self.draws[-self.count :], 0 if often else SETTLING)
        if often:
            old = torch.randperm(len(draws) - self.count, device=draws.device)[: len(draws) // 2]
            draws[old], slopes[old] = self.draws[old], self.slopes[old]
        self.draws.copy_(draws)
        self.slopes.copy_(slopes)

    def take(self, draws: Tensor) -> bool:
        """Have other draws of the posterior in the pool.

        Arguments:
            draws: With shape ``(n, D)``.

        Returns:
            Whether what it trains has other tensors now, and not only other values in them.
        """
        count = min(self.count, len(draws))
        draws = draws[: len(draws) // count * count]
        slopes = None if self.is_of_several_modes else self._slopes(draws, count)
        if self.draws is not None and self.draws.shape == draws.shape:
            self.draws.copy_(draws)
            if self.slopes is not None and slopes is not None:
                self.slopes.copy_(slopes)
            return False
        self.draws, self.slopes = draws, slopes
        return True

    def _drawn(self, starts: Tensor, settling: int = SETTLING) -> tuple[Tensor, Tensor]:
        """Draws of chains, their last states at the end, and the gradients of log p there."""
        draws = chains(self.target, self.flow, starts, settling)
        return draws, self._slopes(draws, len(starts))

    def _slopes(self, draws: Tensor, count: int) -> Tensor:
        """The gradients of log p at draws, so many together."""
        scores = traced_scores(self.target, draws[:count])
        return torch.cat([scores(part)[1] for part in draws.split(count)])

    # ---------------------------------------------------------------- what it trains

    def objective(self) -> Estimate:
        """The ELBO's loss, and what has the gradient to follow: with draws of the pool, if any."""
        of = self.target, self.flow, self.particles
        if self.draws is None:
            return wide(*of, self.recipe)
        return beside(*of, self.draws, self.slopes, self.recipe)

    @torch.no_grad()
    def loss(self) -> float:
        """The divergence times its weight, up to a constant; 0 for an empty pool."""
        if self.draws is None:
            return 0.0
        x, log_det = self.flow.inverse_and_log_det(self.draws)
        # The inverse has the other sign: log q = log N(x) + log |det dx / du|.
        return self.recipe.pool_weight * float((x.square().sum(-1) / 2 - log_det).mean())
