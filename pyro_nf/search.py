"""A search for posterior mass that the draws of a guide have not met, such as a second mode."""

import math
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to
from torch.func import grad, grad_and_value, jacrev

from pyro_nf.joint import Joint
from pyro_nf.runs import Result, Runs, Values
from pyro_nf.scoring import log_density

__all__ = ["missed_mass"]

MAX_DIM = 50  # above, a normal distribution at a summit tells little of the mass around it
STARTS = 512  # climbs, or as many as the model takes at once
FEWEST = 128  # of them, fewer find nothing
WIDE = 8.0  # standard deviations of the draws within which half of the climbs start
CLIMB = 150  # steps of a climb
FIRST, LAST = 0.05, 0.05  # their length: of the starts' distance, then of a standard deviation
SAME = 1.0  # standard deviations between the ends of climbs to one summit
CANDIDATES = 32  # ends of climbs, the highest, that may be summits
SUMMITS = 8  # at most, the highest
APART = 3.0  # standard deviations between two summits
SPREAD = 1.3  # by which proposals are wider than the curvature at their summit
FLAT = 0.05  # smallest curvature of a summit, for draws of unit variance
PROBES = 500  # proposals from each summit
SURE = 3.0  # standard errors by which mass must be missing


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


def missed_mass(joint: Joint, model: Runs, values: Values, log_p: Tensor, log_q: Tensor) -> float:
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
    if not (model.vectorized and _is_smooth(joint)) or joint.chunk < FEWEST:
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
    centres, inverse = summits
    points = _propose(centres, inverse)
    probes, log_det = space.unpack(points)
    log_p = torch.cat([log_p[usable] + stretch, model(len(points), probes)[0] + log_det])
    log_q = torch.cat([log_q[usable] + stretch, log_density(joint, probes) + log_det])
    log_r = _log_mixture(torch.cat([u, points]), centres, inverse)
    share = len(u) / len(log_p)
    log_mixture = torch.logaddexp(log_q + math.log(share), log_r + math.log(1 - share))
    old, old_error = _evidence((log_p - log_q)[: len(u)])
    new, new_error = _evidence(log_p - log_mixture)
    sure = new - old > SURE * math.hypot(old_error, new_error)
    return -math.expm1(old - new) if sure else 0.0


def _is_smooth(joint: Joint) -> bool:
    """Whether the density of the model is a function of real numbers alone."""
    discrete = any(latent.support.is_discrete for latent in joint.latents.values())
    return not (discrete or joint.enumerated or joint.from_prior)


