"""A search for posterior mass that the draws of a guide have not met, such as a second mode."""

import math
from contextlib import suppress
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to
from torch.func import grad, grad_and_value, jacrev

from pyro_nf.model import NUMERICS, Many, Result, Values
from pyro_nf.posterior.finding import Case, Finding
from pyro_nf.posterior.guide_density import log_density
from pyro_nf.posterior.joint import Joint
from pyro_nf.sampling import MAX_DIM, Summits, find_summits, log_mean, scattered

__all__ = ["missed_mass"]

STARTS = 512  # climbs, or as many as the model takes at once
FEWEST = 128  # of them, fewer find nothing
PROBES = 500  # proposals from each summit
SURE = 3.0  # standard errors by which mass must be missing
MISSED = 0.1  # share of the posterior's mass that may be missing, as long as it is only noise


class _Space:
    """All latent sites as one unconstrained vector."""

    def __init__(self, joint: Joint) -> None:
        self.supports = {n: biject_to(latent.support) for n, latent in joint.latents.items()}
        self.shapes = {
            name: torch.Size(support.inverse_shape(joint.latents[name].shape))
            for name, support in self.supports.items()
        }
        self.sizes = [shape.numel() for shape in self.shapes.values()]
        self.dim = sum(self.sizes)
        self.dtype = next(iter(joint.latents.values())).dtype

    def pack(self, values: Values) -> Tensor:
        free = [s.inv(values[n]).reshape(len(values[n]), -1) for n, s in self.supports.items()]
        return torch.cat(free, -1).double()

    def unpack(self, u: Tensor) -> tuple[Values, Tensor]:
        """The values, and the log-determinant, for u of shape ``(*, D)``."""
        values: Values = {}
        total = u.new_zeros(u.shape[:-1])
        parts = u.to(self.dtype).split(self.sizes, -1)
        for (name, support), part in zip(self.supports.items(), parts, strict=True):
            free = part.reshape(u.shape[:-1] + self.shapes[name])
            values[name] = support(free)
            stretch = support.log_abs_det_jacobian(free, values[name])
            total = total + stretch.reshape(*u.shape[:-1], -1).sum(-1)
        return values, total


def missed_mass(case: Case) -> Finding | None:
    """What a search finds of mass that the guide misses; None where there can be no search."""
    share = _share(case.joint, case.model, case.values, case.log_p, case.log_q)
    if math.isnan(share):
        return None
    name, percent = "missed mass", f"{100 * share:.0f} %"
    if not share > MISSED:
        return Finding(name, share, "neutral", percent)
    message = (
        f"about {percent} of the posterior lies where the guide does not reach, in another mode "
        "perhaps; start elsewhere (another seed, init_loc_fn), use a flow of more layers, or "
        "compare the fits by their log evidence"
    )
    decided = "a search found mass that the guide misses"
    return Finding(name, share, "spoils", percent, decided, message)


def _share(joint: Joint, model: Many, values: Values, log_p: Tensor, log_q: Tensor) -> float:
    """The share of the posterior's mass that the draws of the guide do not stand for.

    Climbs on the posterior's density start from the prior and from far around the draws. Normal
    distributions at the summits that they reach propose points, and together with the draws
    these make one importance sample, of which the evidence is compared with that of the draws.

    Arguments:
        joint: Model and guide.
        model: The density of the model at many draws.
        values: Draws of the guide.
        log_p: Their log densities under the model.
        log_q: Their log densities under the guide.

    Returns:
        The share, 0 if it is no more than noise; NaN if there can be no search: for discrete
        latent sites, in more than 50 dimensions, for a model that is not vectorized, or a guide
        that cannot score other values than its own draws.
    """
    if not (model.vectorized and joint.is_smooth) or joint.chunk < FEWEST:
        return math.nan
    try:
        space = _Space(joint)
        log_density(joint, {name: value[:1] for name, value in values.items()})
    except (NotImplementedError, ValueError):  # no coordinates, or no density elsewhere
        return math.nan
    u = space.pack(values)
    usable = u.isfinite().all(-1) & (log_p - log_q).isfinite()
    if space.dim > MAX_DIM or int(usable.sum()) < 2:
        return math.nan
    u, stretch = u[usable], space.unpack(u[usable])[1]
    summits = _summits(joint, space, u)
    if summits is None:
        return math.nan
    points = summits.propose(PROBES)
    probes, log_det = space.unpack(points)
    log_p = torch.cat([log_p[usable] + stretch, model(len(points), probes)[0] + log_det])
    log_q = torch.cat([log_q[usable] + stretch, log_density(joint, probes) + log_det])
    log_r = summits.log_density(torch.cat([u, points]))
    share = len(u) / len(log_p)
    log_mixture = torch.logaddexp(log_q + math.log(share), log_r + math.log(1 - share))
    old, old_error = log_mean((log_p - log_q)[: len(u)])
    new, new_error = log_mean(log_p - log_mixture)
    sure = new - old > SURE * math.hypot(old_error, new_error)
    return -math.expm1(old - new) if sure else 0.0


def _summits(joint: Joint, space: _Space, u: Tensor) -> Summits | None:
    """Where the climbs end, if they can be made and end anywhere."""

    def target(point: Tensor) -> Tensor:
        values, log_det = space.unpack(point)
        return joint.score(values)[0] + log_det

    def slope(row: Values) -> Result:
        gradient, value = grad_and_value(target)(row["u"])
        return value, {"gradient": gradient}

    def bend(row: Values) -> Result:
        return row["u"].sum(), {"hessian": jacrev(grad(target))(row["u"])}

    climb = Many(slope, joint.chunk, tolerant=True)
    curve = Many(bend, max(1, joint.chunk // space.dim), tolerant=True)

    climb(2, {"u": u[:2]})  # here the numerics hold, and whether draws run together is found
    if not climb.vectorized:
        return None
    starts = _starts(joint, space, u)
    going = torch.ones(len(starts), dtype=torch.bool)

    def slopes(points: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal going
        value, gradient = points.new_full((len(points),), math.nan), torch.zeros_like(points)
        if bool(going.any()):
            with suppress(*NUMERICS):  # of all that were still going
                value[going], rest = climb(int(going.sum()), {"u": points[going]})
                gradient[going] = rest["gradient"]
        going = ~value.isnan()  # a climb whose numerics fail costs no more
        return value, gradient

    def bends(points: Tensor) -> Tensor:
        return curve(len(points), {"u": points})[1]["hessian"]

    return find_summits(slopes, bends, starts, u.mean(0), u.std(0))


def _starts(joint: Joint, space: _Space, u: Tensor) -> Tensor:
    """Half of them from far around the draws, half from the prior if it can be drawn from."""
    near = min(STARTS, joint.chunk) // 2
    around = scattered(u.mean(0), u.std(0), near)
    anywhere = 2 * torch.randn_like(around)

    def prior(_: Values) -> Result:
        nodes: Any = poutine.trace(joint.model).get_trace(*joint.args, **joint.kwargs).nodes
        return u.new_zeros(()), {name: nodes[name]["value"] for name in joint.latents}

    try:
        drawn = space.pack(Many(prior, joint.chunk, random=True)(near)[1])
    except Exception:  # a prior that cannot be drawn from, or draws on which the model fails
        drawn = anywhere
    good = drawn.isfinite().all(-1, keepdim=True)
    return torch.cat([around, torch.where(good, drawn, anywhere)])
