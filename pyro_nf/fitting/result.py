"""Which of the states on a run's way is its result."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_nf.fitting.chain_pool import ChainPool
from pyro_nf.fitting.step import Step
from pyro_nf.randomness import kept_random_state

__all__ = ["AVERAGE", "Trial", "choose", "tried", "unlike"]

AVERAGE = "the average"  # what the name of the iterates' average starts with


class Trial(NamedTuple):
    """The losses of a state on draws that are the same for all states, and what else it lacks."""

    losses: Tensor
    rest: float

    @property
    def mean(self) -> float:
        """The mean loss; infinite if it is not finite for most draws."""
        finite = self.losses[self.losses.isfinite()]
        return float(finite.mean()) if 2 * len(finite) >= len(self.losses) else math.inf

    @property
    def error(self) -> float:
        """The standard error of the mean; infinite as that is, and of a single loss."""
        finite = self.losses[self.losses.isfinite()]
        known = len(finite) > 1 and math.isfinite(self.mean)
        return float(finite.std()) / math.sqrt(len(finite)) if known else math.inf


def unlike(ends: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The states without those that are an earlier one again."""
    found: dict[str, Tensor] = {}
    for name, end in ends.items():
        if not any(torch.equal(end, other) for other in found.values()):
            found[name] = end
    return found


def tried(step: Step, end: Tensor, data: Sequence[Sequence[Any]], pool: ChainPool | None) -> Trial:
    """The losses of parameters on some data, and what else there is to learn."""
    step.set_parameters(end)
    losses = []
    with kept_random_state():
        for args in data:
            step.feed(args, step.data[1])
            losses.append(step(0.0).to(end))
    return Trial(torch.stack(losses), 0.0 if pool is None else pool.loss())


def choose(trials: Mapping[str, Trial], batches: bool) -> str:
    """The name of the best state.

    What counts is the loss plus two standard errors: the noise of a loss says how far a posterior
    is off, too, and there is none where it is exact. That of batches says which rows they have,
    and the state which is best for some rows is not for the others: there it is the average of the
    iterates, if no state is better by more than the error of the difference.
    """
    if not batches:
        total = {name: s.mean + 2 * s.error + s.rest for name, s in trials.items()}
        return min(total, key=total.__getitem__)
    best = min(trials, key=lambda name: trials[name].mean)
    for name in trials:
        excess = Trial(trials[name].losses - trials[best].losses, 0.0)
        if name.startswith(AVERAGE) and math.isfinite(m := excess.mean) and m <= 2 * excess.error:
            return name
    return best
