"""All that changes in a run, which a checkpoint holds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from pyro_nf.fitting.chain_pool import ChainPool
from pyro_nf.fitting.recipe import Recipe
from pyro_nf.fitting.schedule import Schedule
from pyro_nf.fitting.step import Step

__all__ = ["State", "kept", "put_back"]


@dataclass
class State:
    """All that changes in a run, beside parameters, buffers and random numbers.

    Attributes:
        schedule: The rounds.
        order: What the order of the rows of batches follows from.
        first: The parameters at the start.
        best: Those of the best block of steps so far.
        sum: The sum of the last iterates.
        summed: How many they are.
        best_loss: The loss of the best block.
        best_spread: Its spread.
        losses: The loss of each step; NaN where it was skipped.
        retries: How many returns to the best state there were.
        message: How the run ended.
        finished: Whether it has.
        middle: The parameters in the middle of the round.
        moving: The parameters of the model that are not at rest, by name.
        bridged: Whether the guide has learned its leapfrog steps, after the run.
        refinement: Draws that are better than those of the guide, as tensors and plain values.
    """

    schedule: Schedule
    order: int
    first: Tensor
    best: Tensor
    sum: Tensor
    summed: int = 0
    best_loss: float = math.inf
    best_spread: float = 0.0
    losses: list[float] = field(default_factory=list)
    retries: int = 0
    message: str = ""
    finished: bool = False
    middle: Tensor | None = None
    moving: list[str] = field(default_factory=list)
    bridged: bool = False
    refinement: dict[str, Any] | None = None

    def content(self) -> dict[str, Any]:
        """Itself as tensors and plain values."""
        content = {part.name: getattr(self, part.name) for part in fields(self)}
        return content | {"schedule": self.schedule.state()}

    @classmethod
    def of(cls, content: Mapping[str, Any], recipe: Recipe) -> "State":
        """That of some content."""
        return cls(**{**content, "schedule": Schedule(recipe, **content["schedule"])})


def kept(
    state: State, step: Step, pool: ChainPool | None, modules: Sequence[nn.Module]
) -> dict[str, Any]:
    """A state, and all that a run has changed beside it, as tensors and plain values.

    Arguments:
        state: The state.
        step: The step.
        pool: Its pool, if there is one.
        modules: What has buffers.
    """
    return {
        "state": state.content(),
        "parameters": step.parameters(),
        "adam": step.adam.state(),
        "rates": step.adam.rates,
        "random": torch.get_rng_state(),
        "pool": None if pool is None else pool.state(),
        "modules": [dict(module.state_dict()) for module in modules],
    }


def put_back(
    content: Mapping[str, Any], step: Step, pool: ChainPool | None, modules: Sequence[nn.Module]
) -> None:
    """Make all that a run changes beside its state what it was when it was kept."""
    for module, values in zip(modules, content["modules"], strict=True):
        module.load_state_dict(values)
    if pool is not None:
        pool.restore(content["pool"])
    step.set_parameters(content["parameters"])
    step.adam.reset(content["adam"])
    if step.adam.rates is not None:
        step.adam.rates.copy_(content["rates"])
    torch.set_rng_state(content["random"])
