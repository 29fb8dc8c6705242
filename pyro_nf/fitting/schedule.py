"""The learning rate of each step, in rounds that end at zero, and when there are enough of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

__all__ = ["MEDIAN", "ROUNDS", "Schedule", "level"]

# Steps of a run that ends by itself. Nearly normal posteriors need no more than the first; in the
# last, draws of the posterior may take part.
ROUNDS = (400, 1_600, 2_000)
TAIL = 0.2  # share of a round, its last, over which the parameters are averaged
EXACT = 0.01  # variance of a log weight: that of a guide which is the posterior to one per cent
TOLERANCE = 0.01  # nats by which a round must improve on the one before
SIGMAS = (0.159, 0.5, 0.841)  # quantiles of a normal variable: the mean and a sigma around it
MEDIAN = 1.25  # standard error of its median, in those of its mean


@dataclass
class Schedule:
    """Rounds of steps, in each of which the learning rate falls to zero by a half cosine.

    Arguments:
        lr: The learning rate at the start of a round.
        turn: The step at which the round begins; before the first the rate is `lr`.
        length: The steps of the round.
        round: Which of `ROUNDS` it is; None for one alone, whose length the user has given.
    """

    lr: float
    turn: int
    length: int
    round: int | None

    @classmethod
    def of(cls, lr: float, steps: int | None, warmup: int) -> "Schedule":
        """That of a run of so many steps, or of one that ends by itself."""
        return cls(lr, warmup, ROUNDS[0], 0) if steps is None else cls(lr, 0, steps, None)

    @property
    def end(self) -> int:
        """The step at which the round ends."""
        return self.turn + self.length

    @property
    def tail(self) -> int:
        """The number of its last steps, at small rates."""
        return _tail(self.length)

    @property
    def is_last(self) -> bool:
        """Whether no round comes after it."""
        return self.round in (None, len(ROUNDS) - 1)

    def rate(self, index: int) -> float:
        """The learning rate of a step."""
        if index < self.turn:
            return self.lr
        return self.lr * (1 + math.cos(math.pi * (index - self.turn) / self.length)) / 2

    def advance(self, to_last: bool) -> None:
        """Begin the next round, or the last."""
        assert self.round is not None  # the callers have looked
        self.turn = self.end
        self.round = len(ROUNDS) - 1 if to_last else self.round + 1
        self.length = ROUNDS[self.round]

    def is_exact(self, losses: Sequence[float], particles: int) -> bool:
        """Whether the log weights are constant, with rare draws far out counted in full.

        With the path gradient nothing is left to learn then.
        """
        return particles * float(torch.tensor(losses[-self.tail :]).double().var()) < EXACT

    def is_idle(self, losses: Sequence[float]) -> bool:
        """Whether the round has won nothing that is worth its time."""
        if not self.round:
            return False
        loss, spread = level(losses, self.tail)
        tail = _tail(ROUNDS[self.round - 1])
        old, old_spread = level(losses[: self.turn], tail)
        noise = MEDIAN * math.hypot(old_spread / math.sqrt(tail), spread / math.sqrt(self.tail))
        return old - loss < max(TOLERANCE, noise)


def _tail(length: int) -> int:
    return max(1, int(TAIL * length))


def level(losses: Sequence[float], window: int) -> tuple[float, float]:
    """The loss in the last steps, and its spread.

    Median and quantiles, since the loss of a wild draw may be of any size.
    """
    values = torch.tensor(losses[-window:], dtype=torch.float64).nan_to_num(math.inf)
    low, middle, high = values.quantile(torch.tensor(SIGMAS).double())
    return float(middle), float(high - low) / 2
