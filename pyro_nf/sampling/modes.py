"""Several modes: the summits of a log density that many climbs find, and draws around them."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_nf.model import LogDensity, traced_scores, work
from pyro_nf.sampling.importance import USABLE, resampled, smooth

__all__ = ["LEFT", "MAX_DIM", "Summits", "explore", "find_summits", "scattered"]

MAX_DIM = 50  # above, a normal distribution at a summit tells little of the mass around it
WIDE = 8.0  # standard deviations within which climbs start
CLIMB = 150  # steps of a climb
FIRST, LAST = 0.05, 0.05  # their length: of the starts' distance, then of a standard deviation
SAME = 1.0  # standard deviations between the ends of climbs to one summit
CANDIDATES = 32  # ends of climbs, the highest, that may be summits
MOST = 8  # summits, the highest
APART = 3.0  # standard deviations between two summits
SPREAD = 1.3  # by which proposals are wider than the curvature at their summit
TINY = 1e-9  # smallest curvature by which what is left of a climb is told
FLAT = 0.05  # smallest curvature of a summit, for draws of unit variance

CLIMBS = 2048  # a mode far away may draw one in two hundred
FEWEST = 32  # for models in which a climb is dear
WORK = 2e6  # numbers that all climbs together may compute at a step
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
    slope: Callable[[Tensor], tuple[Tensor, Tensor]],
    bend: Callable[[Tensor], Tensor],
    starts: Tensor,
    middle: Tensor,
    width: Tensor,
) -> Summits | None:
    """Climb from many starts, and keep what is high and far from the rest.

    Arguments:
        slope: The log density of points of shape ``(n, D)``, and its gradient.
        bend: Its matrix of second derivatives, with shape ``(n, D, D)``.
        starts: Where the climbs start, with shape ``(n, D)``.
        middle: Where most of the density is thought to be, with shape ``(D,)``.
        width: How wide it is there, with shape ``(D,)``.

    Returns:
        The summits, the highest first; None if no climb ends at a finite density.
    """
    points = _climbed(slope, starts, middle, width)
    height, gradient = slope(points)
    order = height.argsort(descending=True)
    order = order[(height.isfinite() & points.isfinite().all(-1))[order]]
    if not len(order):
        return None
    ends: list[int] = []
    for i in order.tolist():
        steps = (points[ends] - points[i]) / width
        if len(ends) < CANDIDATES and bool((steps.norm(dim=-1) > SAME).all()):
            ends.append(i)
    points, gradient = points[ends], gradient[ends]
    curvature = bend(points)
    curvature = torch.where(curvature.isfinite(), -curvature, 0.0)
    values, vectors = torch.linalg.eigh((curvature + curvature.mT) / 2)
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


def _climbed(
    slope: Callable[[Tensor], tuple[Tensor, Tensor]], points: Tensor, middle: Tensor, width: Tensor
) -> Tensor:
    """Steps of falling length along the gradients, each coordinate in units of its own size."""
    first = FIRST * torch.maximum((points - middle).abs().mean(0), width)
    mean, square = torch.zeros_like(points), torch.zeros_like(points)
    for index in range(CLIMB):
        gradient = slope(points)[1] * width
        gradient = torch.where(gradient.isfinite(), gradient, 0.0)
        mean = 0.8 * mean + 0.2 * gradient
        square = 0.9 * square + 0.1 * gradient.square()
        fall = index / CLIMB
        step = first ** (1 - fall) * (LAST * width) ** fall
        scaled = mean / (1 - 0.8 ** (index + 1))
        size = (square / (1 - 0.9 ** (index + 1))).sqrt()
        points = points + step * scaled / (size + 1e-12)
    return points


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

    def bend(z: Tensor) -> Tensor:
        z = z.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(standard(z).sum(), z, create_graph=True)
        rows = [torch.autograd.grad(part.sum(), z, retain_graph=True)[0] for part in gradient.T]
        return torch.stack(rows, -2)

    zero, one = torch.zeros_like(middle), torch.ones_like(middle)
    affordable = int(WORK / work(log_density, scattered(zero, one, FEWEST)))
    starts = scattered(zero, one, max(FEWEST, min(CLIMBS, affordable)))
    summits = find_summits(traced_scores(standard, starts), bend, starts, zero, one)
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
