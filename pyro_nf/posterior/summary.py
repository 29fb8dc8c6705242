"""A table of a posterior: a row for each number, a column for each statistic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_nf.posterior.labels import Labels
from pyro_nf.posterior.layout import data_frame, html_table, text_table

__all__ = ["LEVELS", "Columns", "Summary", "chosen", "narrowest", "summarize"]

LEVELS = (0.05, 0.5, 0.95)
SHOWN = 60  # rows of a table that is printed whole
PIECE = 2**24  # numbers that are sorted together; torch.quantile takes no more


@dataclass(frozen=True)
class Summary:
    """A table; ``str()`` prints it, ``to_pandas()`` turns it into a data frame.

    Attributes:
        rows: The names of the numbers, such as ``theta[0]``.
        columns: The names of the statistics.
        values: The table, with shape ``(rows, columns)``.

    Example:
        >>> summary = summarize({"theta": torch.arange(10.0).reshape(5, 2)})
        >>> summary.rows
        ('theta[0]', 'theta[1]')
        >>> summary["theta[0]"]["mean"]
        4.0
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Tensor

    def __getitem__(self, row: str) -> dict[str, float]:
        """The statistics of one number by name."""
        try:
            index = self.rows.index(row)
        except ValueError:
            raise KeyError(f"no row {row!r}; the rows are {', '.join(self.rows[:SHOWN])}") from None
        return dict(zip(self.columns, self.values[index].tolist(), strict=True))

    def _cells(self) -> list[list[str]]:
        """The table as text, without its middle if it is long."""
        shown = list(range(len(self.rows)))
        if len(shown) > SHOWN:
            shown = shown[: SHOWN // 2] + shown[-SHOWN // 2 :]
        cells = [["", *self.columns]]
        cells += [[self.rows[i], *map(_number, self.values[i].tolist())] for i in shown]
        return cells

    @property
    def _left_out(self) -> str:
        more = len(self.rows) - SHOWN
        return f"... {more:,} rows, all in to_pandas() and values" if more > 0 else ""

    def __str__(self) -> str:
        lines = text_table(self._cells()).split("\n")
        if self._left_out:
            lines.insert(1 + SHOWN // 2, self._left_out)
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(self._cells(), self._left_out)

    def to_pandas(self) -> Any:
        """The table as a ``pandas.DataFrame``."""
        return data_frame(self.values.numpy(), self.rows, self.columns)


@dataclass(frozen=True)
class Columns:
    """What a table says of each number, beside mean and standard deviation.

    Attributes:
        levels: Of the quantiles.
        hdi: The share of the draws in the narrowest interval; None for no such.
        chains: How many chains the draws are of, one after the other; 1 if they are independent.
        inflation: How many times larger the variance of their mean is than of independent draws.
    """

    levels: Sequence[float] = LEVELS
    hdi: float | None = None
    chains: int = 1
    inflation: float = 1.0

    def __post_init__(self) -> None:
        for share in (*self.levels, *([] if self.hdi is None else [self.hdi])):
            if not 0 < share < 1:
                raise ValueError(f"levels and hdi are shares between 0 and 1, got {share!r}")

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        quantiles = (f"{100 * level:g}%" for level in self.levels)
        ends = () if self.hdi is None else (f"hdi {100 * self.hdi:g}% from", "to")
        return "mean", "sd", *quantiles, *ends, "mcse"

    def of(self, draws: Tensor) -> Tensor:
        """Their values, of draws of shape ``(n, numbers)``, with shape ``(numbers, columns)``."""
        levels = torch.tensor(list(self.levels), dtype=torch.float64)
        parts = [draws.mean(0, keepdim=True), draws.std(0, keepdim=True), draws.quantile(levels, 0)]
        if self.hdi is not None:
            parts.append(narrowest(draws, self.hdi))
        return torch.cat([*parts, self.error(draws).unsqueeze(0)]).mT

    def error(self, draws: Tensor) -> Tensor:
        """The Monte Carlo error of the mean: by means of chains, which are independent, where there
        are several."""
        if self.chains > 1:
            return draws.unflatten(0, (self.chains, -1)).mean(1).std(0) / self.chains**0.5
        return draws.std(0) * (self.inflation / len(draws)) ** 0.5


def narrowest(draws: Tensor, share: float) -> Tensor:
    """The ends of the narrowest intervals with a share of the draws, with shape ``(2, numbers)``.

    Example:
        >>> narrowest(torch.tensor([[0.0], [5.0], [6.0], [7.0], [20.0]]), 0.6).tolist()
        [[5.0], [7.0]]
    """
    order = draws.sort(0).values
    inside = max(1, round(share * len(draws)))
    width = order[inside - 1 :] - order[: len(order) - inside + 1]
    first = width.argmin(0, keepdim=True)
    return torch.cat([order.gather(0, first), order.gather(0, first + inside - 1)])


def summarize(
    draws: Mapping[str, Tensor], columns: Columns | None = None, labels: Labels | None = None
) -> Summary:
    """Mean, standard deviation, quantiles and the error of the mean of each number.

    Arguments:
        draws: For each site n draws, of shape ``(n, *shape)``.
        columns: What is said of each number.
        labels: The names of the numbers.

    Example:
        >>> print(summarize({"x": torch.arange(5.0), "y": torch.ones(5, 2)}))
               mean     sd     5%    50%    95%   mcse
        x     2.000  1.581  0.200  2.000  3.800  0.707
        y[0]  1.000  0.000  1.000  1.000  1.000  0.000
        y[1]  1.000  0.000  1.000  1.000  1.000  0.000
    """
    columns, labels = columns or Columns(), labels or Labels()
    rows: list[str] = []
    parts: list[Tensor] = []
    for name, value in draws.items():
        flat = value.detach().double().cpu().reshape(len(value), -1)
        rows += labels.numbers(name, value.shape[1:])
        parts += map(columns.of, flat.split(max(1, PIECE // max(len(flat), 1)), -1))
    empty = torch.empty(0, len(columns.names), dtype=torch.float64)
    return Summary(tuple(rows), columns.names, torch.cat(parts) if parts else empty)


def chosen(draws: Mapping[str, Tensor], sites: Sequence[str] | None) -> dict[str, Tensor]:
    """Draws of some sites; of all if none are named."""
    names = list(draws) if sites is None else list(sites)
    for name in names:
        if name not in draws:
            raise ValueError(f"there is no site {name!r}; the sites are {', '.join(draws)}")
    return {name: draws[name] for name in names}


def _number(value: float) -> str:
    return f"{value:.3f}" if 1e-2 <= abs(value) < 1e5 or value == 0 else f"{value:.3g}"
