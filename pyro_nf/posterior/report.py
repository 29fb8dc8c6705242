"""A page about a posterior, for a colleague: one file of HTML, with nothing from elsewhere."""

import base64
import io
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from html import escape
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from pyro_nf.files import VERSION
from pyro_nf.posterior import pictures, plots
from pyro_nf.posterior.diagnosis import Diagnosis
from pyro_nf.posterior.figures import columns_of
from pyro_nf.posterior.labels import Labels
from pyro_nf.posterior.layout import html_table
from pyro_nf.posterior.refinement import Refinement

__all__ = ["page"]

WORST, PANELS = 5, 24  # numbers whose pairs, and whose marginals, are shown
REPLICATIONS, MOST = 200, 2 * 10**7  # of the data, and numbers in all of them
Weighted = tuple[dict[str, Tensor], Tensor]  # draws of the guide, and their log weights
STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; margin: 0.5rem 0; } h2 { font-size: 1.15rem; margin: 2rem 0 0.5rem; }
.verdict { border-left: 0.4rem solid; padding: 0.5rem 1rem; background: #f4f6f8; }
.good { border-color: #2e7d4f; } .usable { border-color: #b26a00; } .poor { border-color: #b3261e; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.6rem; border-bottom: 1px solid #d8dde2; text-align: right; }
td.words { text-align: left; overflow-wrap: anywhere; }
tbody th { text-align: left; font-weight: 500; }
figure { margin: 0.5rem 0; } figure img { max-width: 100%; height: auto; }
figcaption { font-size: 0.875rem; color: #444; }
@media print { body { max-width: none; padding: 0; font-size: 11pt; }
  .wide { overflow: visible; } figure, tr { break-inside: avoid; } h2 { break-after: avoid; } }
"""


def page(posterior: Any, n: int, weighted: Weighted | None) -> str:
    """The page.

    Arguments:
        posterior: A posterior.
        n: The number of draws.
        weighted: Draws of its guide with their log weights; None where these mean nothing.
    """
    name = getattr(posterior.model, "__name__", type(posterior.model).__name__)
    diagnosis = posterior.diagnosis
    if diagnosis is None and weighted is not None:
        diagnosis = posterior.diagnose(n)
    weighted = None if weighted is None else _finite(*weighted)
    parts = [
        f"<h1>Posterior of {escape(name)}</h1>",
        _verdict(diagnosis),
        _section("Numbers", f'<div class="wide">{posterior.summary(n)._repr_html_()}</div>'),
        *_pictures(posterior, n, weighted),
        *_checks(posterior),
        _section("What was run", _list(_run(posterior))),
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, '
        f'initial-scale=1"><title>Posterior of {escape(name)}</title><style>{STYLE}</style>'
    )
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n'
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def _finite(values: dict[str, Tensor], log_weights: Tensor) -> Weighted | None:
    """The draws that have a weight, if there are any."""
    usable = log_weights.isfinite().cpu()
    if not bool(usable.any()):
        return None
    return {n: v[usable.to(v.device)] for n, v in values.items()}, log_weights[usable].cpu()


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _list(rows: dict[str, str]) -> str:
    """A table of names and words."""
    cells = (
        f'<tr><th scope="row">{escape(name)}</th><td class="words">{escape(words)}</td></tr>'
        for name, words in rows.items()
    )
    return f'<div class="wide"><table><tbody>{"".join(cells)}</tbody></table></div>'


def _verdict(found: Diagnosis | None) -> str:
    """What was found, in words and numbers."""
    if found is None:
        words = "The guide's draws have no weights that would tell of the posterior"
        return f'<p class="verdict usable"><strong>No verdict.</strong> {words}.</p>'
    line = f"<strong>{found.verdict.capitalize()}</strong>: {escape(found.message)}."
    return f'<p class="verdict {found.verdict}">{line}</p>{_list(found.rows)}'


def _figure(draw: Callable[..., Any], caption: str, *args: Any, **options: Any) -> str:
    """A picture in the page, which is closed again."""
    from matplotlib import pyplot

    figure = draw(*args, **options)
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    pyplot.close(figure)
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


# -------------------------------------------------------------------- pictures


def _pictures(posterior: Any, n: int, weighted: Weighted | None) -> Iterator[str]:
    """Marginals and pairs, and what the training, the weights and the chains were like."""
    columns = columns_of(posterior.draws(n), posterior.labels)
    guide: dict[str, Tensor] = {}
    order = list(columns)
    if weighted is not None:
        values = columns_of(weighted[0], posterior.labels)
        order = sorted(order, key=_moved(values, weighted[1]).__getitem__, reverse=True)
        guide = {} if posterior.refinement is None else values
    shown = {name: columns[name] for name in columns if name in order[:PANELS]}
    words = f"Marginals of {len(shown)} of {len(columns)} numbers"
    if weighted is not None and len(shown) < len(columns):
        words += ", those that importance weights would move most"
    beneath = {name: guide[name] for name in shown if name in guide}
    yield _section("Densities", _figure(pictures.marginals, words, shown, beneath))
    worst = {name: columns[name] for name in order[:WORST]}
    words = "The numbers that importance weights would move most"
    if guide:
        words += "; the guide's own draws, before they were refined, are the reference"
    pairs = _figure(plots.pairs, words, worst, {n: guide[n] for n in worst if n in guide} or None)
    yield _section("Pairs of the worst numbers", pairs)
    if isinstance(posterior.refinement, Refinement):
        yield _section("Chains", _chains(posterior.refinement, posterior.labels, order))
    if weighted is not None:
        words = "The largest importance weights of the guide's own draws"
        yield _section("Weights", _figure(plots.khat, words, weighted[1]))
    if len(posterior.losses) > 1:
        yield _section("Training", _figure(plots.loss, "The loss by steps", posterior.losses))


def _moved(columns: dict[str, Tensor], log_weights: Tensor) -> dict[str, float]:
    """By how many standard deviations weights move the mean of each number.

    They are cut at the square root of their number, so that one draw does not decide.
    """
    weights = (log_weights - log_weights.max()).exp()
    weights = weights / weights.mean()
    weights = weights.clamp_max(len(weights) ** 0.5)
    weights = weights / weights.sum()
    moved = {}
    for name, draws in columns.items():
        shift = float((weights * draws).sum() - draws.mean())
        moved[name] = abs(shift) / max(float(draws.std()), 1e-300)
    return moved


def _chains(refinement: Refinement, labels: Labels, order: list[str]) -> str:
    """How far the superchains agree."""
    flat = {name: value.flatten(0, 1) for name, value in refinement.values.items()}
    columns = columns_of(flat, labels)
    count = len(next(iter(refinement.values.values())))
    means = {}
    for name in [name for name in order if name in columns][:PANELS]:
        draws = columns[name]
        each = draws.unflatten(0, (count, -1)).mean(1)
        means[name] = (each - draws.mean()) / draws.std()
    words = f"{refinement.chains} chains in {count} superchains; the means of these are alike"
    if not refinement.arrived:
        words = f"{refinement.chains} chains in {count} superchains, which have not arrived"
    return _figure(pictures.chains, words, means, refinement.worst)


# -------------------------------------------------------------------- predictions


def _checks(posterior: Any) -> Iterator[str]:
    """Data that the posterior predicts beside those that were seen."""
    seen = {n: v.double().cpu() for n, v in posterior.observed.items() if v.numel()}
    count = sum(value.numel() for value in seen.values())
    if not count or posterior._joint.partial:  # rows at random
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sites that cannot be drawn, which are left out
        drawn = posterior.predict(max(20, min(REPLICATIONS, MOST // count)))
    for name, data in seen.items():
        replicated = drawn[name].double().cpu() if name in drawn else None
        if replicated is None or replicated.shape[1:] != data.shape:
            continue
        words = f"{name}: what was observed, over replications that the posterior predicts"
        content = _figure(pictures.predicted, words, name, data, replicated)
        table = html_table(list(_statistics(data.flatten(), replicated.flatten(1))))
        told = (
            "<p>The share of replications above what was observed should be neither near 0 % nor "
            "near 100 %.</p>"
        )
        yield _section(
            f"Predictive check of {name}", f'{content}<div class="wide">{table}</div>{told}'
        )


def _statistics(seen: Tensor, drawn: Tensor) -> Iterator[list[str]]:
    """Some statistics of the data, and of replications of shape ``(n, numbers)``."""
    yield ["", "observed", "predicted 5 %", "95 %", "share above"]
    found: dict[str, Callable[[Tensor], Tensor]] = {
        "mean": lambda x: x.mean(-1),
        "sd": lambda x: x.std(-1),
        "smallest": lambda x: x.amin(-1),
        "largest": lambda x: x.amax(-1),
    }
    for name, statistic in list(found.items()) if len(seen) > 1 else [("value", found["mean"])]:
        here, there = float(statistic(seen)), statistic(drawn)
        low, high = there.quantile(torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
        above = ((there > here).double() + 0.5 * (there == here).double()).mean()
        yield [name, f"{here:.4g}", f"{low:.4g}", f"{high:.4g}", f"{float(above):.0%}"]


# -------------------------------------------------------------------- what was run


def _run(posterior: Any) -> dict[str, str]:
    """The fit, the data and the versions."""
    model = posterior.model
    where = getattr(model, "__module__", "")
    seen = {name: tuple(value.shape) for name, value in posterior.observed.items()}
    return {
        "model": f"{where}.{getattr(model, '__name__', type(model).__name__)}".lstrip("."),
        "posterior": repr(posterior),
        "fit": posterior.message or "unknown",
        "observed sites": ", ".join(f"{name} {shape}" for name, shape in seen.items()) or "none",
        "versions": ", ".join(
            [f"pyro_nf {VERSION}", f"Python {platform.python_version()}"]
            + [f"{name} {version(name)}" for name in ("torch", "pyro-ppl", "numpy")]
        ),
        "page made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }
