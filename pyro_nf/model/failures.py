"""What a model raises where its numerics fail, such as a Cholesky factor's."""

from collections.abc import Callable
from typing import TypeVar

__all__ = ["NUMERICS", "patiently"]

NUMERICS = (RuntimeError, ValueError, ArithmeticError)
RUNS = 5  # first runs of a model whose numerics may fail now and then

T = TypeVar("T")


def patiently(run: Callable[[], T]) -> T:
    """What a run returns that draws anew each time, tried a few times where numerics fail."""
    for _ in range(RUNS - 1):
        try:
            return run()
        except NUMERICS:
            continue
    return run()
