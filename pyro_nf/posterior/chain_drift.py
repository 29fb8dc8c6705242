"""How far Markov chains of the posterior move away from the draws of a guide."""

import math

import torch
from torch import Tensor

from pyro_nf.model import Target
from pyro_nf.posterior.finding import Case, Finding
from pyro_nf.posterior.joint import Joint
from pyro_nf.posterior.refinable import base_flow, refinable, why_not_refined
from pyro_nf.sampling import chains, log_mean

__all__ = ["chain_drift", "drift"]

CHAINS = 512  # or as many as the model takes at once
FEWEST = 128  # of them, fewer are noise
DRAWS = 32  # of the guide for each chain, which cost no run of the model
TURNS = 4  # of new chains, at most
NOISE = 0.05  # of what those of one turn say; nearer to the mark than this, others follow
STILL = 0.09  # standard deviations by which chains may move a marginal, half of it their noise
SMALL = 0.01  # nats for each dimension, as a mean costs that is off by 0.14 standard deviations
MIXED = 0.5  # correlation of ends with starts from which chains tell nothing


def chain_drift(case: Case) -> Finding | None:
    """What chains find of a guide that is usable by its weights; None where they tell nothing.

    In many dimensions the weights of a guide vary though each of its marginals is right: many small
    errors add up. A large one in few dimensions is one of shape, of which means and standard
    deviations may know nothing.
    """
    if case.verdict != "usable" or case.log_q is None:
        return None
    change = drift(case.joint)
    if math.isnan(change):
        return None
    apart = _divergence(case.log_p - case.log_q) / refinable(case.joint.guide).latent_dim
    words = f"{change:.2f} sd in chains, {apart:.3f} nats a number  (good below {STILL}, {SMALL})"
    if not (change < STILL and apart < SMALL):
        return Finding("drift", change, "neutral", words)
    decided = (
        f"chains moved nothing by more than {STILL} sd, and it is within {SMALL} nats a number"
    )
    return Finding("drift", change, "lifts", words, decided)


def drift(joint: Joint) -> float:
    r"""The most by which chains change the mean or standard deviation of a coordinate.

    Draws of the posterior would stay, in distribution, where they are. What draws of the guide
    do, made to move by a chain that keeps the posterior, bounds their error from below, as far
    as the chains go; if their ends still correlate with their starts, that is not far enough.
    Where noise could decide a verdict, new chains from new draws join the first.

    References:
        A Targeted Accuracy Diagnostic for Variational Approximations (Wang, Kasprzak and
        Huggins, 2023) https://arxiv.org/abs/2302.12419

    Arguments:
        joint: Model and guide.

    Returns:
        Of unconstrained coordinates, the change of a mean in standard deviations of the guide, or
        of the log of a standard deviation; NaN where chains cannot be run, or hardly move: for
        guides of which none go on, discrete latent sites, or a model that is not vectorized.
    """
    count = min(CHAINS, joint.chunk)
    if why_not_refined(joint.guide) or not joint.is_smooth or count < FEWEST:
        return math.nan
    guide = refinable(joint.guide)
    target = Target.of(guide, joint.args, joint.kwargs, joint.density)
    if not target.vectorized:
        return math.nan
    posterior = guide.get_posterior(*joint.args, **joint.kwargs)
    draws, moved = [], []
    for turn in range(1, TURNS + 1):
        draws.append(posterior.sample(torch.Size([DRAWS * count])))
        starts = draws[-1][:count]
        moved.append(chains(target, base_flow(guide, joint.args, joint.kwargs), starts, necks=True))
        if not float(_correlation(starts, moved[-1][-count:]).max()) < MIXED:
            return math.nan
        result = _change(torch.cat(draws), torch.cat(moved))
        if not abs(result - STILL) < NOISE / math.sqrt(turn):
            break
    return result


def _divergence(log_weights: Tensor) -> float:
    """Kullback and Leibler's, of a guide from the posterior, by its log importance weights."""
    finite = log_weights[log_weights.isfinite()].double()
    return log_mean(finite)[0] - float(finite.mean())


def _change(x: Tensor, y: Tensor) -> float:
    """Of means and log standard deviations of columns, from x to y, the most."""
    width = x.std(0)
    shift = (y.mean(0) - x.mean(0)).abs() / width
    stretch = (y.std(0) / width).log().abs()
    return float(torch.maximum(shift, stretch).max())


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    """Of the columns of x with those of y, each n draws."""
    x, y = x - x.mean(0), y - y.mean(0)
    return (x * y).sum(0) / (x.square().sum(0) * y.square().sum(0)).sqrt()
