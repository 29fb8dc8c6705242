"""What a guide learns of its leapfrog steps, once its flow has been trained alone."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pyro_nf.fitting.options import Options
from pyro_nf.fitting.prepare import Setup
from pyro_nf.fitting.recipe import Recipe
from pyro_nf.fitting.schedule import falling
from pyro_nf.fitting.state import State
from pyro_nf.fitting.step import Step
from pyro_nf.randomness import seeded

__all__ = ["bridge"]


def bridge(setup: Setup, state: State, compile: bool) -> bool:
    """Train the numbers of a guide's leapfrog steps, and at a smaller rate its flow, by its bound.

    It is done in rounds, until one has left nothing to win; one that has made the bound no better
    is undone.

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
    losses, count = _losses(step, recipe), min(recipe.turn, len(state.losses))
    with _rates(step, recipe), options.deadline.or_interrupt():
        for _ in range(1 if options.steps else recipe.repeats):
            begin, before = step.parameters(), float(losses.mean())
            state.losses += _round(step, options, count)
            losses = _losses(step, recipe)
            if not float(losses.mean()) < before:
                step.set_parameters(begin)
                losses = _losses(step, recipe)
                break
            if options.deadline.is_over or float(losses.mean()) > before - recipe.tolerance:
                break
    error = float(losses.std()) / math.sqrt(len(losses))
    state.message += f"; with leapfrog steps ELBO {-float(losses.mean()):.2f} ± {error:.2f}"
    state.bridged = True
    step.use_objective(alone)
    return True


def _round(step: Step, options: Options, count: int) -> list[float]:
    """The losses of some steps at a falling rate, or of as many as there is time for."""
    losses = list[Tensor]()
    step.adam.reset()
    for index in range(count):
        losses.append(step(options.lr * falling(index, count)))
        if options.deadline.is_over:
            break
    return torch.stack(losses).tolist()


def _losses(step: Step, recipe: Recipe) -> Tensor:
    """Losses of the same draws each time, without a change; infinite where a path has none."""
    with seeded(recipe.comparison_seed):
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
