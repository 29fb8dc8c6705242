"""A table of a posterior: a row for each number, a column for each statistic."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from typing import Any

import torch
from torch import Tensor

from pyro_nf.posterior.layout import html_table, text_table

__all__ = ["Summary", "components", "summarize"]

QUANTILES = {"5%": 0.05, "50%": 0.5, "95%": 0.95}
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
        try:
            pandas: Any = import_module("pandas")
        except ImportError as error:
            raise ImportError("a data frame needs pandas: pip install pandas") from error
        return pandas.DataFrame(self.values.numpy(), list(self.rows), list(self.columns))


def summarize(draws: Mapping[str, Tensor]) -> Summary:
    """Mean, standard deviation and quantiles of each number.

    Arguments:
        draws: For each site n draws, of shape ``(n, *shape)``.

    Example:
        >>> print(summarize({"x": torch.arange(5.0), "y": torch.ones(5, 2)}))
               mean     sd     5%    50%    95%
        x     2.000  1.581  0.200  2.000  3.800
        y[0]  1.000  0.000  1.000  1.000  1.000
        y[1]  1.000  0.000  1.000  1.000  1.000
    """
    rows: list[str] = []
    parts: list[Tensor] = []
    levels = torch.tensor(list(QUANTILES.values()), dtype=torch.float64)
    for name, value in draws.items():
        flat = value.detach().double().cpu().reshape(len(value), -1)
        rows += components(name, value.shape[1:])
        for piece in flat.split(max(1, PIECE // max(len(flat), 1)), -1):
            moments = torch.stack([piece.mean(0), piece.std(0)])
            parts.append(torch.cat([moments, piece.quantile(levels, 0)]).mT)
    columns = ("mean", "sd", *QUANTILES)
    table = torch.cat(parts) if parts else torch.empty(0, len(columns), dtype=torch.float64)
    return Summary(tuple(rows), columns, table)


def components(name: str, shape: tuple[int, ...]) -> Iterator[str]:
    """The names of the numbers of a site.

    Example:
        >>> list(components("x", (2, 2)))
        ['x[0,0]', 'x[0,1]', 'x[1,0]', 'x[1,1]']
    """
    for index in product(*map(range, shape)):
        yield f"{name}[{','.join(map(str, index))}]" if index else name


def _number(value: float) -> str:
    return f"{value:.3f}" if 1e-2 <= abs(value) < 1e5 or value == 0 else f"{value:.3g}"
