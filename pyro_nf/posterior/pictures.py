"""More pictures of a posterior, as its report shows them: marginals, chains, predictive checks."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_nf.posterior.figures import BENEATH, INK, MARK, PAPER, bins_of, new_figure

__all__ = ["chains", "marginals", "predicted"]

SHOWN = 30  # replications of the data
ACROSS = 4  # panels in a row
COUNTS = 40  # values of whole numbers that have a bin each


def marginals(columns: Mapping[str, Tensor], beneath: Mapping[str, Tensor]) -> Any:
    """The distribution of each number, in rows of panels.

    Arguments:
        columns: For each number its draws, of shape ``(n,)``.
        beneath: Other draws of some of them, to be shown beneath.

    Returns:
        A figure.
    """
    across = min(ACROSS, len(columns))
    rows = math.ceil(len(columns) / across)
    figure, grid = new_figure(2.2 * across, 1.6 * rows + 0.3, rows, across)
    panels = [axes for row in grid for axes in row]
    for axes, (name, draws) in zip(panels, columns.items(), strict=False):
        layers = [beneath[name], draws] if name in beneath else [draws]
        bins = bins_of(layers)
        if name in beneath:
            axes.hist(beneath[name], bins, density=True, color=BENEATH, label="guide", alpha=0.6)
        axes.hist(draws, bins, density=True, histtype="step", color=INK, lw=1.3, label="draws")
        axes.set_title(name, fontsize=8)
        axes.set_yticks([])
        axes.tick_params(labelsize=7)
    for axes in panels[len(columns) :]:
        axes.set_axis_off()
    if beneath:
        panels[0].legend(frameon=False, fontsize=7)
    return figure


def chains(means: Mapping[str, Tensor], r_hat: float) -> Any:
    """The means of superchains, less the mean of all, in standard deviations of the draws.

    Arguments:
        means: For each number those of its superchains, with shape ``(superchains,)``.
        r_hat: The largest nested R-hat.

    Returns:
        A figure.
    """
    figure, axes = new_figure(6.0, 0.3 * len(means) + 1.3)
    for place, (_, each) in enumerate(means.items()):
        axes.plot(each, torch.full_like(each, place), "|", color=INK, ms=10, alpha=0.6)
    axes.axvline(0, color=PAPER, lw=0.8, zorder=0)
    widest = max((float(each.abs().max()) for each in means.values()), default=0.0)
    edge = max(0.5, 1.1 * widest)
    axes.set(
        yticks=range(len(means)),
        yticklabels=list(means),
        xlim=(-edge, edge),
        xlabel="mean of each superchain, in standard deviations of the draws",
        title=f"largest R-hat {r_hat:.3f}",
    )
    axes.invert_yaxis()
    return figure


def predicted(name: str, seen: Tensor, drawn: Tensor) -> Any:
    """Observed data over data that the posterior predicts.

    Arguments:
        name: The site.
        seen: The data, with shape ``(*shape)``.
        drawn: Replications of them, with shape ``(n, *shape)``.

    Returns:
        A figure.
    """
    seen, drawn = seen.flatten(), drawn.flatten(1)
    figure, axes = new_figure(6.0, 3.2)
    if len(seen) == 1:
        axes.hist(drawn[:, 0], bins_of([drawn[:, 0]]), color=PAPER, label="predicted")
        axes.axvline(float(seen), color=MARK, lw=2, label="observed")
    else:
        bins = _bins(seen, drawn)
        for place, each in enumerate(drawn[:SHOWN]):
            label = "predicted" if place == 0 else None
            axes.hist(each, bins, histtype="step", color=PAPER, lw=0.8, label=label)
        axes.hist(seen, bins, histtype="step", color=MARK, lw=2, label="observed")
    axes.set(xlabel=name, ylabel="count")
    axes.legend(frameon=False)
    return figure


def _bins(seen: Tensor, drawn: Tensor) -> Tensor:
    """Bins for data: one for each value where these are few whole numbers; fewer for few data."""
    low, high = float(seen.min()), float(seen.max())
    drawn = drawn[:SHOWN].flatten()
    if high - low <= COUNTS and bool((drawn == drawn.round()).all()):
        return torch.arange(math.floor(low) - 1, math.ceil(high) + 3) - 0.5
    sample = torch.cat([seen, drawn])
    ends = bins_of([sample[:: max(1, len(sample) // 100_000)]])
    number = max(8, min(40, round(2 * len(seen) ** 0.5)))
    return torch.linspace(float(ends[0]), float(ends[-1]), number)
