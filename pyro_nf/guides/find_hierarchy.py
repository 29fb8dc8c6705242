"""Which latents of a model are normal given others, found by looking at its runs."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import (
    Distribution,
    ExpTransform,
    Independent,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
)

from pyro_nf.guides.hierarchy import GENERATIONS, Generation, Hierarchy, Ties
from pyro_nf.model import LogDensity, Many, Result, Target, Values, through
from pyro_nf.sampling import GOOD, Coordinates, find_coordinates, lower

__all__ = ["find_ties", "untied"]

CHECKS = 8  # random points at which a function must be what a few others have told


class _Bent(NamedTuple):
    """A function of steps from a point: some numbers at, and slope and bend of each, (k, D)."""

    at: Tensor
    slope: Tensor
    bend: Tensor


class _Family(NamedTuple):
    """A site that is normal in u: its columns, and its means and log scales at some points.

    The inverse of the correlations of its numbers, ``(k, k)``, is that at the first point.
    """

    columns: list[int]
    loc: Tensor
    log_scale: Tensor
    inverse: Tensor


def untied(target: Target, hierarchy: Hierarchy, found: Coordinates) -> Coordinates:
    """The better coordinates of two: those found, or those of a posterior without its ties.

    The better ones have the higher evidence lower bound, or a good effective share of their draws
    where the others have none: what a normal distribution leaves out of a funnel is so little of
    the mass that the bound hardly sees it.

    Arguments:
        target: The log density of the posterior.
        hierarchy: What is to be set where the second are better, by the evidence lower bound.
        found: The first.

    Returns:
        A normal approximation of u, or of that of which the hierarchy makes u.
    """
    ties = find_ties(target, found.shift)
    if not ties:
        return found
    hierarchy.set(ties)
    slope = torch.autograd.functional.jacobian(hierarchy.inv, found.shift)
    free = find_coordinates(
        through(hierarchy, target),
        hierarchy.inv(found.shift),
        lower(slope @ found.scale_tril),
        not target.vectorized,
    )
    # Rounds end once the share of draws is good, wherever their bound is then.
    if free is not None and (free.elbo > found.elbo or free.ess > GOOD > found.ess):
        return free
    hierarchy.set([])
    return found


def find_ties(target: Target, point: Tensor) -> list[Ties]:
    r"""The generations of a hierarchy: normal latents which no linear map makes independent.

    The logarithms of their scales must be linear in u, as that of a positive latent is, and their
    means linear in u and in the square of each coordinate. Then runs of the model on both sides of
    `point` in each direction tell the coefficients, and runs elsewhere whether they are all there
    is. Where the scale is constant and the mean is linear, there is nothing to win. The numbers of
    a multivariate normal site are taken one by one: their correlations remain.

    Arguments:
        target: The log density of the posterior.
        point: Where the posterior is, with shape ``(D,)``.

    Returns:
        The ties of each generation, from parents to children; none where there are no children,
        or the model is not vectorized.
    """
    dim = len(point)
    if not target.vectorized:
        return []
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(CHECKS, dim, generator=generator, dtype=torch.float64).to(point)
    eye = torch.eye(dim).to(point)
    steps = torch.cat([torch.zeros_like(noise[:1]), eye, -eye, noise])
    with torch.no_grad():
        families = list(_families(target, point + steps))
    generations = _generations(steps, point, families)
    return _completed(target, point, generations)


def _families(target: Target, u: Tensor) -> Iterator[_Family]:
    """The sites that are normal in u, and their parameters at the points u."""

    def parameters(values: Values) -> Result:
        trace, log_det = target.trace(values["u"])
        found = {}
        for name in target.packing:
            node = trace.nodes[name]
            normal = _normal(node["fn"])
            if normal is not None:
                parts = {"loc": normal.mean, "log_scale": normal.stddev.log()}
                for key, part in parts.items():
                    flat = part.expand(node["value"].shape).reshape(-1)
                    found[f"{key}/{name}"] = flat.to(log_det)
        return log_det, found

    _, values = target.many(Many(parameters, tolerant=True), u)
    with poutine.block():
        nodes = target.trace(u[0])[0].nodes
    for name, columns in target.packing.columns.items():
        normal = _normal(nodes[name]["fn"])
        if normal is not None and f"loc/{name}" in values:
            parts = values[f"loc/{name}"], values[f"log_scale/{name}"]
            yield _Family([*range(columns.start, columns.stop)], *parts, _inverse(normal, u))


def _normal(fn: Distribution) -> Normal | MultivariateNormal | None:
    """The normal distribution of a site in unconstrained space, if it has one."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    if isinstance(fn, TransformedDistribution) and [*map(type, fn.transforms)] == [ExpTransform]:
        fn = fn.base_dist  # of a log-normal one, whose logarithm is in u
    return fn if isinstance(fn, Normal | MultivariateNormal) else None


