"""Flow and chains take turns: what the guide learns from chains that mix slowly."""

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_nf.fitting.chain_pool import ChainPool
from pyro_nf.fitting.recipe import Recipe
from pyro_nf.fitting.schedule import falling
from pyro_nf.fitting.step import Step

__all__ = ["learner"]


def learner(
    step: Step, pool: ChainPool | None, lr: float, recipe: Recipe, compile: bool
) -> Callable[[Tensor], bool]:
    """What trains a guide for a while on draws of the posterior, beside its own.

    Arguments:
        step: A step of its run.
        pool: The pool of its run, without which it can learn nothing.
        lr: The learning rate of its run.
        recipe: For how long.
        compile: Whether its steps are compiled; one of a run that has ended is not yet.

    Returns:
        A function of draws u, with shape ``(n, D)``, which says whether the guide has been trained.
    """

    def learn(draws: Tensor) -> bool:
        if compile and step.fastest == "eager":
            step.compile("quick")
        if pool is None or (pool.take(draws) and not step.use_objective(pool.objective)):
            return False
        begin, rate = step.parameters(), recipe.calm * lr
        step.adam.reset()
        losses = [step(rate * falling(index, recipe.turn)) for index in range(recipe.turn)]
        if bool(torch.stack(losses).isfinite().all()):
            return True
        step.set_parameters(begin)
        return False

    return learn
