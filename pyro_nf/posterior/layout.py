"""Tables for a terminal, for a notebook, and as data frames."""

from collections.abc import Sequence
from html import escape
from importlib import import_module
from typing import Any

__all__ = ["data_frame", "html_table", "text_table"]


def data_frame(values: Any, rows: Sequence[str], columns: Sequence[str] | None = None) -> Any:
    """A ``pandas.DataFrame``, or what to install for one."""
    try:
        pandas: Any = import_module("pandas")
    except ImportError as error:
        raise ImportError("a data frame needs pandas: pip install pandas") from error
    return pandas.DataFrame(values, list(rows), columns and list(columns))


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first a head: names to the left, numbers to the right.

    Example:
        >>> print(text_table([["", "mean"], ["theta", "1.25"]]))
               mean
        theta  1.25
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *numbers in rows:
        padded = [cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *padded]).rstrip())
    return "\n".join(lines)


def html_table(rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """The same as HTML.

    Example:
        >>> html_table([["", "mean"], ["a<b", "1"]]).count("a&lt;b")
        1
    """
    head, *body = rows
    names = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = [f"<thead><tr>{names}</tr></thead><tbody>"]
    for name, *numbers in body:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in numbers)
        first = f'<th scope="row" style="text-align: left">{escape(name)}</th>'
        lines.append(f"<tr>{first}{cells}</tr>")
    told = f"<p>{escape(caption)}</p>" if caption else ""
    return f"<div>{told}<table>{''.join(lines)}</tbody></table></div>"
