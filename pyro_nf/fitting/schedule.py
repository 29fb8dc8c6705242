"""The learning rate of each step, in rounds that end at zero, and when there are enough of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pyro_nf.fitting.recipe import Recipe

__all__ = ["OUT_OF_TIME", "Schedule", "falling", "level"]

OUT_OF_TIME = "out of time"  # how a run ended


@dataclass
class Schedule:
    """Rounds of steps, in each of which the learning rate falls to zero by a half cosine.

    Arguments:
        recipe: The rounds, and when nothing is left to win.
        lr: The learning rate at the start of a round.
        turn: The step at which the round begins; before the first the rate is `lr`.
        length: The steps of the round.
        round: Which of the recipe's it is; None for one alone, whose length the user has given.
        steps: That length.
        repeats: How often the last has begun again.
    """

    recipe: Recipe
    lr: float
    turn: int
    length: int
    round: int | None
    steps: int | None = None
    repeats: int = 0

    @classmethod
    def of(cls, recipe: Recipe, lr: float, steps: int | None, warmup: int) -> "Schedule":
        """That of a run of so many steps, or of one that ends by itself."""
        if steps is not None:
            return cls(recipe, lr, 0, steps, None, steps)
        return cls(recipe, lr, warmup, recipe.rounds[0], 0)

    def state(self) -> dict[str, Any]:
        """All but the recipe, by name."""
        names = ("lr", "turn", "length", "round", "steps", "repeats")
        return {name: getattr(self, name) for name in names}

    @property
    def whole(self) -> int:
        """The steps of the round where there is time for them."""
        length = self.steps if self.round is None else self.recipe.rounds[self.round]
        assert length is not None  # given where there are no rounds
        return length

    @property
    def end(self) -> int:
        """The step at which the round ends."""
        return self.turn + self.length

    @property
    def middle(self) -> int:
        """The step in its middle, where the rate is half of that at its start."""
        return self.turn + self.length // 2

    @property
    def second_half(self) -> float:
        """The sum of the rates from there on: the longest way that a parameter can go."""
        return self.lr * self.length * (1 / 2 - 1 / math.pi) / 2

    @property
    def tail(self) -> int:
        """The number of its last steps, at small rates."""
        return self._tail(self.length)

    @property
    def is_last(self) -> bool:
        """Whether no round comes after it."""
        return self.round in (None, len(self.recipe.rounds) - 1)

    @property
    def is_cut(self) -> bool:
        """Whether there is no time for the whole round."""
        return self.length < self.whole

    def cut(self, done: int, steps: float) -> None:
        """End the round, its rate at zero, when there is no time for more.

        Arguments:
            done: The number of steps so far.
            steps: How many more there is time for; there is one at least.
        """
        self.length = int(min(self.whole, max(1, done + max(1, steps) - self.turn)))

    def rate(self, index: int) -> float:
        """The learning rate of a step."""
        if index < self.turn:
            return self.lr
        return self.lr * falling(index - self.turn, self.length)

    def advance(self, to_last: bool) -> None:
        """Begin the next round, or the last; the last again after itself."""
        assert self.round is not None  # the callers have looked
        self.turn = self.end
        if self.is_last:
            self.repeats += 1
            return
        self.round = len(self.recipe.rounds) - 1 if to_last else self.round + 1
        self.length = self.recipe.rounds[self.round]

    def is_exact(self, losses: Sequence[float], particles: int) -> bool:
        """Whether the log weights are constant, with rare draws far out counted in full.

        With the path gradient nothing is left to learn then.
        """
        last = torch.tensor(losses[-self.tail :], dtype=torch.float64)
        return len(last) > 1 and particles * float(last.var()) < self.recipe.exact

    def is_idle(self, losses: Sequence[float]) -> bool:
        """Whether the round has won nothing that is worth its time."""
        if not self.round:
            return False
        loss, spread = level(losses, self.tail, self.recipe)
        tail = self._tail(self.recipe.rounds[self.round - 1])
        old, old_spread = level(losses[: self.turn], tail, self.recipe)
        error = math.hypot(old_spread / math.sqrt(tail), spread / math.sqrt(self.tail))
        return old - loss < max(self.recipe.tolerance, self.recipe.median_error * error)

    def _tail(self, length: int) -> int:
        return max(1, int(self.recipe.tail * length))


def falling(index: int, length: int) -> float:
    """A half cosine from one to zero."""
    return (1 + math.cos(math.pi * index / length)) / 2


def level(losses: Sequence[float], window: int, recipe: Recipe) -> tuple[float, float]:
    """The loss in the last steps, and its spread.

    Median and quantiles, since the loss of a wild draw may be of any size.
    """
    values = torch.tensor(losses[-window:], dtype=torch.float64).nan_to_num(math.inf)
    low, middle, high = values.quantile(torch.tensor(recipe.sigmas).double())
    return float(middle), float(high - low) / 2
