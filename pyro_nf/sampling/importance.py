"""What draws are worth as an importance sample: Pareto-smoothed weights, k-hat, resampling."""

import math
from dataclasses import dataclass

import torch
from pyro.ops.stats import fit_generalized_pareto
from torch import Tensor

__all__ = ["USABLE", "Smoothed", "effective_share", "log_mean", "resampled", "smooth", "threshold"]

MIN_TAIL = 5  # weights above the cutoff that a Pareto fit needs
USABLE = 0.7  # k-hat below which smoothed weights still work
FLAT = 1e-3  # weights which differ by less than this are all the same, but for rounding


@dataclass(frozen=True)
class Smoothed:
    """Pareto-smoothed importance weights.

    Attributes:
        log_weights: The normalized log weights, the largest ones replaced by the quantiles of
            the Pareto distribution fitted to them; with shape ``(n,)``.
        k_hat: The tail index of that distribution.
        cutoff: The raw log weight above which weights are smoothed.
        scale: The scale of the Pareto distribution of weight less ``exp(cutoff)``, relative to
            the largest weight.
        tail: How many weights are smoothed.
    """

    log_weights: Tensor
    k_hat: float
    cutoff: float
    scale: float
    tail: int


def threshold(n: int) -> float:
    """The largest k-hat of n draws at which smoothed weights are of use."""
    return min(1 - 1 / math.log10(n), USABLE) if n > 1 else 0.0


def effective_share(log_weights: Tensor) -> float:
    """The effective share of draws with these weights as an importance sample, from 0 to 1."""
    count = torch.exp(2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0))
    return float(count) / len(log_weights)


def log_mean(log_weights: Tensor) -> tuple[float, float]:
    """The log of the mean weight, and its standard error; weights that are no numbers are zero."""
    usable = torch.where(log_weights.isfinite(), log_weights, -torch.inf)
    weights = torch.exp(usable - usable.max())
    error = float(weights.std() / weights.mean()) / math.sqrt(len(weights))
    return float(weights.mean().log() + usable.max()), error


def smooth(log_weights: Tensor) -> Smoothed:
    """Pareto-smoothed importance weights.

    The M = min(n / 5, 3 sqrt(n)) largest weights are replaced by the expected order statistics
    of a generalized Pareto distribution, fitted by the method of Zhang and Stephens with a weak
    prior towards k = 0.5.

    References:
        Pareto Smoothed Importance Sampling (Vehtari, Simpson, Gelman, Yao and Gabry, 2024)
        https://arxiv.org/abs/1507.02646

    Arguments:
        log_weights: Finite log weights, or minus infinity, with shape ``(n,)``.
    """
    log_weights = log_weights.detach().double().cpu()
    n = len(log_weights)
    top = log_weights.max()
    order = log_weights.argsort()
    sizes = (log_weights - top)[order]
    count = math.ceil(min(n / 5, 3 * math.sqrt(n)))
    least = math.log(torch.finfo(torch.float64).tiny)  # smaller weights are no numbers any more
    cutoff = max(float(sizes[max(n - count - 1, 0)]), least)
    tail = int((sizes > cutoff).sum())
    plain = log_weights - log_weights.logsumexp(0)
    if float(torch.exp(sizes).mean()) > 1 - FLAT or tail == 0:
        return Smoothed(plain, -math.inf, cutoff + float(top), 0.0, 0)  # bounded, and there
    if tail < MIN_TAIL:
        return Smoothed(plain, math.inf, cutoff + float(top), 0.0, 0)
    excess = torch.exp(sizes[-tail:]) - math.exp(cutoff)
    k, sigma = map(float, fit_generalized_pareto(excess))
    if not (math.isfinite(k) and sigma > 0):
        return Smoothed(plain, math.inf, cutoff + float(top), 0.0, 0)
    probability = (torch.arange(tail, dtype=torch.float64) + 0.5) / tail
    quantiles = -torch.log1p(-probability)
    if abs(k) > torch.finfo(torch.float64).eps:
        quantiles = torch.expm1(k * quantiles) / k
    smoothed = sizes.clone()
    smoothed[-tail:] = torch.log(sigma * quantiles + math.exp(cutoff)).clamp_max(0.0)
    result = torch.empty_like(smoothed)
    result[order] = smoothed
    result = result - result.logsumexp(0)
    return Smoothed(result, k, cutoff + float(top), sigma, tail)


def resampled(log_weights: Tensor, n: int) -> Tensor:
    """Indices of n draws, chosen in proportion to their smoothed weights, in random order.

    Systematic resampling: one random number places n equidistant pointers, so that a draw comes
    as often as its weight asks for, to within one.
    """
    usable = torch.where(log_weights.isfinite(), log_weights, -torch.inf)
    if bool((usable == -torch.inf).all()):
        raise ValueError("no draw has a finite weight, so there is none to keep; see diagnose()")
    total = smooth(usable).log_weights.exp().cumsum(0)
    shift = torch.rand((), dtype=torch.float64)
    pointers = (torch.arange(n, dtype=torch.float64) + shift) * (total[-1] / n)
    return torch.searchsorted(total, pointers)[torch.randperm(n)]
