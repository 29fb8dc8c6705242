"""Several modes: the summits of a log density that many climbs find, and draws around them."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_nf.model import LogDensity, Scores, traced_scores, work
from pyro_nf.sampling.importance import USABLE, resampled, smooth
from pyro_nf.sampling.normal import lower

__all__ = [
    "LEFT",
    "MAX_DIM",
    "Summits",
    "all_modes",
    "explore",
    "find_summits",
    "root_of",
    "scattered",
]

MAX_DIM = 50  # above, a normal distribution at a summit tells little of the mass around it
WIDE = 8.0  # standard deviations within which climbs start
CLIMB = 150  # steps of a climb
TURN = 25  # steps after which those that have met go on as one
FIRST, LAST = 0.05, 0.05  # their length: of the starts' distance, then of a standard deviation
SAME = 1.0  # standard deviations between the ends of climbs to one summit
MET = 0.25  # the same between climbs to one summit, on the way
CANDIDATES = 32  # ends of climbs, the highest, that may be summits
MOST = 32  # summits, the highest
APART = 3.0  # standard deviations between two summits
SPREAD = 1.3  # by which proposals are wider than the curvature at their summit
ASIDE = 0.01  # standard deviations between which slopes tell of a curvature
TINY = 1e-9  # smallest curvature by which what is left of a climb is told
FLAT = 0.05  # smallest curvature of a summit, for draws of unit variance

CLIMBS = 2048  # a mode far away may draw one in two hundred
FEWEST = 32  # for models in which a climb is dear
WORK = 2e6  # numbers that all climbs together may compute at a step
LOAD = 1e6  # the same for as many as are quickest together
PROBES = 1000  # proposals from each summit
LEAST = 0.01  # share of the mass that makes a mode
LEFT = 0.05  # nats that the end of a climb may be below its summit


class Summits(NamedTuple):
    """A mixture of normal distributions, in equal shares, at the summits of a log density.

    Attributes:
        centres: With shape ``(k, D)``.
        inverse: The inverses of roots of their covariances, with shape ``(k, D, D)``.
        left: What a climb to the very summit would still win, by slope and curvature there; much
            on a ridge, which has no summit; with shape ``(k,)``.
    """

    centres: Tensor
    inverse: Tensor
    left: Tensor

    def propose(self, count: int) -> Tensor:
        """Draws, so many from each part, with shape ``(k * count, D)``."""
        noise = torch.randn(len(self.centres), count, self.centres.shape[-1]).to(self.centres)
        spread = torch.linalg.solve(self.inverse, noise.mT).mT
        return (self.centres.unsqueeze(1) + spread).flatten(0, 1)

    def squares(self, points: Tensor) -> Tensor:
        """Mahalanobis' squared distances from the summits, with shape ``(k, n)``."""
        steps = points.unsqueeze(0) - self.centres.unsqueeze(1)
        return torch.einsum("kij,knj->kni", self.inverse, steps).square().sum(-1)

    def log_density(self, points: Tensor) -> Tensor:
        """The mixture's log density, with shape ``(n,)``."""
        log_det = torch.linalg.slogdet(self.inverse).logabsdet.unsqueeze(-1)
        constant = points.shape[-1] * math.log(2 * math.pi) / 2 + math.log(len(self.centres))
        return (log_det - self.squares(points) / 2 - constant).logsumexp(0)


def scattered(middle: Tensor, width: Tensor, count: int) -> Tensor:
    """Points from near to far around a middle, with shape ``(count, D)``."""
    far = WIDE * torch.rand(count, 1, dtype=width.dtype, device=width.device)
    return middle + width * far * torch.randn_like(width.expand(count, -1))


def find_summits(
    log_density: LogDensity, starts: Tensor, middle: Tensor, width: Tensor, cost: float
) -> Summits | None:
    """Climb from many starts, and keep what is high and far from the rest.

    Arguments:
        log_density: That of points of shape ``(n, D)``.
        starts: Where the climbs start, with shape ``(n, D)``.
        middle: Where most of the density is thought to be, with shape ``(D,)``.
        width: How wide it is there, with shape ``(D,)``.
        cost: How many numbers the log density computes for a point.

    Returns:
        The summits, the highest first; None if no climb ends at a finite density.
    """
    parts = math.ceil(len(starts) / max(FEWEST, int(LOAD / cost)))
    few = math.ceil(len(starts) / parts)
    scores = _in_parts(log_density, starts[:few])
    points = _climbed(scores, starts, middle, width, few)
    height, gradient = scores(points)
    height = torch.where(height.isfinite() & points.isfinite().all(-1), height, -math.inf)
    ends = _distinct(points, height, width * SAME)[:CANDIDATES]
    if not len(ends):
        return None
    points, gradient = points[ends], gradient[ends]
    values, vectors = torch.linalg.eigh(_curvature(scores, points, width))
    along = (vectors.mT @ gradient.unsqueeze(-1)).squeeze(-1)
    left = (along.square() / values.clamp_min(TINY)).sum(-1) / 2
    values = values.clamp_min(FLAT / float(width.square().max()))
    inverse = values.sqrt().unsqueeze(-1) * vectors.mT
    chosen: list[int] = []
    for i in range(len(points)):  # from the highest down
        gaps = torch.einsum("kij,kj->ki", inverse[chosen], points[i] - points[chosen])
        if len(chosen) < MOST and bool((gaps.norm(dim=-1) > APART).all()):
            chosen.append(i)
    return Summits(points[chosen], inverse[chosen] / SPREAD, left[chosen])