def _inverse(normal: Normal | MultivariateNormal, like: Tensor) -> Tensor:
    """The inverse of the correlations of all numbers of a site, ``(k, k)``."""
    if isinstance(normal, Normal):
        return torch.eye(normal.loc.numel()).to(like)
    scale = normal.stddev
    inverse = normal.precision_matrix * scale[..., None] * scale[..., None, :]
    return torch.block_diag(*inverse.reshape(-1, *inverse.shape[-2:])).to(like)


def _generations(
    steps: Tensor, point: Tensor, families: list[_Family]
) -> list[tuple[Ties, Tensor]]:
    """The ties of each, as far as the priors tell them, and inverse correlations of children."""
    depth = torch.zeros_like(point, dtype=torch.long)  # 0 for those without a tie
    members: list[list[tuple[Ties, Tensor]]] = [[] for _ in range(GENERATIONS)]
    for family in families:
        loc, log_scale = _bent(steps, family.loc), _bent(steps, family.log_scale)
        if loc is None or log_scale is None or bool(log_scale.bend.any()):
            continue
        if not bool(loc.bend.any() | log_scale.slope.any()):
            continue
        parents = ((loc.slope != 0) | (loc.bend != 0) | (log_scale.slope != 0)).any(0)
        generation = int(depth[parents].max())
        if generation == GENERATIONS or bool(parents[family.columns].any()):
            continue
        depth[family.columns] = generation + 1
        child = torch.tensor(family.columns, device=point.device)
        parent = parents.nonzero().squeeze(-1)
        ties = _prior(child, parent, loc, log_scale, point)
        members[generation].append((ties, family.inverse))
    return [_joined(some) for some in members if some]


def _joined(members: list[tuple[Ties, Tensor]]) -> tuple[Ties, Tensor]:
    """Those of several families as one, each with its own parents."""
    ties, inverses = zip(*members, strict=True)
    parts = zip(*ties, strict=True)
    joined = (torch.block_diag(*p) if p[0].dim() == 2 else torch.cat(p) for p in parts)
    return Ties(*joined), torch.block_diag(*inverses)


def _prior(child: Tensor, parent: Tensor, loc: _Bent, log_scale: _Bent, point: Tensor) -> Ties:
    """What priors alone tell of children; around zero what is given around the point:

    g (u - p) + C (u - p)^2 = (g - 2 C p) u + C u^2 - (g - 2 C p) p - C p^2
    """
    straight = loc.slope - 2 * loc.bend * point
    return Ties(
        child=child,
        parent=parent,
        loc=straight[:, parent],
        bend=loc.bend[:, parent],
        loc_bias=loc.at - straight @ point - loc.bend @ point.square(),
        log_scale=log_scale.slope[:, parent],
        log_scale_bias=log_scale.at - log_scale.slope @ point,
        middle=torch.zeros_like(loc.at),
        precision=torch.zeros_like(loc.at),
    )


def _bent(steps: Tensor, values: Tensor) -> _Bent | None:
    """What a function is near the first point; None if it is not so at the last ones."""
    dim = steps.shape[-1]
    small = math.sqrt(torch.finfo(values.dtype).eps)
    at = values[0]
    up, down = (values[1 : 2 * dim + 1] - at).split(dim)
    least = small * (1 + at.abs()).unsqueeze(-1)  # of a coefficient that is not rounding
    parts = (up - down).T / 2, (up + down).T / 2
    slope, bend = (torch.where(part.abs() > least, part, 0.0) for part in parts)
    others = steps[2 * dim + 1 :]
    expected = at + others @ slope.T + others.square() @ bend.T
    fits = torch.allclose(values[2 * dim + 1 :], expected, rtol=10 * small, atol=10 * small)
    return _Bent(at, slope, bend) if fits else None


def _completed(
    log_density: LogDensity, point: Tensor, generations: list[tuple[Ties, Tensor]]
) -> list[Ties]:
    """The same with what the rest of the model says of each child.

    The last generation comes first, and those before it see the model in its coordinates: what data
    say of a child reaches its parent weakened by the child's own scale.
    """
    found = []
    for ties, inverse in reversed(generations):
        known = _likelihood(log_density, point, ties, inverse)
        layer = Generation(len(point))
        layer.set(known)
        log_density, point = through(layer, log_density), layer.inv(point)
        found.append(known)
    return found[::-1]


def _likelihood(log_density: LogDensity, point: Tensor, ties: Ties, inverse: Tensor) -> Ties:
    """The same with the normal density that all but its prior is to a child, by its curvature."""

    def rest(u: Tensor) -> Tensor:
        loc, log_scale = ties.prior(u)
        away = (u[ties.child] - loc) * (-log_scale).exp()
        return log_density(u) + away @ inverse @ away / 2 + log_scale.sum()

    u = point.detach().requires_grad_()
    (slope,) = torch.autograd.grad(rest(u), u)
    bend = torch.autograd.functional.hessian(rest, point).diagonal()
    precision = -bend[ties.child]
    known = precision.isfinite() & (precision > torch.finfo(point.dtype).eps)
    middle = point[ties.child] + slope[ties.child] / precision
    return ties._replace(
        middle=torch.where(known, middle, 0.0), precision=torch.where(known, precision, 0.0)
    )
