"""The picture of distributions of ranks in their band; matplotlib is imported inside."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pyro_nf.posterior import figures
from pyro_nf.studies.bands import Band

__all__ = ["ecdf"]

NAMED = 3  # of those outside


def ecdf(band: Band, counts: Tensor, level: float, names: Sequence[str], levels: Tensor) -> Any:
    """Each distribution less the uniform one, those outside of the band in colour.

    Arguments:
        band: The band.
        counts: Of each number the ranks below each point, with shape ``(numbers, points)``.
        level: That of the band.
        names: The names of the numbers.
        levels: Theirs, with shape ``(numbers,)``.

    Returns:
        A figure.
    """
    picture, axes = figures.new_figure(7.0, 4.0)
    low, high = (limit / band.n - band.z for limit in band.limits(level))
    axes.fill_between(band.z, low, high, color=figures.PAPER, alpha=0.4, lw=0, label="band")
    axes.axhline(0, color=figures.PAPER, lw=0.8)
    outside = [place for place in levels.argsort().tolist() if levels[place] < level]
    for place in range(len(names)):
        if place not in outside:
            axes.plot(band.z, counts[place] / band.n - band.z, color=figures.INK, lw=0.8, alpha=0.6)
    for order, place in enumerate(outside):
        label = names[place] if order < NAMED else None
        colour = (figures.MARK, figures.BENEATH, "#7b2d8b")[min(order, NAMED - 1)]
        axes.plot(band.z, counts[place] / band.n - band.z, color=colour, lw=1.5, label=label)
    axes.set(
        xlabel="rank of the true value, as a share",
        ylabel="share of simulations below, less that",
        xlim=(0, 1),
        title=f"{len(outside)} of {len(names)} numbers leave the band",
    )
    axes.legend(frameon=False)
    return picture
