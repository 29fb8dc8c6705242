"""Is a posterior any good? What its importance weights say, and what the checks find besides."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyro_nf.posterior.chain_drift import chain_drift
from pyro_nf.posterior.finding import Case, Finding, Verdict
from pyro_nf.posterior.improper import improper
from pyro_nf.posterior.missed_mass import missed_mass
from pyro_nf.posterior.own_noise import own_noise
from pyro_nf.sampling import effective_share, log_mean, smooth, threshold

__all__ = ["CHECKS", "MIN_DRAWS", "Diagnosis", "check_count", "checked", "diagnose", "voted"]

MIN_DRAWS = 100  # for fewer the threshold of k-hat lies below 0.5, and k-hat itself is noise
# Effective share of weights that are nearly equal. A mean that is off by 0.1 of its standard
# deviation costs one per cent by itself, and so does a log standard deviation off by 0.07.
EVEN = 0.99
NEAR = 0.95  # the same for a guide of which weights cannot correct the draws to be usable
TAME = 0.5  # k-hat of weights of a finite variance is below
FEW = 0.5  # effective share of draws below which too few are left
ALLOWED = 0.01  # share of draws without a finite weight that does not spoil the rest

# Each looks at a case for one thing, and finds None where it cannot look.
CHECKS: tuple[Callable[[Case], Finding | None], ...] = (improper, missed_mass, chain_drift)


@dataclass(frozen=True)
class Diagnosis:
    """How well a guide's draws stand for the posterior.

    Attributes:
        verdict: ``"good"`` if the weights are nearly equal, have corrected the draws, or Markov
            chains leave these where they are; ``"usable"`` if the weights can correct them, as by
            :meth:`~pyro_nf.Posterior.resample`; else ``"poor"``.
        message: What that means, and what to try next.
        decided: The rule that has decided the verdict.
        k_hat: The tail index of the importance weights: they can correct the draws if it is below
            ``k_threshold``; minus infinity where all weights are the same.
        k_threshold: ``min(1 - 1 / log10(n), 0.7)``: n draws cannot tell more.
        ess: The effective share of the draws as an importance sample of the posterior, 0 to 1.
        elbo: The evidence lower bound; the mean log weight.
        elbo_se: Its standard error.
        log_evidence: The log of the mean weight, an estimate of the log evidence; of a refined
            posterior, that of the guide's draws on their way to the posterior.
        log_evidence_se: Its standard error; it means nothing where the verdict is poor.
        nonfinite: The share of draws whose weight is zero, infinite or not a number; the ELBO
            leaves them out.
        n: The number of draws.
        findings: What was found besides, each with its vote on the verdict.

    Example:
        >>> diagnosis = diagnose(0.05 * torch.randn(4000))  # log weights
        >>> diagnosis.verdict, round(diagnosis.ess, 2)
        ('good', 1.0)
        >>> diagnosis.decided
        'weights nearly equal, an effective share of 0.99..., and k-hat ... below 0.70'
    """

    verdict: Verdict
    message: str
    decided: str
    k_hat: float
    k_threshold: float
    ess: float
    elbo: float
    elbo_se: float
    log_evidence: float
    log_evidence_se: float
    nonfinite: float
    n: int
    findings: tuple[Finding, ...] = ()

    @property
    def missed(self) -> float:
        """The share of the posterior's mass which the guide does not reach, that a search away from
        the guide's draws has found; NaN where there was no search.
        """
        return self._found("missed mass")

    @property
    def drift(self) -> float:
        """By how much Markov chains that start from the draws change the mean, in standard
        deviations, or the log of the standard deviation of a coordinate, at most; NaN where there
        were none.
        """
        return self._found("drift")

    @property
    def in_short(self) -> str:
        """The verdict, and what has decided it if it is not good."""
        return self.verdict if self.verdict == "good" else f"{self.verdict}: {self.decided}"

    def content(self) -> dict[str, Any]:
        """Itself as plain values."""
        return asdict(self)

    @classmethod
    def of(cls, content: Mapping[str, Any] | None) -> "Diagnosis | None":
        """That of some content, if there is any."""
        if content is None:
            return None
        findings = tuple(Finding(**each) for each in content["findings"])
        return cls(**{**content, "findings": findings})

    def _found(self, name: str) -> float:
        return next((found.value for found in self.findings if found.name == name), math.nan)

    @property
    def corrects(self) -> bool:
        """Whether draws that the weights have corrected are the posterior's: these have a finite
        variance, and half of the draws count.
        """
        return self.verdict != "poor" and self.k_hat < TAME and self.ess > FEW

    @property
    def rows(self) -> dict[str, str]:
        """What was found, in words, by name."""
        rows = {
            "decided by": self.decided,
            "k-hat": f"{self.k_hat:.2f}  (weights can correct draws below {self.k_threshold:.2f})",
            "ESS": f"{100 * self.ess:.1f} % of {self.n:,} draws",
            "ELBO": f"{self.elbo:.3f} ± {self.elbo_se:.3f}",
            "log evidence": f"{self.log_evidence:.3f} ± {self.log_evidence_se:.3f}",
        }
        return rows | {found.name: found.words for found in self.findings}

    def __str__(self) -> str:
        lines = [f"{self.verdict}: {self.message}"]
        return "\n".join(lines + [f"  {name:<13} {value}" for name, value in self.rows.items()])

    __repr__ = __str__  # what a notebook shows


def diagnose(
    log_weights: Tensor, rounding: float = 0.0, found: Sequence[Finding] = ()
) -> Diagnosis:
    """What importance weights say of the guide that has made the draws.

    Arguments:
        log_weights: Log density of model and data less log density of the guide, for each draw.
        rounding: The standard error that a log density has by rounding.
        found: What is known besides.

    Example:
        >>> noise = torch.randn(1000, generator=torch.Generator().manual_seed(0))
        >>> diagnose(0.05 * noise).verdict, diagnose(0.5 * noise).verdict
        ('good', 'usable')
    """
    n = len(log_weights)
    check_count(n)
    log_weights = log_weights.detach().double().cpu()
    finite = log_weights[log_weights.isfinite()]
    nonfinite = 1 - len(finite) / n
    infinite = bool((log_weights == torch.inf).any())
    enough = len(finite) >= MIN_DRAWS  # or there is nothing to estimate the rest from
    k_hat = smooth(finite).k_hat if enough and not infinite else math.inf
    # A draw of weight zero counts among the n, not among the effective ones.
    ess = effective_share(finite) * len(finite) / n if enough else 0.0
    elbo, elbo_se, evidence, evidence_se = _estimates(finite, n) if enough else [math.nan] * 4
    limit = threshold(n)
    verdict, decided = _by_weights(k_hat, limit, ess)
    weighed = Diagnosis(
        verdict=verdict,
        message=_advice(verdict, k_hat),
        decided=decided,
        k_hat=k_hat,
        k_threshold=limit,
        ess=ess,
        elbo=elbo,
        elbo_se=math.hypot(elbo_se, rounding),
        log_evidence=evidence,
        log_evidence_se=math.hypot(evidence_se, rounding),
        nonfinite=nonfinite,
        n=n,
    )
    spoilt = [_not_finite(nonfinite, infinite)] if nonfinite else []
    return voted(weighed, [*spoilt, *found])


def checked(weighed: Diagnosis, case: Case, search: bool) -> Diagnosis:
    """What the weights say, or the chains, after the votes of all :data:`CHECKS`.

    Where the weights find great fault with a guide nothing is looked for but its cause; where the
    density is random they say nothing.

    Arguments:
        weighed: What they say.
        case: The guide and the draws.
        search: Whether to make the checks, which take time.
    """
    lost = weighed.verdict == "poor" and weighed.ess < FEW
    with case.joint.scope(), torch.no_grad():
        noise = own_noise(case)
        if noise is not None:
            return voted(weighed, [noise])
        if not search:
            return weighed
        found = [check(case) for check in ((improper,) if lost else CHECKS)]
    return voted(weighed, [finding for finding in found if finding is not None])


def voted(before: Diagnosis, found: Sequence[Finding]) -> Diagnosis:
    """A diagnosis after the votes of more findings; the first that spoils it has the word."""
    spoiling = [each for each in (*before.findings, *found) if each.vote == "spoils"]
    capping = [each for each in (*before.findings, *found) if each.vote == "caps"]
    lifting = [each for each in found if each.vote == "lifts"]
    after = replace(before, findings=(*found, *before.findings))
    if spoiling:
        message, decided = spoiling[0].message, spoiling[0].decided
        return replace(after, verdict="poor", message=message, decided=decided)
    if capping and before.verdict != "poor":
        message, decided = capping[0].message, capping[0].decided
        return replace(after, verdict="usable", message=message, decided=decided)
    if lifting and before.verdict == "usable":
        message = _advice("good", before.k_hat)
        return replace(after, verdict="good", message=message, decided=lifting[0].decided)
    return after


def check_count(n: int) -> None:
    """Refuse numbers of draws that are too small to judge from."""
    if n < MIN_DRAWS:
        raise ValueError(
            f"{n} draws are too few to judge from; type diagnose({MIN_DRAWS}) or, better, "
            "diagnose(4000)"
        )


def _estimates(finite: Tensor, n: int) -> tuple[float, float, float, float]:
    """The ELBO and the log evidence from n draws, each with its error, if all others weigh zero."""
    share = len(finite) / n
    evidence, error = log_mean(finite)
    elbo_se = float(finite.std()) / math.sqrt(len(finite))
    return float(finite.mean()), elbo_se, evidence + math.log(share), error * math.sqrt(share)


def _by_weights(k_hat: float, limit: float, ess: float) -> tuple[Verdict, str]:
    """The verdict of the weights alone, and the rule that has decided it."""
    share = f"an effective share of {ess:.3f}"
    if k_hat < limit and ess > EVEN:
        return "good", f"weights nearly equal, {share}, and k-hat {k_hat:.2f} below {limit:.2f}"
    if k_hat < limit:
        return "usable", f"weights unequal, {share}, but k-hat {k_hat:.2f} below {limit:.2f}"
    if ess > NEAR:
        return "usable", f"weights nearly equal, {share}, though k-hat {k_hat:.2f}"
    return "poor", f"k-hat {k_hat:.2f}, not below {limit:.2f}"


def _not_finite(share: float, infinite: bool) -> Finding:
    """What follows from draws whose weight is zero, infinite or not a number."""
    percent = f"{100 * share:.1f} % of the draws"
    name, words = "not finite", percent
    if infinite:
        message = (
            "the model's log density is infinite at some draws: look for a scale that may be zero, "
            "or an improper prior without enough data"
        )
        return Finding(name, share, "spoils", words, "weights that are infinite", message)
    if share <= ALLOWED:
        return Finding(name, share, "neutral", words)
    message = (
        f"{percent} have no finite log density: the guide leaves the model's support, or the "
        "model's numerics fail there; look for NaN, use float64, and supports in place of checks"
    )
    return Finding(name, share, "spoils", words, f"{percent} without a finite weight", message)


def _advice(verdict: Verdict, k_hat: float) -> str:
    """A verdict in words, and what to try next."""
    if verdict == "good":
        return "the draws stand for the posterior"
    if verdict == "usable":
        return (
            "the guide is off in places, most often too narrow; use resample(n), whose draws its "
            "weights have corrected, or refine(), from whose draws chains have gone on"
        )
    return (
        "the guide misses the posterior, so its draws are not to be trusted; use refine(), train "
        "for more steps, use a flow in place of a normal guide, or write the model in other "
        "coordinates (non-centred)"
        if k_hat < math.inf
        else "a few draws outweigh all others: the guide is far from the posterior; train for more "
        'steps, and look at posterior.plot("loss")'
    )
