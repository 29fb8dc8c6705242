"""The parameters of the model itself: how fast they go, and whether they still do."""

import math

import torch
from torch import Tensor

from pyro_nf.fitting.evidence import Evidence
from pyro_nf.fitting.recipe import Recipe
from pyro_nf.fitting.schedule import Schedule
from pyro_nf.fitting.step import Step
from pyro_nf.model import bends, slopes
from pyro_nf.randomness import kept_random_state

__all__ = ["ModelParameters"]


class ModelParameters:
    r"""The parameters :math:`\theta` that a run trains beside those of the guide.

    What the ELBO asks of them is another thing than the shape of a posterior: their gradient is
    that of the evidence, where the guide is the posterior of the latents z:

    .. math:: \nabla_\theta \log p(x) = E_{p(z \mid x)} \nabla_\theta \log p(x, z)

    So weights that are equal say nothing of them. Their unit, too, is another: a guide's latents
    are whitened, and a location may lie in the thousands. It is told by the curvature,

    .. math:: \sigma_k = E_q\left[-\partial_{\theta_k}^2 \log p(x, z)\right]^{-1/2}

    Arguments:
        step: The step that trains them.
        recipe: The numbers.
        watched: Whether each step is of the same data; of batches a gradient says too little.
        evidence: What judges them where their gradient does not: at the ELBO of a guide that is
            not near to the posterior.
    """

    def __init__(
        self, step: Step, recipe: Recipe, watched: bool, evidence: Evidence | None = None
    ) -> None:
        self.step, self.recipe, self.evidence = step, recipe, evidence
        names = [step.names[place] for place in step.of_model]
        self.names = [name.replace("$$$", ".") for name in names]  # of modules
        self.leaves = [step.leaves[place] for place in step.of_model]
        count = sum(leaf.numel() for leaf in self.leaves)
        self.are_few = watched and 0 < count <= recipe.few_parameters
        self.are_many = count > 0 and not self.are_few

    def tune(self, hold: bool = False) -> None:
        """Set their rates: a unit larger than one is a longer way.

        Arguments:
            hold: Whether they have been brought to where the evidence is largest, and wait there
                for a guide that would draw them to where it is itself.
        """
        rates = self.step.adam.rates
        if rates is None or not self.are_few:
            return
        held = hold and self.evidence is not None and self.evidence.is_known
        rates[self._places()] = 0.0 if held else self._units().clamp_min(1.0)

    @property
    def are_held(self) -> bool:
        """Whether they wait for the guide."""
        rates = self.step.adam.rates
        return rates is not None and self.are_few and not bool(rates[self._places()].any())

    def may_repeat(self, schedule: Schedule) -> bool:
        """Whether the last round may begin again, where some still move."""
        return (
            self.are_few and schedule.round is not None and schedule.repeats < self.recipe.repeats
        )

    def begin_round(self, schedule: Schedule, idle: bool) -> None:
        """Set their rates for a round; they wait on while there is one more for them to go free.

        Arguments:
            schedule: The round.
            idle: Whether a guide for which they have waited comes no nearer.
        """
        self.tune(self.are_held and not idle and schedule.repeats < self.recipe.repeats)

    def halfway(self, schedule: Schedule) -> None:
        """Let them go in the middle of a round that is the only one."""
        if schedule.round is None and self.are_held:
            self.tune()

    def moving(self, schedule: Schedule, middle: Tensor | None) -> list[str]:
        """The names of those that are not where the evidence is largest, as far as can be told.

        They have a gradient where they are, or have gone on in the second half of the round: those
        that follow a guide on its way are always at rest where it is.

        Arguments:
            schedule: The round.
            middle: All parameters in its middle; None for a round that has not come there.
        """
        if not self.are_few:
            return []
        units = self._units()
        far = self._slopes_are_steep(units)
        if middle is not None:
            gone = (self.step.parameters() - middle)[self._places()].abs()
            longest = schedule.second_half * units.clamp_min(1.0)
            # What Adam's own noise leaves of units around a summit, at half the rate.
            draws = math.sqrt(self.step.elbo.num_particles)
            noise = (units.clamp_min(1.0) * schedule.lr / 2 * units / (2 * draws)).sqrt()
            far |= gone > self.recipe.strides * longest
            far |= (gone > self.recipe.off * units) & (gone > self.recipe.sure * noise)
        parts = far.split([leaf.numel() for leaf in self.leaves])
        return [name for name, part in zip(self.names, parts, strict=True) if bool(part.any())]

    def judged(
        self, schedule: Schedule, middle: Tensor | None, elbo: float
    ) -> tuple[list[str], list[str]]:
        """The names of those that a run has left elsewhere, and what is to be told of them.

        Arguments:
            schedule: The last round.
            middle: All parameters in its middle; None for a round that has not come there.
            elbo: What the guide has reached.
        """
        moving = [] if self.are_held else self.moving(schedule, middle)
        if self.evidence is None or not self.are_few:
            return moving, []
        climbed, there = self.evidence.beyond()
        # A lower bound far above the guide's own tells, too.
        far = climbed.sure or climbed.reached > elbo + self.recipe.far_above
        if far and climbed.gain > self.recipe.behind:
            shown = [f"{name} = {value:.4g}" for name, value in there.items() if value.numel() == 1]
            where = ", ".join(shown[:3]) or f"another {self.names[0]}"
            least = "" if climbed.sure else "of a normal approximation "
            return self.names, [
                f"the evidence {least}is {climbed.gain:.2f} nats larger at {where} than here, "
                "where this guide's lower bound has led"
            ]
        if climbed.sure:  # they are there, though the guide may not be
            return [], []
        names = ", ".join(map(repr, self.names[:3]))
        return moving, [f"of the model's own {names} the loss alone says that they have arrived"]

    def _slopes_are_steep(self, units: Tensor) -> Tensor:
        """Whether each has a gradient that is no noise."""
        with kept_random_state():
            found = [slopes(self._loss, self.leaves) for _ in range(self.recipe.looks)]
        sound = torch.stack([slope for slope in found if bool(slope.isfinite().all())] or found)
        error = sound.std(0) / math.sqrt(len(sound))
        return sound.mean(0).abs() - self.recipe.sure * error > self.recipe.off / units

    def _units(self) -> Tensor:
        """The unit of each; one where the loss tells none."""
        with kept_random_state():
            curvature = bends(self._loss, self.leaves)
        units = curvature.rsqrt()
        return torch.where((curvature > 0) & units.isfinite(), units, 1.0)

    def _loss(self) -> Tensor:
        """What has the gradient to follow, by the draws of a step; a constant if there is none."""
        loss, surrogate = self.step.objective()
        if surrogate is None:  # the ELBO has called backward itself
            for leaf in self.step.leaves:
                leaf.grad = None
            return loss.detach()
        return surrogate

    def _places(self) -> Tensor:
        """Where they are among all parameters."""
        sizes = [leaf.numel() for leaf in self.step.leaves]
        parts = torch.arange(sum(sizes)).split(sizes)
        return torch.cat([parts[place] for place in self.step.of_model])
