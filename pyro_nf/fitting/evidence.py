"""The evidence that normal approximations tell, for the model's own parameters to climb."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_nf.fitting.elbo import parameters_seen
from pyro_nf.fitting.recipe import Recipe
from pyro_nf.guides import AutoFlowGuide
from pyro_nf.model import Target, patiently
from pyro_nf.randomness import kept_random_state
from pyro_nf.sampling import Climbed, climb_evidence

__all__ = ["Evidence"]


class Evidence:
    """The evidence of a model, a function of its own parameters that no guide has a part in.

    The ELBO of a guide that is not the posterior has summits and plateaus of its own: where both
    are narrow, a scale that is learned stays with the draws as they do with it.

    Arguments:
        target: The log density of the latents; None where no flow guide can see it.
        leaves: The unconstrained parameters, if there are any, by name.
        recipe: How many are few.
    """

    def __init__(self, target: Target | None, leaves: Mapping[str, Tensor], recipe: Recipe) -> None:
        self.target, self.names, self.leaves = target, list(leaves), list(leaves.values())
        self.are_few = 0 < sum(leaf.numel() for leaf in self.leaves) <= recipe.few_parameters

    @classmethod
    def of(
        cls,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        target: Target | None,
        recipe: Recipe,
    ) -> "Evidence":
        """That of a model.

        Arguments:
            model: A Pyro model, whose discrete latents are summed out.
            guide: A guide, which draws latents also where a prior cannot.
            args: What both take.
            kwargs: What both take.
            target: The log density of its latents; None if it is not at hand.
            recipe: How many parameters are few.
        """
        with kept_random_state():
            seen = patiently(lambda: _parameters(model, guide, args, kwargs, target))
            evidence = cls(target, seen, recipe)
            if evidence.are_few and target is None:
                evidence.target = _target(model, args, kwargs)
        return evidence

    @property
    def is_known(self) -> bool:
        """Whether there are parameters for which it can be told."""
        return self.are_few and self.target is not None and self.target.vectorized

    def climb(self) -> Climbed:
        """Move the parameters to where it is largest, as far as normal approximations tell."""
        if not self.is_known or self.target is None:
            return Climbed(0.0, -math.inf, False)
        start = self.target.start
        return climb_evidence(self.target, start, torch.ones_like(start), self.leaves)

    def beyond(self) -> tuple[Climbed, dict[str, Tensor]]:
        """What a climb from here wins, and the values of the parameters there, which stay here."""
        before = [leaf.detach().clone() for leaf in self.leaves]
        store = pyro.get_param_store()
        try:
            climbed = self.climb()
            there = {
                name: store.get_param(name).detach().clone()
                for name, leaf in zip(self.names, self.leaves, strict=True)
            }
        finally:
            with torch.no_grad():
                for leaf, value in zip(self.leaves, before, strict=True):
                    leaf.copy_(value)
        return climbed, there


def _parameters(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    target: Target | None,
) -> Mapping[str, Tensor]:
    """The model's own parameters, by a run of it at one point."""
    if target is not None:
        at = {"u": target.start}
        return parameters_seen(lambda: target.one(at))
    drawn = poutine.trace(guide).get_trace(*args, **kwargs)
    return parameters_seen(lambda: poutine.replay(model, trace=drawn)(*args, **kwargs))


def _target(
    model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Target | None:
    """The log density as a flow guide would see it; None where such a guide refuses the model."""
    try:
        probe = AutoFlowGuide(model, "diag").setup(*args, **kwargs)
        return Target.of(probe, args, kwargs)
    except (IndexError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return None
