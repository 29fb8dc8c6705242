"""The time at which a fit is to end."""

import math
import time

__all__ = ["Deadline"]


class Deadline:
    """A limit on the seconds of a fit, from now on.

    Arguments:
        seconds: How many; None for no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self._end = math.inf if seconds is None else time.monotonic() + seconds
        self._pace = 0.0

    @property
    def is_over(self) -> bool:
        """Whether the time is out."""
        return time.monotonic() >= self._end

    def took(self, seconds: float, steps: int) -> None:
        """Learn how long some steps took, with all that came with them."""
        self._pace = seconds / steps

    @property
    def steps(self) -> float:
        """How many more there is time for."""
        left = self._end - time.monotonic()
        return left / self._pace if self._pace else math.inf
