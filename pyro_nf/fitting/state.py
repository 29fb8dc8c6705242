"""All that changes in a run, which a checkpoint holds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from pyro_nf.fitting.recipe import Recipe
from pyro_nf.fitting.schedule import Schedule

__all__ = ["State"]


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

    def content(self) -> dict[str, Any]:
        """Itself as tensors and plain values."""
        content = {part.name: getattr(self, part.name) for part in fields(self)}
        return content | {"schedule": self.schedule.state()}

    @classmethod
    def of(cls, content: Mapping[str, Any], recipe: Recipe) -> "State":
        """That of some content."""
        return cls(**{**content, "schedule": Schedule(recipe, **content["schedule"])})
