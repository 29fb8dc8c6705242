"""When a run has nothing left to win at its learning rate, by its losses."""

import math
from collections.abc import Sequence

import torch

__all__ = ["MEDIAN", "WINDOW", "is_exact", "is_stationary", "level", "variance"]

WINDOW = 400  # steps, or a quarter of all, whose mean loss is compared with that of as many before
TOLERANCE = 0.01  # nats by which a window must improve on the one before
SHORT = 100  # steps of the windows by which a guide that is exact already is told
EXACT = 0.01  # variance of a log weight: that of a guide which is the posterior to one per cent
IDLE = 0.005  # nats by which its loss still falls
SIGMAS = (0.159, 0.5, 0.841)  # quantiles of a normal variable: the mean and a sigma around it
MEDIAN = 1.25  # standard error of its median, in those of its mean


def is_exact(losses: Sequence[float], particles: int) -> bool:
    """Whether the log weights are constant, and no better than a little before.

    With the path gradient nothing is left to learn then.
    """
    if len(losses) < 2 * SHORT:
        return False
    gain = level(losses, 2 * SHORT, SHORT)[0] - level(losses, SHORT)[0]
    return variance(losses, particles, SHORT) < EXACT and abs(gain) < IDLE


def is_stationary(losses: Sequence[float]) -> bool:
    """Whether a window of steps has won nothing that is worth its time."""
    done = len(losses)
    if done < 2 * WINDOW or done % WINDOW:
        return False
    window = max(WINDOW, done // 4)
    old, old_spread = level(losses, 2 * window, window)
    new, new_spread = level(losses, window)
    noise = MEDIAN * math.hypot(old_spread, new_spread) / math.sqrt(window)
    return old - new < max(TOLERANCE, noise)


def variance(losses: Sequence[float], particles: int, window: int = WINDOW) -> float:
    """That of a log weight, in the last steps."""
    return float(particles * level(losses, window)[1] ** 2)


def level(losses: Sequence[float], first: int, last: int = 0) -> tuple[float, float]:
    """The loss from so many steps ago to so many steps ago, and its spread.

    Median and quantiles, since the loss of a wild draw may be of any size.
    """
    recent = losses[-first : len(losses) - last]  # not all of a long history
    values = torch.tensor(recent, dtype=torch.float64).nan_to_num(math.inf)
    low, middle, high = values.quantile(torch.tensor(SIGMAS).double())
    return float(middle), float(high - low) / 2
