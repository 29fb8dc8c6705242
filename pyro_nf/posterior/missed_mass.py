"""A search for posterior mass that the draws of a guide have not met, such as a second mode."""

import math

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from pyro_nf.model import (
    Latents,
    Many,
    Pack,
    Packing,
    Result,
    Unpack,
    Values,
    doubled,
    in_double,
    until,
    work,
)
from pyro_nf.posterior.finding import Case, Finding
from pyro_nf.posterior.guide_density import log_density
from pyro_nf.posterior.joint import Joint, log_prob_sum
from pyro_nf.sampling import (
    LEFT,
    MAX_DIM,
    USABLE,
    Summits,
    find_summits,
    log_mean,
    scattered,
    smooth,
)

__all__ = ["missed_mass"]

STARTS = 512  # climbs, or as many as the model takes at once
FEWEST = 128  # of them, fewer find nothing
WORK = 4e6  # numbers that all of them together may compute at a step
PROBES = 500  # proposals from each summit
ALL = 4000  # of them, at most
SURE = 3.0  # standard errors by which mass must be missing
VISITED = 0.1  # visits of chains to a summit, for its mass, below which they have not found it
MISSED = 0.1  # share of the posterior's mass that may be missing, as long as it is only noise
BEHIND = 0.02  # the same where there is an angle, of which a part may lie behind the cut


def missed_mass(case: Case) -> Finding | None:
    """What a search finds of mass that the guide misses; None where there can be no search."""
    log_q = case.log_q if case.joint.exact else None  # draws of a bound are counted, too
    share = _share(case.joint, case.model, case.values, case.log_p, log_q)
    if share > MISSED and _dtype(case.joint) == torch.float32:
        again = in_double(lambda: _share_in_double(case))  # climbs find what rounding heaps up
        share = share if again is None else again
    if math.isnan(share):
        return None
    name, percent, angle = "missed mass", f"{100 * share:.0f} %", _of_angles(case.joint)
    if not share > (BEHIND if angle else MISSED):
        return Finding(name, share, "neutral", percent)
    who, misses = "the guide does", "the guide misses"
    if case.log_q is None:
        who, misses = "the chains do", "the chains miss"
    message = (
        f"about {percent} of the posterior lies where {who} not reach, in another mode "
        "perhaps; start elsewhere (another seed, init_loc_fn), use a flow of more layers, or "
        "compare the fits by their log evidence"
    )
    message += angle
    decided = f"a search found mass that {misses}"
    return Finding(name, share, "spoils", percent, decided, message)


def _of_angles(joint: Joint) -> str:
    """What to type where a second mode may be the other side of an angle's cut."""
    for name, latent in joint.latents.items():
        inner = latent.support
        while isinstance(inner, constraints.independent):
            inner = inner.base_constraint
        if isinstance(inner, constraints.interval) and bool(
            torch.as_tensor(inner.upper_bound - inner.lower_bound - 2 * math.pi).abs().max() < 1e-5
        ):
            return (
                f"; the angle {name!r} is cut at its bounds: where it lies on both sides of the "
                "cut, sample it from VonMises(0, ...) and add where it lies"
            )
    return ""


def _share_in_double(case: Case) -> float:
    """The same of model and guide in double precision, by which this is called."""
    values = doubled(case.values)
    log_p = case.model(len(case.log_p), values)[0]
    scored = case.log_q is not None and case.joint.exact
    log_q = log_density(case.joint, values) if scored else None
    return _share(case.joint, case.model, values, log_p, log_q)


