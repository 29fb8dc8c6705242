"""What a guide learns of its leapfrog steps, once its flow has been trained alone."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pyro_nf.fitting.prepare import Setup
from pyro_nf.fitting.recipe import Recipe
from pyro_nf.fitting.schedule import falling
from pyro_nf.fitting.state import State
from pyro_nf.fitting.step import Step
from pyro_nf.randomness import kept_random_state

__all__ = ["bridge"]


def bridge(setup: Setup, state: State, compile: bool) -> bool:
    """Train the numbers of a guide's leapfrog steps, and at a smaller rate its flow, by its bound.

    Where the bound is no better for it, all is as it was.

    Arguments:
        setup: What was run.
        state: What has come of it, with losses and a message that it adds to.
        compile: Whether its steps are compiled; one of a run that has ended is not yet.

    Returns:
        Whether there was anything to train.
    """
    step, recipe, options = setup.step, setup.step.recipe, setup.options
    if setup.later is None or state.bridged or not state.finished or options.deadline.is_over:
        return False
    alone = step.objective
    if compile and step.fastest == "eager":
        step.compile("quick")
    if not step.use_objective(setup.later):
        step.compile("eager")
        step.use_objective(setup.later)
    before, begin = _losses(step, recipe), step.parameters()
    count = min(recipe.turn, len(state.losses))
    step.adam.reset()
    with _rates(step, recipe), options.deadline.or_interrupt():
        for index in range(count):
            state.losses.append(float(step(options.lr * falling(index, count))))
            if options.deadline.is_over:
                break
    after = _losses(step, recipe)
    if not float(after.mean()) < float(before.mean()):
        step.set_parameters(begin)
        after = before
    error = float(after.std()) / math.sqrt(len(after))
    state.message += f"; with leapfrog steps ELBO {-float(after.mean()):.2f} ± {error:.2f}"
    state.bridged = True
    step.use_objective(alone)
    return True


def _losses(step: Step, recipe: Recipe) -> Tensor:
    """Some losses, without a change; infinite where a path has none."""
    with kept_random_state():
        losses = torch.stack([step(0.0) for _ in range(recipe.final_losses)])
    return losses.nan_to_num(math.inf)


@contextmanager
def _rates(step: Step, recipe: Recipe) -> Iterator[None]:
    """For a while, rates that are small for a flow, and zero for the model's own parameters."""
    rates = step.adam.rates
    assert rates is not None  # there are some for a guide of leapfrog steps
    before = rates.clone()
    for place, part in enumerate(rates.split([leaf.numel() for leaf in step.leaves])):
        if place in step.of_model:
            part.fill_(0.0)
        elif place not in step.late:
            part.fill_(recipe.beside_steps)
    yield
    rates.copy_(before)
