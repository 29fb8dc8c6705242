"""The parameters of the model itself: how fast they go, and whether they still do."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_nf.fitting.recipe import Recipe
from pyro_nf.fitting.schedule import Schedule
from pyro_nf.fitting.step import Step
from pyro_nf.model import Target, bends, slopes
from pyro_nf.randomness import kept_random_state
from pyro_nf.sampling import climb_evidence

__all__ = ["ModelParameters", "climb"]


def climb(target: Target, leaves: Sequence[Tensor], recipe: Recipe) -> None:
    """Move a model's parameters to where they are nearly at rest, before a guide starts."""
    count = sum(leaf.numel() for leaf in leaves)
    if target.vectorized and 0 < count <= recipe.few_parameters:
        climb_evidence(target, target.start, torch.ones_like(target.start), leaves)


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
    """

    def __init__(self, step: Step, recipe: Recipe, watched: bool) -> None:
        self.step, self.recipe = step, recipe
        names = [step.names[place] for place in step.of_model]
        self.names = [name.replace("$$$", ".") for name in names]  # of modules
        self.leaves = [step.leaves[place] for place in step.of_model]
        count = sum(leaf.numel() for leaf in self.leaves)
        self.are_few = watched and 0 < count <= recipe.few_parameters
        self.are_many = count > 0 and not self.are_few

    def tune(self) -> None:
        """Set their rates for a round: a unit larger than one is a longer way."""
        rates = self.step.adam.rates
        if rates is None or not self.are_few:
            return
        parts = rates.split([leaf.numel() for leaf in self.step.leaves])
        units = self._units().split([leaf.numel() for leaf in self.leaves])
        for place, unit in zip(self.step.of_model, units, strict=True):
            parts[place].copy_(unit.clamp_min(1.0))

    def may_repeat(self, schedule: Schedule) -> bool:
        """Whether the last round may begin again, where some still move."""
        return (
            self.are_few and schedule.round is not None and schedule.repeats < self.recipe.repeats
        )

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

    def words(self) -> list[str]:
        """What is to be told of those that no climb has brought near to rest."""
        names = ", ".join(map(repr, self.names[:3]))
        told = f"of the model's own {names} the loss alone says that they have arrived"
        return [told] if self.are_few else []

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