def _share(joint: Joint, model: Many, values: Values, log_p: Tensor, log_q: Tensor | None) -> float:
    """The share of the posterior's mass that the draws do not stand for.

    Climbs on the posterior's density start from the prior and from far around the draws. Normal
    distributions at the summits that they reach propose points, and together with the draws
    these make one importance sample, of which the evidence is compared with that of the draws.
    Draws of chains, which have no density of their own, are counted at each summit.

    Arguments:
        joint: Model and guide.
        model: The density of the model at many draws.
        values: Draws of the guide, or of chains.
        log_p: Their log densities under the model.
        log_q: Their log densities under the guide; None for those of chains, and where these are
            bounds.

    Returns:
        The share, 0 if it is no more than noise; NaN if there can be no search: for discrete
        latent sites, in more than 50 dimensions, for a model that is not vectorized, or a guide
        that cannot score other values than its own draws.
    """
    if not (model.vectorized and joint.is_smooth) or joint.chunk < FEWEST or joint.point_sites:
        return math.nan
    try:
        packing = Packing.of(
            {name: latent.shape for name, latent in joint.latents.items()},
            {name: latent.support for name, latent in joint.latents.items()},
        )
        if log_q is not None:
            log_density(joint, {name: value[:1] for name, value in values.items()})
    except (NotImplementedError, ValueError):  # no coordinates, or no density elsewhere
        return math.nan
    if packing.dim > MAX_DIM:
        return math.nan
    latents = Latents(joint.model, packing, joint.args, joint.kwargs, joint.chunk)
    u, stretch = latents.pack(values)
    usable = u.isfinite().all(-1) & (log_p if log_q is None else log_p - log_q).isfinite()
    if int(usable.sum()) < 2:
        return math.nan
    u, stretch = u[usable].double(), stretch[usable]
    summits = _summits(joint, latents, u)
    if summits is None:
        return math.nan
    points = summits.propose(min(PROBES, ALL // len(summits.centres)))
    probes, log_det = latents.unpack(points.to(_dtype(joint)))
    found = model(len(points), probes)[0] + log_det
    if log_q is None:
        return _not_visited(summits, u, points, found - summits.log_density(points))
    log_p = torch.cat([log_p[usable] + stretch, found])
    log_q = torch.cat([log_q[usable] + stretch, log_density(joint, probes) + log_det])
    log_r = summits.log_density(torch.cat([u, points]))
    share = len(u) / len(log_p)
    log_mixture = torch.logaddexp(log_q + math.log(share), log_r + math.log(1 - share))
    old, old_error = log_mean((log_p - log_q)[: len(u)])
    new, new_error = log_mean(log_p - log_mixture)
    sure = new - old > SURE * math.hypot(old_error, new_error)
    return -math.expm1(old - new) if sure else 0.0


def _not_visited(summits: Summits, u: Tensor, points: Tensor, log_weights: Tensor) -> float:
    """The share of the mass at summits where next to none of some draws are.

    NaN where the proposals tell nothing of the posterior, as where it has a neck.

    Arguments:
        summits: The summits.
        u: The draws.
        points: What the summits propose.
        log_weights: Of these, as an importance sample of the posterior.
    """
    smoothed = smooth(torch.where(log_weights.isfinite(), log_weights, -torch.inf))
    if smoothed.k_hat > USABLE:
        return math.nan
    weights = smoothed.log_weights.exp()
    mass, visits = torch.zeros(2, len(summits.centres), dtype=torch.float64)
    mass.index_add_(0, summits.squares(points).argmin(0), weights.to(mass))
    visits.index_add_(0, summits.squares(u).argmin(0), torch.ones_like(u[:, 0]) / len(u))
    return float(mass[(visits < VISITED * mass) & (summits.left < LEFT)].sum())


def _summits(joint: Joint, latents: Latents, u: Tensor) -> Summits | None:
    """Where the climbs end, if they can be made and end anywhere."""

    def height(row: Values) -> Result:
        with Unpack(latents.packing, row["u"].to(_dtype(joint))) as unpack:
            trace = poutine.trace(joint.density).get_trace(*joint.args, **joint.kwargs)
        return log_prob_sum(trace) + unpack.log_det, {}

    heights = Many(height, joint.chunk, tolerant=True)
    if not heights.decide(2, {"u": u[:2]}):  # here the numerics hold
        return None

    def log_density(points: Tensor) -> Tensor:
        return heights(len(points), {"u": points})[0]

    cost = work(log_density, u[:2])
    starts = _starts(joint, latents, u, max(FEWEST, min(STARTS, joint.chunk, int(WORK / cost))))
    return find_summits(log_density, starts, u.mean(0), u.std(0), cost)


def _starts(joint: Joint, latents: Latents, u: Tensor, count: int) -> Tensor:
    """Half of them from far around the draws, half from the prior if it can be drawn from."""
    near = count // 2
    around = scattered(u.mean(0), u.std(0), near)
    anywhere = 2 * torch.randn_like(around)

    def prior(_: Values) -> Result:
        with Pack(latents.packing) as pack, until(latents.packing):
            joint.model(*joint.args, **joint.kwargs)
        return pack.log_det, {"u": pack.u}

    try:
        drawn = Many(prior, joint.chunk, random=True)(near)[1]["u"].double()
    except Exception:  # a prior that cannot be drawn from, or draws on which the model fails
        drawn = anywhere
    good = drawn.isfinite().all(-1, keepdim=True)
    return torch.cat([around, torch.where(good, drawn, anywhere)])


def _dtype(joint: Joint) -> torch.dtype:
    return next(iter(joint.latents.values())).dtype