def _in_parts(log_density: LogDensity, example: Tensor) -> Scores:
    """A log density and its gradients at any number of points, so many at a time as are given."""
    size = len(example)
    scores = traced_scores(log_density, example)

    def apart(points: Tensor) -> tuple[Tensor, Tensor]:
        padded = torch.cat([points, points[:1].expand(-len(points) % size, -1)])
        parts = [scores(part) for part in padded.split(size)]
        value, gradient = (torch.cat(part)[: len(points)] for part in zip(*parts, strict=True))
        return value, gradient

    return apart


def _distinct(points: Tensor, height: Tensor, gap: Tensor) -> Tensor:
    """Which points have no higher one within a gap; the highest first, and none at minus infinity.

    Arguments:
        points: With shape ``(n, D)``.
        height: How high they are, with shape ``(n,)``.
        gap: In units of each coordinate, with shape ``(D,)``.
    """
    order = height.argsort(descending=True)
    order = order[height[order] > -math.inf]
    places = points[order] / gap
    near = (torch.cdist(places, places) <= 1).cpu().numpy()
    free = np.ones(len(order), dtype=bool)
    found: list[int] = []
    for place in range(len(order)):
        if free[place]:
            found.append(place)
            free &= ~near[place]
    return order[found]


def _climbed(scores: Scores, points: Tensor, middle: Tensor, width: Tensor, few: int) -> Tensor:
    """Steps of falling length along the gradients, each coordinate in units of its own size.

    Of more than a few climbs those end on which the numerics fail, and of those that meet all but
    the highest.
    """
    first = FIRST * torch.maximum((points - middle).abs().mean(0), width)
    mean, square = torch.zeros_like(points), torch.zeros_like(points)
    for index in range(CLIMB):
        value, gradient = scores(points)
        if index % TURN == 0 and len(points) > few:
            kept = _distinct(points, value.nan_to_num(-math.inf), width * MET)
            if not len(kept):
                break
            points, mean, square, gradient = (x[kept] for x in (points, mean, square, gradient))
        gradient = torch.where(gradient.isfinite(), gradient * width, 0.0)
        mean = 0.8 * mean + 0.2 * gradient
        square = 0.9 * square + 0.1 * gradient.square()
        fall = index / CLIMB
        step = first ** (1 - fall) * (LAST * width) ** fall
        scaled = mean / (1 - 0.8 ** (index + 1))
        size = (square / (1 - 0.9 ** (index + 1))).sqrt()
        points = points + step * scaled / (size + 1e-12)
    return points


def _curvature(scores: Scores, points: Tensor, width: Tensor) -> Tensor:
    """The negative Hessians, with shape ``(k, D, D)``, by slopes on both sides of k points.

    Zero where they are no numbers.

    Arguments:
        scores: The log density and its gradients.
        points: Where, with shape ``(k, D)``.
        width: The size of all coordinates, with shape ``(D,)``.
    """
    steps = ASIDE * width.diag()
    sides = torch.stack([points.unsqueeze(1) + steps, points.unsqueeze(1) - steps])
    up, down = scores(sides.flatten(0, -2))[1].view_as(sides)
    bend = (down - up) / (2 * ASIDE * width.unsqueeze(-1))
    bend = torch.where(bend.isfinite(), bend, 0.0)
    return (bend + bend.mT) / 2


def all_modes(log_density: LogDensity, draws: Tensor, count: int) -> tuple[Tensor, int]:
    """Draws of all modes of a posterior that :func:`explore` finds, and how many modes there are.

    From one mode climbs start too near to find all; from all that they find, further out.

    Arguments:
        log_density: As for :func:`explore`.
        draws: Draws from around which the climbs start, with shape ``(n, D)``.
        count: How many draws to return, with shape ``(count, D)``; those that are given, of one.
    """
    modes = 1
    while (found := explore(log_density, draws.mean(0), root_of(draws), count)) is not None:
        if found[1] <= modes:
            break
        draws, modes = found
    return draws, modes


def root_of(draws: Tensor) -> Tensor:
    """The Cholesky factor of the covariance of draws, with shape ``(D, D)``."""
    return lower((draws - draws.mean(0)).mT / math.sqrt(len(draws) - 1))


def explore(
    log_density: LogDensity, middle: Tensor, tril: Tensor, count: int
) -> tuple[Tensor, int] | None:
    """Draws of a posterior of several modes, each of its share of the mass.

    Climbs start from all around. Normal distributions at the summits that they reach propose
    points, which importance weights make a sample of the posterior.

    Arguments:
        log_density: That of the posterior, of many points together and up to 50 dimensions.
        middle: Where it is thought to be, with shape ``(D,)``.
        tril: A root of its covariance there, with shape ``(D, D)``.
        count: How many draws to return.

    Returns:
        The draws, with shape ``(count, D)``, and the number of modes; None where there is one, or
        no telling.
    """

    def standard(z: Tensor) -> Tensor:
        return log_density(middle + z @ tril.mT)

    zero, one = torch.zeros_like(middle), torch.ones_like(middle)
    cost = work(log_density, scattered(zero, one, 2))
    starts = scattered(zero, one, max(FEWEST, min(CLIMBS, int(WORK / cost))))
    summits = find_summits(standard, starts, zero, one, cost)
    if summits is None or int((summits.left < LEFT).sum()) < 2:
        return None
    with torch.no_grad():
        points = summits.propose(PROBES)
        log_weights = standard(points) - summits.log_density(points)
        smoothed = smooth(torch.where(log_weights.isfinite(), log_weights, -torch.inf))
        nearest = summits.squares(points).argmin(0)
        shares = torch.zeros_like(summits.left)
        shares.index_add_(0, nearest, smoothed.log_weights.exp().to(shares))
        modes = int(((shares > LEAST) & (summits.left < LEFT)).sum())
        if modes < 2 or smoothed.k_hat > USABLE:
            return None
        return middle + points[resampled(log_weights, count)] @ tril.mT, modes
