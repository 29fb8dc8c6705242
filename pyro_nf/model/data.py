"""What users have in place of tensors: arrays, columns, data frames, lists of numbers."""

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["FORMS", "Form", "argument_names", "as_tensors", "is_array", "leaves"]

Form = Literal["tensors", "columns", "lists", "given"]
FORMS: tuple[Form, ...] = ("tensors", "columns", "lists", "given")

# What to type, with the argument's name in place of {x}.
CODES = "type pandas.factorize({x})[0], which numbers them"
DAYS = "type ({x} - {x}.min()) / numpy.timedelta64(1, 'D') for days since the first"
FLOATS = "type {x}.astype(float)"
FLOATS_OF_A_LIST = "type numpy.array({x}, dtype=float)"
KINDS = {
    "O": ("objects", FLOATS + ", which says what is no number"),
    "U": ("strings", CODES),
    "S": ("strings", CODES),
    "T": ("strings", CODES),
    "M": ("dates", DAYS),
    "m": ("differences of time", "type {x} / numpy.timedelta64(1, 'D') for days"),
    "c": ("complex numbers", "type {x}.real and {x}.imag, or torch.as_tensor({x}) to keep them"),
    "V": ("records", "type {x}['field'] for each field"),
}
NUMBER = (bool, int, float, np.number, np.bool_)


def as_tensors(name: str, value: Any, form: Form = "tensors") -> Any:
    """An argument of a model with tensors in place of arrays; all else is as it was.

    Arrays of NumPy, pandas, xarray and whatever else has ``__array__`` become tensors: floats of
    their own precision, whole numbers of 64 bits, so that they are indices, booleans as they are.
    A data frame of numbers becomes a tensor ``(rows, columns)``, a Dataset of xarray a dict, a list
    of numbers a tensor. Lists, tuples and dicts of such are looked into. Nothing shares memory with
    what was given.

    Arguments:
        name: What the user calls it.
        value: What the user gave.
        form: ``"columns"`` for a dict in place of a data frame, ``"lists"`` for lists of numbers as
            they are, ``"given"`` for all as it is given.
    """

    def inner(key: Any, part: Any) -> Any:
        return as_tensors(f"{name}[{key!r}]", part, form)

    if form == "given":
        return value
    if isinstance(value, np.number | np.bool_):
        return value.item()  # a number is an option, perhaps; tensors and NumPy's do not mix
    if _is_frame(value):
        if form == "columns" or not hasattr(value, "columns"):
            return {key: inner(key, value[key]) for key in _columns(value)}
        return _frame(name, value, inner)
    if is_array(value):
        return _array(name, value)
    if type(value) is list:
        return value if form == "lists" else _list(name, value, inner)
    if type(value) is dict:
        return {key: inner(key, part) for key, part in value.items()}
    if type(value) is tuple:
        return tuple(inner(key, part) for key, part in enumerate(value))
    if hasattr(value, "tocoo") and hasattr(value, "toarray"):
        raise TypeError(f"the argument {name} is sparse; type {name}.toarray()")
    return value


def is_array(value: Any) -> bool:
    """Whether a value is an array, a column or a data frame, and no tensor yet."""
    if isinstance(value, Tensor | nn.Module | type | np.generic):
        return False
    return hasattr(value, "__array__") or _is_frame(value)


