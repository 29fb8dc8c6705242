"""Random numbers that are nobody else's affair."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyro
import torch

__all__ = ["kept_random_state", "seeded"]


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Leave the random states of torch, NumPy and Python as they are."""
    state = pyro.util.get_rng_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            pyro.util.set_rng_state(state)


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw the same random numbers each time, and the caller's go on as if there were none.

    With None as the seed, nothing is done.
    """
    if seed is None:
        yield
        return
    with kept_random_state():
        pyro.set_rng_seed(seed)
        yield
