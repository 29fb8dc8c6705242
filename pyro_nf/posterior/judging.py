"""The verdict on a posterior: by the weights of its guide's draws, or by chains from there on."""

import math
from collections.abc import Sequence
from dataclasses import replace

from pyro_nf.posterior.corrected import Corrected
from pyro_nf.posterior.diagnosis import Diagnosis, check_count, checked, diagnose, voted
from pyro_nf.posterior.draws import Draws, rounding
from pyro_nf.posterior.finding import Case, Finding, Verdict, unfinished
from pyro_nf.posterior.given_points import given_points
from pyro_nf.posterior.guide_density import check_width
from pyro_nf.posterior.refinement import Refinement

__all__ = ["judge", "judged"]

CLOSE = 1.05  # R-hat up to which draws that have not arrived are usable
SURE, APART = 5.0, 0.1  # standard errors, and nats, between log evidences that do not agree


def judge(
    draws: Draws,
    refined: Corrected | Refinement | None,
    moving: Sequence[str],
    n: int,
    search: bool,
) -> Diagnosis:
    """The verdict on a posterior.

    Arguments:
        draws: Draws of its guide.
        refined: Draws of chains that went on from them, if there are any, which the verdict is on
            then; or those that the weights have corrected.
        moving: The parameters of the model that were left before they were at rest.
        n: The number of draws to judge from.
        search: Whether to search elsewhere, which takes time.
    """
    check_count(n)
    joint = draws.joint
    values, log_p, log_q = draws.weighted(n)
    check_width(joint, values)
    weighed = diagnose(log_p - log_q, rounding(values, log_p), given_points(joint))
    if not (weighed.verdict == "good" or weighed.corrects) and (again := draws.in_double(values)):
        weighed = diagnose(again[1] - again[2], rounding(*again[:2]), given_points(joint))
    found = judged(weighed, refined, moving, rounding(values, log_p))
    case = Case(joint, draws.model, values, log_p, log_q, found.verdict)
    if isinstance(refined, Refinement) and search:
        values = refined.some(n)
        with joint.scope():
            log_p = draws.model(n, values)[0]
        case = replace(case, values=values, log_p=log_p, log_q=None)
    return checked(found, case, search)


def judged(
    weighed: Diagnosis,
    refined: Corrected | Refinement | None,
    moving: Sequence[str],
    rounded: float = 0.0,
) -> Diagnosis:
    """The same by what is known already: what weights of a guide's draws say, and its chains.

    Arguments:
        weighed: What weights say.
        refined: As for :func:`judge`.
        moving: As for :func:`judge`.
        rounded: The standard error of an evidence by rounding.
    """
    if isinstance(refined, Corrected):
        weighed = voted(weighed, [_by_resampling(refined)])
    elif refined is not None:
        weighed = _of_chains(weighed, refined, rounded)
    return voted(weighed, unfinished(moving))


def _by_resampling(corrected: Corrected) -> Finding:
    """That weights have corrected the draws, which they did where they could."""
    words = f"{len(corrected):,} draws, {corrected}"
    decided = f"an effective share of {corrected.ess:.3f}, of draws that weights have corrected"
    return Finding("corrected", corrected.ess, "lifts", words, decided)


def _of_chains(weighed: Diagnosis, refinement: Refinement, rounded: float) -> Diagnosis:
    """What chains say of their draws, in place of what weights say of the guide's."""
    worst = refinement.worst
    verdict: Verdict = "good" if refinement.arrived else "usable" if worst < CLOSE else "poor"
    if refinement.arrived:
        message = "the draws stand for the posterior"
        decided = f"nested R-hat {worst:.4f} below {refinement.mark:.4f} for all numbers"
    else:
        decided = f"nested R-hat {worst:.3f}, or draws whose means still move"
        message = (
            "chains that went on from the guide have not arrived: give them more transitions, "
            "refine(transitions=...), or train the guide for more steps, in whose coordinates they "
            "move"
        )
    by_chains = replace(
        weighed,
        verdict=verdict,
        message=message,
        decided=decided,
        log_evidence=refinement.log_evidence,
        log_evidence_se=math.hypot(refinement.log_evidence_se, rounded),
        findings=(),  # those on the guide's own draws
    )
    chains = Finding("chains", worst, "neutral", str(refinement))
    return voted(by_chains, [chains, _compared(weighed, refinement)])


def _compared(weighed: Diagnosis, refinement: Refinement) -> Finding:
    """The log evidence beside what the guide's weights say of it: the same if they can correct its
    draws, and above their mean, the evidence lower bound, whatever they are."""
    gap = refinement.log_evidence - weighed.log_evidence
    error = math.hypot(refinement.log_evidence_se, weighed.log_evidence_se)
    words = f"{gap:+.3f} ± {error:.3f} from that of the guide's draws"
    below = weighed.elbo - refinement.log_evidence
    sure = SURE * math.hypot(refinement.log_evidence_se, weighed.elbo_se)
    unlike = weighed.corrects and abs(gap) > max(SURE * error, APART)
    if not (unlike or below > max(sure, APART)):
        return Finding("evidence", gap, "neutral", words)
    message = (
        "the guide's draws come to another evidence on their way to the posterior than by their "
        "weights: one of them has lost a part of it; refine() anew, with another seed or a guide "
        "that was trained for more steps"
    )
    decided = f"estimates of the log evidence that are {max(abs(gap), below):.2f} apart"
    return Finding("evidence", gap, "caps", words, decided, message)
