"""A posterior in a line, and as a small table in a notebook."""

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from torch import Size

from pyro_nf.guides import FlowGuide
from pyro_nf.posterior.diagnosis import Diagnosis

__all__ = ["as_html", "as_line"]

Guide = Callable[..., Any]
Shapes = Mapping[str, Size]


def as_line(guide: Guide, shapes: Shapes, slow: bool, found: Diagnosis | None) -> str:
    """Verdict, guide and sites, and whether the model runs one draw at a time."""
    verdict = "" if found is None else f"{found.verdict}; "
    sites = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
    one = "; runs one draw at a time" if slow else ""
    return f"Posterior({verdict}{_name(guide)}; {sites}{one})"


def as_html(guide: Guide, shapes: Shapes, message: str, found: Diagnosis | None) -> str:
    """The same with the message, and what the verdict means."""
    rows = {"guide": _name(guide)}
    rows |= {name: str(tuple(shape)) for name, shape in shapes.items()}
    rows |= {"message": message} if message else {}
    head = "" if found is None else f"<b>{found.verdict}</b>: {escape(found.message)}"
    cells = "".join(
        f'<tr><th style="text-align: left">{escape(name)}</th>'
        f'<td style="text-align: left">{escape(words)}</td></tr>'
        for name, words in rows.items()
    )
    return f"<div>{head}<table>{cells}</table></div>"


def _name(guide: Guide) -> str:
    name: str = getattr(guide, "__name__", type(guide).__name__)
    return repr(guide) if isinstance(guide, FlowGuide) else name