def leaves(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors in an argument, each with what the user calls it."""
    if isinstance(value, Tensor):
        yield name, value
    elif type(value) in (list, tuple, dict):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(f"{name}[{key!r}]", part)


def argument_names(model: Callable[..., Any], args: Sequence[Any]) -> list[str]:
    """What a model calls the arguments that it is given by position."""
    try:
        run = model.forward if isinstance(model, nn.Module) else model
        takes = list(inspect.signature(run).parameters.values())
    except (TypeError, ValueError):  # it tells nothing of itself
        takes = []
    names = [p.name for p in takes if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [*names[: len(args)], *(f"args[{k}]" for k in range(len(names), len(args)))]


# -------------------------------------------------------------------- each kind


def _is_frame(value: Any) -> bool:
    """Whether it is a data frame, or a Dataset of xarray."""
    frame = hasattr(value, "columns") and hasattr(value, "to_numpy")
    return frame or (hasattr(value, "data_vars") and hasattr(value, "to_array"))


def _columns(frame: Any) -> list[Any]:
    return list(frame.columns if hasattr(frame, "columns") else frame.data_vars)


def _frame(name: str, frame: Any, inner: Callable[[Any, Any], Tensor]) -> Tensor:
    """A matrix of a data frame; of the widest dtype among its columns."""
    names = _columns(frame)
    if len(set(names)) < len(names):
        raise TypeError(f"the argument {name} has columns of the same name, {names}")
    parts = [inner(key, frame[key]) for key in names]
    if not parts:
        return torch.zeros(len(frame), 0)
    dtype = parts[0].dtype
    for part in parts:
        dtype = torch.promote_types(dtype, part.dtype)
    return torch.stack([part.to(dtype) for part in parts], -1)


def _array(name: str, value: Any) -> Tensor:
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise TypeError(
            f"the argument {name} is masked in part; type {name}.filled(0) and give ~{name}.mask "
            "to the model as an argument of its own, for poutine.mask"
        )
    dtype = getattr(value, "dtype", None)
    if str(dtype) == "category":
        raise TypeError(f"the argument {name} holds categories; type {name}.cat.codes")
    _refuse(name, _kind(value, dtype))
    if not isinstance(dtype, np.dtype) and "pandas" in sys.modules:
        _refuse_missing(name, value)
    array = np.asarray(value)
    _refuse(name, array.dtype.kind)
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise TypeError(
            f"the argument {name} holds whole numbers above 2^63; {FLOATS}".format(x=name)
        )
    wanted = {"b": np.bool_, "i": np.int64, "u": np.int64}.get(array.dtype.kind)
    if wanted is None:
        wanted = np.float64 if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(array, dtype=wanted, order="C"))  # always a copy


def _kind(value: Any, dtype: Any) -> str:
    """NumPy's letter for what an array holds; pandas below 3 has strings as objects."""
    if str(dtype) in ("str", "string"):
        return "U"
    kind = getattr(dtype, "kind", "")
    parts = np.asarray(value).ravel() if kind == "O" else np.empty(0)
    return "U" if parts.size and all(isinstance(part, str) for part in parts) else kind


def _refuse(name: str, kind: str) -> None:
    """Refuse an array of a kind that no tensor has, with what to type."""
    if kind in KINDS:
        what, fix = KINDS[kind]
        raise TypeError(f"the argument {name} holds {what}; {fix}".format(x=name))


def _refuse_missing(name: str, value: Any) -> None:
    """Refuse a column of pandas that has NA, which no tensor has."""
    if bool(sys.modules["pandas"].isna(value).any()):
        raise TypeError(
            f"the argument {name} has missing values, NA; type {name}.dropna(), or fill them, "
            f"{name}.fillna(0), and give {name}.notna() to the model as well, for poutine.mask"
        )


def _list(name: str, value: list[Any], inner: Callable[[Any, Any], Any]) -> Any:
    """A list of numbers, or of such lists of one length, as a tensor; another part by part."""
    if _is_numbers(value):
        try:
            return torch.tensor(value)
        except (RuntimeError, OverflowError, ValueError) as error:
            raise TypeError(
                f"the argument {name} holds numbers above 2^63; {FLOATS_OF_A_LIST}".format(x=name)
            ) from error
    if any(part is None for part in value) and any(isinstance(part, NUMBER) for part in value):
        raise TypeError(
            f"the argument {name} holds None among numbers; leave these out, or fill them and give "
            "a list of True and False to the model as well, for poutine.mask"
        )
    return [inner(key, part) for key, part in enumerate(value)]


def _is_numbers(value: Any) -> bool:
    """Whether a list holds numbers alone, or lists of them that have one shape."""
    return isinstance(value, list) and _shape(value) is not None and bool(value)


def _shape(value: Any) -> tuple[int, ...] | None:
    """The shape of nested lists of numbers; None if there is none."""
    if isinstance(value, NUMBER):
        return ()
    if not isinstance(value, list):
        return None
    shapes = {_shape(part) for part in value}
    if not shapes:
        return (0,)
    (shape, *others) = shapes
    return None if others or shape is None else (len(value), *shape)
