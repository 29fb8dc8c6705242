"""What the pictures share: figures, colours, limits; matplotlib is imported inside."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from pyro_nf.posterior.labels import Labels

__all__ = [
    "BENEATH",
    "INK",
    "MARK",
    "PAPER",
    "bins_of",
    "columns_of",
    "limits_around",
    "new_figure",
]

INK, PAPER, MARK, BENEATH = "#1b4965", "#bcc4cc", "#d1495b", "#f2a65a"


def new_figure(width: float, height: float, rows: int = 0, columns: int = 0) -> tuple[Any, Any]:
    """A new figure with one pair of axes, or with rows of them, as many as columns if not told."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install matplotlib") from error
    shape = max(rows, 1), max(columns or rows, 1)
    figure, grid = pyplot.subplots(
        *shape, figsize=(width, height), squeeze=False, layout="constrained"
    )
    for axes in chain.from_iterable(grid):
        axes.spines[["top", "right"]].set_visible(False)
    return figure, grid if rows else grid[0][0]


def columns_of(draws: Mapping[str, Tensor], labels: Labels) -> dict[str, Tensor]:
    """Each number of the sites, with shape ``(n,)``."""
    columns: dict[str, Tensor] = {}
    for site, drawn in draws.items():
        value = torch.as_tensor(drawn).detach().double().cpu()
        flat = value.reshape(len(value), -1).unbind(-1)
        columns |= zip(labels.numbers(site, value.shape[1:]), flat, strict=True)
    return columns


def bins_of(samples: Sequence[Tensor]) -> Tensor:
    """Bins, or limits, for all but the outermost of some samples."""
    levels = torch.tensor([0.002, 0.998], dtype=torch.float64)
    ends = torch.stack([sample.quantile(levels) for sample in samples])
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    margin = 0.05 * (high - low) or 0.5
    return torch.linspace(low - margin, high + margin, 41, dtype=torch.float64)


def limits_around(draws: Tensor) -> tuple[tuple[float, float], tuple[float, float]]:
    """The limits of a picture of points of shape ``(n, 2)``."""
    x, y = (bins_of([side]) for side in draws.detach().double().cpu().unbind(-1))
    return (float(x[0]), float(x[-1])), (float(y[0]), float(y[-1]))


def cut_start(axes: Any, values: Tensor) -> None:
    """Limit the vertical axis to the later values, where the first ones dwarf them."""
    late = values[len(values) // 10 :]
    low, high = float(late.quantile(0.001)), float(late.quantile(0.995))
    if math.isfinite(low + high) and float(values.max()) > high + 2 * (high - low):
        axes.set_ylim(low - 0.1 * (high - low), high + 0.3 * (high - low))
