"""A log density over vectors: its gradients, its cost, itself in a flow's coordinates."""

import math
from collections import Counter
from collections.abc import Callable

import pyro
import torch
from torch import Tensor

from pyro_nf.engines import NothingLeavesTheGraph, record, traced
from pyro_nf.flows import Flow
from pyro_nf.model.failures import NUMERICS

__all__ = [
    "LogDensity",
    "Scores",
    "differentiable_scores",
    "has_slopes",
    "scored",
    "soon_traced",
    "through",
    "traced_scores",
    "work",
]

APART = 1e-2  # of one plus a number's size, at which values are compared with gradients

LogDensity = Callable[[Tensor], Tensor]
Scores = Callable[[Tensor], tuple[Tensor, Tensor]]  # a log density and its gradients


@torch.enable_grad()
def scored(log_density: LogDensity, u: Tensor) -> tuple[Tensor, Tensor]:
    """A log density at the rows of u, and its gradients there; NaN where these fail."""
    u = u.detach().requires_grad_()
    value = log_density(u)
    try:
        (gradient,) = torch.autograd.grad(value.sum(), u)
    except NUMERICS:  # of the model, on the way back
        if len(u) == 1:
            return value.detach(), torch.full_like(u, torch.nan)
        parts = [scored(log_density, part) for part in u.detach().chunk(2)]
        values, gradients = zip(*parts, strict=True)
        return torch.cat(values), torch.cat(gradients)
    return value.detach(), gradient


def differentiable_scores(log_density: LogDensity, u: Tensor) -> tuple[Tensor, Tensor]:
    """A log density at the rows of u, and its gradients there, both to be differentiated again.

    It can run among many draws, and of one row alone is asked of a vector, as if it were alone.
    """

    def together(u: Tensor) -> tuple[Tensor, Tensor]:
        value = log_density(u[0]).unsqueeze(0) if len(u) == 1 else log_density(u)
        return value.sum(), value

    gradient, value = torch.func.grad(together, has_aux=True)(u)
    return value, gradient


def has_slopes(log_density: LogDensity, u: Tensor) -> bool:
    """Whether a log density has gradients that are those of its values, at one of some points.

    Values a little apart, on a line, are compared with what the gradients say.

    Arguments:
        log_density: From points of shape ``(n, D)`` or ``(D,)`` to numbers.
        u: The points, with shape ``(n, D)``.
    """
    way = APART * (1 + u.abs())
    try:
        gradient = differentiable_scores(log_density, u)[1]
        with torch.no_grad():
            gain = log_density(u + way) - log_density(u - way)
    except NUMERICS:  # of the model, or it uses what has no derivatives
        return False
    told = 2 * (way * gradient).sum(-1)
    return bool(((gain != 0) & ((told - gain).abs() < gain.abs() / 2)).any())


def through(flow: Flow, log_density: LogDensity) -> LogDensity:
    """The log density of x, of which a flow makes u."""

    def pulled_back(x: Tensor) -> Tensor:
        u, log_det = flow.forward_and_log_det(x)
        return log_density(u) + log_det

    return pulled_back


def traced_scores(log_density: LogDensity, example: Tensor) -> Scores:
    """A log density at the rows of a tensor and its gradients, by the quick engine if it can be.

    Arguments:
        log_density: From points of shape ``(n, D)`` to numbers of shape ``(n,)``.
        example: Points; all others come in the same number.
    """

    def together(u: Tensor) -> Tensor:
        value, gradient = scored(log_density, u)
        return torch.cat([value.unsqueeze(-1), gradient], -1)

    run = traced(together, example)

    def apart(u: Tensor) -> tuple[Tensor, Tensor]:
        both = run(u)
        return both[:, 0], both[:, 1:]

    return apart


def soon_traced(log_density: LogDensity, plain: int) -> Scores:
    """Like :func:`traced_scores`, for a log density that may be asked for a few times only.

    Arguments:
        log_density: From points of shape ``(n, D)`` to numbers of shape ``(n,)``.
        plain: How often points of one number are run as they are, until a graph pays.
    """
    asked: Counter[int] = Counter()
    graphs: dict[int, Scores] = {}

    def scores(u: Tensor) -> tuple[Tensor, Tensor]:
        count = len(u)
        asked[count] += 1
        if asked[count] == plain + 1:
            graphs[count] = traced_scores(log_density, u)
        return graphs[count](u) if count in graphs else scored(log_density, u)

    return scores


def work(log_density: LogDensity, points: Tensor) -> float:
    """How many numbers a log density and its gradient compute for a point, on the way.

    Infinite where they cannot be recorded.

    Arguments:
        log_density: From points of shape ``(n, D)`` to numbers of shape ``(n,)``.
        points: Some points, with shape ``(n, D)``.
    """
    try:
        with pyro.validation_enabled(False), NothingLeavesTheGraph():
            calls = record(lambda u: scored(log_density, u)[1], [points]).calls
    except Exception:  # a user's code, of which recording may ask too much
        return math.inf
    numbers = sum(node.shape.numel() for node in calls if node.varies)
    return numbers / len(points)
