"""The time at which a fit is to end."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Deadline"]


class Deadline:
    """A limit on the seconds of a fit, from now on.

    Arguments:
        seconds: How many; None for no limit.

    Attributes:
        interrupted: Whether Ctrl-C came before the first step.
    """

    def __init__(self, seconds: float | None) -> None:
        self._end = math.inf if seconds is None else time.monotonic() + seconds
        self._pace = 0.0
        self.interrupted = False

    @property
    def is_over(self) -> bool:
        """Whether the time is out."""
        return time.monotonic() >= self._end

    @property
    def left(self) -> float:
        """The seconds that are left, perhaps less than none; infinite without a limit."""
        return self._end - time.monotonic()

    @contextmanager
    def or_interrupt(self) -> Iterator[None]:
        """Let Ctrl-C end what is done here, and with it the fit, which returns what there is."""
        try:
            yield
        except KeyboardInterrupt:
            self._end, self.interrupted = -math.inf, True

    def took(self, seconds: float, steps: int) -> None:
        """Learn how long some steps took, with all that came with them."""
        self._pace = seconds / steps

    @property
    def steps(self) -> float:
        """How many more there is time for."""
        return self.left / self._pace if self._pace else math.inf
