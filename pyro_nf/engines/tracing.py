"""A function traced once, and what must hold while it is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from pyro_nf.engines.backends import quick
from pyro_nf.engines.graph import tidy
from pyro_nf.engines.record import record
from pyro_nf.randomness import kept_random_state

__all__ = ["FailuresAreNaN", "NothingLeavesTheGraph", "enumerated_sum", "traced"]

# Functions that raise for a matrix without a factor, and those that tell of it instead.
CHECKED: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.linalg.cholesky: torch.linalg.cholesky_ex,
    torch.cholesky: torch.linalg.cholesky_ex,
    Tensor.cholesky: torch.linalg.cholesky_ex,
    torch.linalg.inv: torch.linalg.inv_ex,
    torch.inverse: torch.linalg.inv_ex,
    Tensor.inverse: torch.linalg.inv_ex,
    torch.linalg.solve: torch.linalg.solve_ex,
}


class FailuresAreNaN(TorchFunctionMode):
    """Factorizations that would raise for a matrix of no factor give NaN for it."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in CHECKED:
            return func(*args, **(kwargs or {}))
        result, info = CHECKED[func](*args, **(kwargs or {}))
        sound = (info == 0).reshape(info.shape + (1,) * (result.dim() - info.dim()))
        return torch.where(sound, result, torch.nan)


class NothingLeavesTheGraph(FailuresAreNaN):
    """While a step is traced, losses stay tensors and nothing is validated.

    Pyro's ELBOs call ``loss.item()`` to add losses up. Distributions that were made while
    validation was on ask ``torch._is_all_true`` in spite of validation being off. The sum over
    enumerated sites would drop terms of no weight, if there were any; a graph cannot, and a step
    in which such a term is infinite is skipped. So is one in which a matrix has no factor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.summing = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.item:
            return args[0].detach()
        if func is torch._is_all_true:
            return torch.tensor(True)
        if func is Tensor.all and self.summing:
            return torch.tensor(True)
        return super().__torch_function__(func, types, args, kwargs)


@contextmanager
def enumerated_sum() -> Iterator[None]:
    """Tell the mode, if a step is traced, that no code of the model runs now."""
    modes = [m for m in _get_current_function_mode_stack() if isinstance(m, NothingLeavesTheGraph)]
    for mode in modes:
        mode.summing = True
    try:
        yield
    finally:
        for mode in modes:
            mode.summing = False


def traced(function: Callable[[Tensor], Tensor], example: Tensor) -> Callable[[Tensor], Tensor]:
    """A function of one tensor by the quick engine; itself where that would not be the same.

    Arguments:
        function: A function of real numbers, with gradients inside or none, not random.
        example: A value of its argument, of the shape that all others have.
    """
    try:
        # Making an engine runs it, and one that is kept already is not made: a random number that
        # is drawn for nothing, as by the plate of a batch, must not tell the two apart.
        with kept_random_state(), pyro.validation_enabled(False), NothingLeavesTheGraph():
            graph = tidy(record(function, [example]))
            engine = quick(graph, [example])
            other = 0.9 * example
            same = torch.allclose(engine([other]), function(other), rtol=1e-4, equal_nan=True)
    except Exception:  # a user's code, of which tracing may ask too much
        return function

    def run(value: Tensor) -> Tensor:
        try:
            return engine([value])
        except (RuntimeError, IndexError):  # for some rows, that the function may tell from others
            return function(value)

    return run if same else function
