"""A run of unchanged code in double precision."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from pyro_nf.model.failures import NUMERICS

__all__ = ["doubled", "in_double"]

T = TypeVar("T")


def in_double(run: Callable[[], T]) -> T | None:
    """What a run gives in double precision; None where it cannot be had.

    Nothing of the process changes, its default dtype least of all: operations of torch get double
    numbers in place of single ones while it runs, whatever constants the code has.
    """
    try:
        with _Double():
            return run()
    except NUMERICS:  # of code that takes its dtypes apart
        return None


def doubled(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of single precision in double."""
    return {name: _double(value) for name, value in values.items()}


class _Double(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func == Tensor.requires_grad.__get__:  # type: ignore[attr-defined]
            return func(*args)  # of the parameter itself; its double is no leaf
        args, kwargs = pytree.tree_map(_double, (args, kwargs or {}))
        result = func(*args, **kwargs) if func is not Tensor.float else args[0].double()
        return pytree.tree_map(_double, result) if _is_single(result) else result


def _is_single(value: Any) -> bool:
    return isinstance(value, Tensor) and Tensor.dtype.__get__(value) == torch.float32  # type: ignore[attr-defined]


def _double(value: Any) -> Any:
    if _is_single(value):
        return value.double()
    return torch.float64 if value is torch.float32 else value