def _summits(joint: Joint, space: _Space, u: Tensor) -> tuple[Tensor, Tensor] | None:
    """Where the climbs end, and the inverse of a root of the covariance there; if anywhere."""

    def target(point: Tensor) -> Tensor:
        values, log_det = space.unpack(point)
        return joint.score(values)[0] + log_det

    def slope(row: Values) -> Result:
        gradient, value = grad_and_value(target)(row["u"])
        return value, {"gradient": gradient}

    def bend(row: Values) -> Result:
        return row["u"].sum(), {"hessian": jacrev(grad(target))(row["u"])}

    climb = Runs(slope, joint.chunk, tolerant=True)
    points = _climbed(climb, _starts(joint, space, u), u)
    height = climb(len(points), {"u": points})[0]
    order = height.argsort(descending=True)
    order = order[(height.isfinite() & points.isfinite().all(-1))[order]]
    if not (climb.vectorized and len(order)):
        return None
    points = points[_apart(points / u.std(0), order.tolist(), SAME, CANDIDATES)]
    curve = Runs(bend, max(1, joint.chunk // space.dim), tolerant=True)
    curvature = curve(len(points), {"u": points})[1]["hessian"]
    curvature = torch.where(curvature.isfinite(), -curvature, 0.0)
    values, vectors = torch.linalg.eigh((curvature + curvature.mT) / 2)
    values = values.clamp_min(FLAT / float(u.var(0).max()))
    inverse = values.sqrt().unsqueeze(-1) * vectors.mT
    chosen: list[int] = []
    for i in range(len(points)):  # from the highest down
        steps = [inverse[j] @ (points[i] - points[j]) for j in chosen]
        if len(chosen) < SUMMITS and all(float(step.norm()) > APART for step in steps):
            chosen.append(i)
    return points[chosen], inverse[chosen] / SPREAD


def _apart(points: Tensor, order: list[int], least: float, most: int) -> list[int]:
    """The first points in this order that are not near an earlier one."""
    chosen: list[int] = []
    for i in order:
        if len(chosen) < most and all(
            float((points[i] - points[j]).norm()) > least for j in chosen
        ):
            chosen.append(i)
    return chosen


def _starts(joint: Joint, space: _Space, u: Tensor) -> Tensor:
    """Half of them from far around the draws, half from the prior if it can be drawn from."""
    near = min(STARTS, joint.chunk) // 2
    wide = WIDE * torch.rand(near, 1, dtype=u.dtype, device=u.device)
    around = u.mean(0) + u.std(0) * wide * torch.randn_like(u[:1].expand(near, -1))
    anywhere = 2 * torch.randn_like(around)

    def prior(_: Values) -> Result:
        nodes: Any = poutine.trace(joint.model).get_trace(*joint.args, **joint.kwargs).nodes
        return u.new_zeros(()), {name: nodes[name]["value"] for name in joint.latents}

    try:
        drawn = space.pack(Runs(prior, joint.chunk, random=True)(near)[1])
    except Exception:  # a prior that cannot be drawn from, or draws on which the model fails
        drawn = anywhere
    good = drawn.isfinite().all(-1, keepdim=True)
    return torch.cat([around, torch.where(good, drawn, anywhere)])


def _climbed(climb: Runs, points: Tensor, u: Tensor) -> Tensor:
    """Steps of falling length along the gradients, each coordinate in units of its own size."""
    width = u.std(0)
    first = FIRST * (points - u.mean(0)).abs().mean(0).clamp_min(1.0 * width)
    mean, square = torch.zeros_like(points), torch.zeros_like(points)
    for index in range(CLIMB):
        gradient = climb(len(points), {"u": points})[1].get("gradient", mean) * width
        gradient = torch.where(gradient.isfinite(), gradient, 0.0)
        mean = 0.8 * mean + 0.2 * gradient
        square = 0.9 * square + 0.1 * gradient.square()
        fall = index / CLIMB
        step = first ** (1 - fall) * (LAST * width) ** fall
        scaled = mean / (1 - 0.8 ** (index + 1))
        size = (square / (1 - 0.9 ** (index + 1))).sqrt()
        points = points + step * scaled / (size + 1e-12)
    return points


def _propose(centres: Tensor, inverse: Tensor) -> Tensor:
    """Equally many points from a normal distribution at each summit, with shape ``(n, D)``."""
    noise = torch.randn(len(centres), PROBES, centres.shape[-1]).to(centres)
    spread = torch.linalg.solve(inverse, noise.mT).mT
    return (centres.unsqueeze(1) + spread).flatten(0, 1)


def _log_mixture(points: Tensor, centres: Tensor, inverse: Tensor) -> Tensor:
    """The log density of what :func:`_propose` draws from."""
    standard = torch.einsum("kij,nkj->nki", inverse, points.unsqueeze(1) - centres)
    log_det = torch.linalg.slogdet(inverse).logabsdet
    constant = points.shape[-1] * math.log(2 * math.pi) / 2 + math.log(len(centres))
    return (log_det - standard.square().sum(-1) / 2 - constant).logsumexp(-1)


def _evidence(log_weights: Tensor) -> tuple[float, float]:
    """The log of the mean weight, and its standard error."""
    usable = torch.where(log_weights.isfinite(), log_weights, -torch.inf)
    weights = torch.exp(usable - usable.max())
    error = float(weights.std() / weights.mean()) / math.sqrt(len(weights))
    return float(weights.mean().log() + usable.max()), error
