"""Is a posterior any good? What the importance weights of its draws say."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_nf.sampling import smooth, threshold

__all__ = [
    "FEW",
    "STILL",
    "Diagnosis",
    "check_count",
    "diagnose",
]

MIN_DRAWS = 100  # for fewer the threshold of k-hat lies below 0.5, and k-hat itself is noise
GOOD = 0.5  # the weights have a finite variance below
EVEN = 0.99  # effective share of weights so alike that a usable guide is good
NEAR = 0.95  # the same for a poor guide to be usable
FEW = 0.5  # effective share below which the draws are not the posterior's, whatever their tail is
ALLOWED = 0.01  # share of draws without a finite weight that does not spoil the rest
STILL = 0.09  # standard deviations by which chains may move a marginal, half of it their noise
MISSED = 0.1  # share of the posterior's mass that may be missing, as long as it is only noise


@dataclass(frozen=True)
class Diagnosis:
    """How well a guide's draws stand for the posterior.

    Attributes:
        verdict: by k-hat, one step milder where the weights are nearly equal: ``"good"``, if half
            of the draws count or Markov chains leave a usable guide's draws where they are,
            ``"usable"`` (after :meth:`~pyro_nf.Posterior.resample`) or ``"poor"``.
        message: What that means, and what to try next.
        k_hat: The tail index of the importance weights: below 0.5 good, below ``k_threshold``
            usable; minus infinity where all weights are the same.
        k_threshold: ``min(1 - 1 / log10(n), 0.7)``: n draws cannot tell more.
        ess: The effective share of the draws as an importance sample of the posterior, 0 to 1.
        elbo: The evidence lower bound; the mean log weight.
        elbo_se: Its standard error.
        log_evidence: The log of the mean weight, an estimate of the log evidence.
        log_evidence_se: Its standard error; it means nothing where the verdict is poor.
        missed: The share of the posterior's mass that a search away from the guide's draws
            has found, and that the guide does not reach; NaN where there was no search.
        drift: By how much Markov chains that start from the draws change the mean, in standard
            deviations, or the log of the standard deviation of a coordinate, at most; NaN where
            there were none.
        nonfinite: The share of draws whose weight is zero, infinite or not a number; the ELBO
            leaves them out.
        n: The number of draws.

    Example:
        >>> diagnosis = diagnose(0.1 * torch.randn(4000))  # log weights
        >>> diagnosis.verdict, round(diagnosis.ess, 2)
        ('good', 0.99)
    """

    verdict: str
    message: str
    k_hat: float
    k_threshold: float
    ess: float
    elbo: float
    elbo_se: float
    log_evidence: float
    log_evidence_se: float
    missed: float
    drift: float
    nonfinite: float
    n: int

    def __str__(self) -> str:
        rows = {
            "k-hat": f"{self.k_hat:.2f}  (good below {GOOD}, usable below {self.k_threshold:.2f})",
            "ESS": f"{100 * self.ess:.1f} % of {self.n:,} draws",
            "ELBO": f"{self.elbo:.3f} ± {self.elbo_se:.3f}",
            "log evidence": f"{self.log_evidence:.3f} ± {self.log_evidence_se:.3f}",
        }
        if not math.isnan(self.missed):
            rows["missed mass"] = f"{100 * self.missed:.0f} %"
        if not math.isnan(self.drift):
            rows["drift"] = f"{self.drift:.2f} sd in chains  (good below {STILL})"
        if self.nonfinite:
            rows["not finite"] = f"{100 * self.nonfinite:.1f} % of the draws"
        lines = [f"{self.verdict}: {self.message}"]
        return "\n".join(lines + [f"  {name:<13} {value}" for name, value in rows.items()])


def diagnose(
    log_weights: Tensor,
    missed: float = math.nan,
    rounding: float = 0.0,
    drift: float = math.nan,
) -> Diagnosis:
    """What importance weights say of the guide that has made the draws.

    Arguments:
        log_weights: Log density of model and data less log density of the guide, for each draw.
        missed: The share of the posterior's mass that the guide is known to miss.
        rounding: The standard error that a log density has by rounding.
        drift: By how much chains change the guide's means and standard deviations.

    Example:
        >>> noise = torch.randn(1000, generator=torch.Generator().manual_seed(0))
        >>> diagnose(0.1 * noise).verdict
        'good'
    """
    n = len(log_weights)
    check_count(n)
    log_weights = log_weights.detach().double().cpu()
    finite = log_weights[log_weights.isfinite()]
    nonfinite = 1 - len(finite) / n
    infinite = bool((log_weights == torch.inf).any())
    limit = threshold(n)
    if len(finite) < MIN_DRAWS:
        message = _advice("poor", math.inf, math.nan, nonfinite, infinite)
        nan = math.nan  # there is nothing to estimate the rest from
        return Diagnosis(
            "poor", message, math.inf, limit, 0.0, nan, nan, nan, nan, nan, nan, nonfinite, n
        )
    k_hat = math.inf if infinite else smooth(finite).k_hat
    weights = torch.exp(finite - finite.max())
    mean = weights.mean()
    spoiled = infinite or nonfinite > ALLOWED or missed > MISSED
    # A draw of weight zero counts among the n, not among the effective ones.
    ess = float(weights.sum() ** 2 / (weights**2).sum() / n)
    good = ess > FEW and (k_hat < min(GOOD, limit) or (k_hat < limit and ess > EVEN))
    verdict = "good" if good else "usable" if k_hat < limit or ess > NEAR else "poor"
    if verdict == "usable" and drift < STILL:
        verdict = "good"
    verdict = "poor" if spoiled else verdict
    return Diagnosis(
        verdict=verdict,
        message=_advice(verdict, k_hat, missed, nonfinite, infinite),
        k_hat=k_hat,
        k_threshold=limit,
        ess=ess,
        elbo=float(finite.mean()),
        elbo_se=math.hypot(float(finite.std()) / math.sqrt(len(finite)), rounding),
        log_evidence=float(mean.log() + finite.max() + math.log(len(finite) / n)),
        log_evidence_se=math.hypot(float(weights.std() / mean) / math.sqrt(n), rounding),
        missed=missed,
        drift=drift,
        nonfinite=nonfinite,
        n=n,
    )


def check_count(n: int) -> None:
    """Refuse numbers of draws that are too small to judge from."""
    if n < MIN_DRAWS:
        raise ValueError(
            f"{n} draws are too few to judge from; type diagnose({MIN_DRAWS}) or, better, "
            "diagnose(4000)"
        )


def _advice(verdict: str, k_hat: float, missed: float, nonfinite: float, infinite: bool) -> str:
    """The verdict in words, and what to try next."""
    if infinite:
        return (
            "the model's log density is infinite at some draws: look for a scale that may be zero, "
            "or an improper prior without enough data"
        )
    if nonfinite > ALLOWED:
        return (
            f"{100 * nonfinite:.1f} % of the draws have no finite log density: the guide leaves "
            "the model's support, or the model's numerics fail there; look for NaN, use float64, "
            "and supports in place of checks"
        )
    if missed > MISSED:
        return (
            f"about {100 * missed:.0f} % of the posterior lies where the guide does not reach, in "
            "another mode perhaps; start elsewhere (another seed, init_loc_fn), use a flow of "
            "more layers, or compare the fits by their log evidence"
        )
    if verdict == "good":
        return "the draws stand for the posterior"
    if verdict == "usable":
        return (
            "the guide is close to the posterior but off in places, most often too narrow; use "
            "resample(n) for the draws, or train for more steps or with more layers"
        )
    return (
        "the guide misses the posterior, so its draws are not to be trusted; train for more "
        'steps, use a flow in place of a normal guide or more layers (flow="planar*16"), or '
        "write the model in other coordinates (non-centred)"
        if k_hat < math.inf
        else "a few draws outweigh all others: the guide is far from the posterior; train for more "
        'steps, and look at posterior.plot("loss")'
    )
