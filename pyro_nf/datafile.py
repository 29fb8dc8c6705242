"""Data from a file, as a model's arguments."""

import csv
import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_nf.model import as_tensors

__all__ = ["read_data"]


def read_data(path: Path, model: Callable[..., Any]) -> dict[str, Any]:
    """Read a file and match its entries with what a model takes, by name.

    Arguments:
        path: JSON, an object of numbers and lists; CSV with a header, a vector for each column;
            or NPZ. Numbers become tensors, of the default dtype if they are not whole; in CSV a
            column of whole numbers is one.
        model: The model.

    Returns:
        The model's keyword arguments.
    """
    readers = {".json": _json, ".csv": _csv, ".npz": _npz}
    if path.suffix not in readers:
        raise ValueError(f"data must be a .json, .csv or .npz file, got {path}")
    try:
        found = readers[path.suffix](path)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} does not hold numbers by name: {error}") from error
    takes = inspect.signature(model).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes):
        return found
    names = [
        parameter.name for parameter in takes if parameter.kind is not parameter.VAR_POSITIONAL
    ]
    needed = [p.name for p in takes if p.name in names and p.default is p.empty]
    missing, unknown = set(needed) - set(found), set(found) - set(names)
    if missing or unknown:
        raise ValueError(
            f"the model takes {', '.join(names) or 'nothing'}, and {path} has "
            f"{', '.join(found) or 'nothing'}: give them the same names"
        )
    return found


def _json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    if not isinstance(content, dict):
        raise TypeError(f"expected an object, got a {type(content).__name__}")
    return {name: _tensor(np.asarray(value)) for name, value in content.items()}


def _csv(path: Path) -> dict[str, Any]:
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    if any(len(row) != len(header) for row in rows):
        raise ValueError(f"every row needs {len(header)} entries, as the header has")
    columns = zip(*rows, strict=True) if rows else ([] for _ in header)
    return {
        name.strip(): _tensor(np.asarray(_numbers(column)))
        for name, column in zip(header, columns, strict=True)
    }


def _numbers(column: Sequence[str]) -> list[int] | list[float]:
    """Whole numbers, which may be indices, where all are written so."""
    try:
        return [int(entry) for entry in column]
    except ValueError:
        return [float(entry or "nan") for entry in column]


def _npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as content:
        return {name: _tensor(content[name]) for name in content.files}


def _tensor(value: np.ndarray[Any, Any]) -> Tensor:
    """Whole numbers as those of 64 bits, others in the default dtype."""
    if value.dtype.kind not in "biuf":
        raise TypeError(f"expected numbers, got {value.dtype}")
    tensor: Tensor = as_tensors("data", value)
    return tensor.to(torch.get_default_dtype()) if tensor.is_floating_point() else tensor
