"""Pictures of a fit and of a posterior, drawn with matplotlib, which is imported inside.

No function shows its figure, or changes a setting of matplotlib's.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_nf.posterior.drawable import density_of
from pyro_nf.posterior.figures import (
    BENEATH,
    INK,
    MARK,
    PAPER,
    bins_of,
    columns_of,
    cut_start,
    limits_around,
    new_figure,
)
from pyro_nf.posterior.labels import Labels
from pyro_nf.posterior.summary import chosen
from pyro_nf.sampling import smooth, threshold

__all__ = ["density", "draw", "khat", "loss", "pairs"]

Layer = tuple[str, dict[str, Tensor], str]  # a label, samples by name, a colour

WINDOW = 50  # a smoothed loss has this many windows in the run
MOST = 8  # numbers in a matrix of scatter plots
POINTS = 2000  # of a scatter plot
GRID = 200  # points a side of a density


def loss(losses: Tensor, window: int | None = None) -> Any:
    """The loss of each step, its running mean, and two standard errors of that on either side.

    The axis is cut to what happens after the first tenth of the run, where that is much less.

    Arguments:
        losses: With shape ``(steps,)``; skipped steps are NaN.
        window: The number of steps in a running mean; by default a fiftieth of the run.

    Returns:
        A figure.

    Example:
        >>> figure = loss(10 * torch.exp(-torch.arange(500) / 50) + torch.rand(500))
    """
    values = torch.as_tensor(losses).detach().double().cpu()
    if values.dim() != 1 or len(values) < 2:
        raise ValueError(
            f"expected the losses of at least two steps, got a shape of {tuple(values.shape)}; "
            "pyro_nf.fit keeps them, and for a guide trained otherwise set posterior.losses"
        )
    window = max(1, len(values) // WINDOW) if window is None else window
    steps = torch.arange(len(values))
    values = torch.where(values.isfinite(), values, torch.nan)
    windows = values.unfold(0, window, 1)
    mean = windows.nanmean(-1)
    variance = (windows - mean.unsqueeze(-1)).square().nanmean(-1)
    error = 2 * (variance / windows.isfinite().sum(-1)).sqrt()
    picture, axes = new_figure(7.0, 4.0)
    usable = values.isfinite()
    axes.plot(steps[usable], values[usable], color=PAPER, lw=0.5, label="each step")
    label = f"mean of {window} steps" if window > 1 else "each step"
    late = steps[window - 1 :]
    axes.fill_between(
        late, mean - error, mean + error, color=INK, alpha=0.25, lw=0, label="± 2 s.e."
    )
    axes.plot(late, mean, color=INK, lw=1.5, label=label)
    cut_start(axes, values[usable])
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set(xlabel="step", ylabel="loss (negative ELBO)", xlim=(0, len(values) - 1))
    axes.legend(frameon=False)
    return picture


def pairs(
    draws: Mapping[str, Tensor],
    reference: Mapping[str, Tensor] | None = None,
    sites: Sequence[str] | None = None,
    labels: Labels | None = None,
) -> Any:
    """Each number of a posterior against each other, and the distribution of each.

    Arguments:
        draws: For each site n draws, of shape ``(n, *shape)``.
        reference: Other draws, of a long Markov chain say, to be shown beneath.
        sites: The sites to show; by default all, up to eight numbers.
        labels: The names of the numbers, as ``posterior.labels`` has them.

    Returns:
        A figure.

    Example:
        >>> figure = pairs({"mu": torch.randn(500), "theta": torch.randn(500, 2)})
        >>> len(figure.axes)  # three by three
        9
    """
    labels = labels or Labels()
    shown = chosen(draws, sites)
    columns = columns_of(shown, labels)
    if not columns:
        raise ValueError("there are no draws to show")
    layers = [("draws", columns, INK)]
    if reference is not None:
        known = columns_of({n: v for n, v in reference.items() if n in shown}, labels)
        layers.insert(0, ("reference", known, BENEATH))
    names = list(columns)[:MOST]
    side = max(1.7 * len(names), 3.5)
    picture, grid = new_figure(side, side, len(names))
    for row, across in enumerate(names):
        for column, along in enumerate(names):
            axes = grid[row][column]
            if column > row:
                axes.set_axis_off()
                continue
            _panel(axes, layers, along, across)
            axes.set_xlabel(along if row == len(names) - 1 else "")
            axes.set_ylabel(across if column == 0 < row else "")
            shown_at = {"labelbottom": row == len(names) - 1, "labelleft": column == 0}
            axes.tick_params(labelsize=7, left=column < row, **shown_at)
    if reference is not None:
        handles, labels = grid[0][0].get_legend_handles_labels()
        picture.legend(handles, labels, loc="upper right", frameon=False)
    if len(columns) > len(names):
        note = f"{len(names)} of {len(columns)} numbers; sites=[...] chooses others"
        picture.suptitle(note, fontsize=9)
    return picture


def _panel(axes: Any, layers: Sequence[Layer], along: str, across: str) -> None:
    """One place in a matrix of scatter plots; histograms where both numbers are the same."""
    layers = [layer for layer in layers if along in layer[1] and across in layer[1]]
    bins, others = (bins_of([layer[1][name] for layer in layers]) for name in (along, across))
    for level, (label, columns, colour) in enumerate(layers):
        x, y = columns[along], columns[across]
        beneath = level < len(layers) - 1
        if along == across:
            kind = "stepfilled" if beneath else "step"
            axes.hist(x, bins, density=True, histtype=kind, color=colour, lw=1.3, label=label)
            axes.set_yticks([])
        else:
            size, alpha = (5, 0.35) if beneath else (2, 0.45)
            x, y = x[:POINTS], y[:POINTS]
            axes.scatter(x, y, size, color=colour, alpha=alpha, lw=0, rasterized=True)
            axes.set_ylim(float(others[0]), float(others[-1]))
        axes.set_xlim(float(bins[0]), float(bins[-1]))


def khat(log_weights: Tensor) -> Any:
    """The largest importance weights, and the Pareto distribution that k-hat is the index of.

    Arguments:
        log_weights: As of ``posterior.log_weights(n)``, with shape ``(n,)``.

    Returns:
        A figure.

    Example:
        >>> figure = khat(torch.randn(4000))
    """
    raw = torch.as_tensor(log_weights).detach().double().cpu()
    usable = torch.where(raw.isfinite(), raw, -torch.inf)
    if raw.dim() != 1 or not bool(usable.isfinite().any()):
        raise ValueError(
            f"expected a vector of log weights, got a shape of {tuple(raw.shape)} with "
            f"{int(raw.isfinite().sum())} finite ones"
        )
    n = len(raw)
    fit = smooth(usable)
    size = usable - (usable.logsumexp(0) - math.log(n))  # relative to the mean weight
    weight = size.exp().sort(descending=True).values
    share = (torch.arange(n) + 0.5) / n
    picture, axes = new_figure(6.0, 4.0)
    few = max(fit.tail, 20)
    rest = slice(few, min(n, 8 * few))
    axes.loglog(weight[rest], share[rest], ".", color=PAPER, ms=4, label="weights")
    axes.loglog(weight[:few], share[:few], ".", color=INK, ms=5, label=f"the {few} largest")
    if fit.tail:
        top = float(size.max())
        start = math.exp(fit.cutoff - float(usable.max()) + top)
        scale = fit.scale * math.exp(top)
        x = torch.logspace(math.log10(start), math.log10(1.5 * float(weight[0])), 200)
        y = fit.tail / n * _survival((x - start) / scale, fit.k_hat)
        seen = y > 0.2 / n
        axes.loglog(x[seen], y[seen], color=MARK, lw=1.5, label="Pareto fit")
        axes.axvline(start, color=PAPER, lw=0.8, ls="--", zorder=0)
    if weight[0] < 10 * weight[rest][-1]:  # ticks of a log scale would lie on one another
        axes.set_xscale("linear")
    axes.set(
        xlabel="importance weight over its mean",
        ylabel="share of draws with a larger one",
        title=f"k-hat = {fit.k_hat:.2f} (weights can correct draws below {threshold(n):.2f})",
    )
    axes.legend(frameon=False)
    return picture


def density(
    target: Any,
    bounds: tuple[tuple[float, float], tuple[float, float]] | None = None,
    draws: Tensor | None = None,
    labels: tuple[str, str] = ("", ""),
) -> Any:
    """A density of two dimensions, on a grid.

    Arguments:
        target: A flow, for what it makes of a standard normal distribution; an autoguide that
            packs its sites into a vector, in unconstrained coordinates; a distribution; or a
            function from points of shape ``(n, 2)`` to log densities.
        bounds: The limits of both axes; by default around the draws.
        draws: Points of shape ``(n, 2)`` to be shown over it.
        labels: The names of both axes.

    Returns:
        A figure.

    Example:
        >>> from pyro_nf import make_flow
        >>> figure = density(make_flow("planar*8", 2), labels=("x", "y"))
    """
    log_density, sample = density_of(target)
    if bounds is None:
        sample = draws if draws is not None else sample
        if sample is None:
            raise ValueError("of a function alone the limits are unknown; give bounds or draws")
        bounds = limits_around(sample)
    sides = [torch.linspace(*side, GRID, dtype=torch.float64) for side in bounds]
    points = torch.cartesian_prod(*sides)
    with torch.no_grad():
        height = log_density(points).double().exp().reshape(GRID, GRID)
    picture, axes = new_figure(5.0, 4.5)
    heights = height.nan_to_num(0.0).mT.numpy()
    edges = [side.numpy() for side in sides]
    axes.pcolormesh(*edges, heights, cmap="Blues", shading="nearest", rasterized=True)
    if draws is not None:
        x, y = draws[:POINTS].detach().double().cpu().unbind(-1)
        axes.scatter(x, y, s=5, color=MARK, alpha=0.6, lw=0)
    axes.set(xlabel=labels[0], ylabel=labels[1], xlim=bounds[0], ylim=bounds[1])
    return picture


def draw(posterior: Any, kind: str, **options: Any) -> Any:
    """The picture of a posterior that has this name."""
    n = options.pop("n", 4000)
    if kind == "loss":
        return loss(posterior.losses, **options)
    if kind == "pairs":
        return pairs(posterior.draws(n), **{"labels": posterior.labels} | options)
    if kind == "khat":
        return khat(posterior.log_weights(n), **options)
    if kind != "density":
        raise ValueError(f'expected "loss", "pairs", "khat" or "density", got {kind!r}')
    shapes = posterior.shapes
    names = [
        name for site, shape in shapes.items() for name in posterior.labels.numbers(site, shape)
    ]
    if len(names) != 2:
        raise ValueError(
            f"a density is drawn of a posterior of two numbers, and this one has {len(names)}; "
            'type plot("pairs")'
        )

    def log_density(points: Tensor) -> Tensor:
        parts = points.split([shape.numel() for shape in shapes.values()], -1)
        values = zip(shapes.items(), parts, strict=True)
        return posterior.log_prob({k: part.reshape(-1, *shape) for (k, shape), part in values})

    drawn = posterior.draws(n)
    flat = torch.cat([drawn[name].reshape(n, -1).double().cpu() for name in shapes], -1)
    named = {"bounds": limits_around(flat), "labels": (names[0], names[1])}
    return density(log_density, **named | options)


def _survival(x: Tensor, k: float) -> Tensor:
    """The share of a generalized Pareto distribution of unit scale above x."""
    if abs(k) < 1e-8:
        return torch.exp(-x)
    return (1 + k * x).clamp_min(0.0) ** (-1 / k)
