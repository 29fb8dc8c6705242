"""Whitened coordinates: where and how wide a posterior lies, found before its flow is trained."""

import inspect
import math
from collections import deque
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_nf.model import LogDensity, Scores, scored, soon_traced
from pyro_nf.sampling.importance import effective_share

__all__ = ["GOOD", "LBFGS", "MARGIN", "Coordinates", "find_coordinates", "lower"]

MAX_DENSE = 500  # dimensions up to which a full covariance pays
LOOKS = 100  # points to look at for one of positive density
CLIMB = 200  # iterations of L-BFGS towards the mode
ROUNDS = 80  # iterations of the normal approximation
HALF = 128  # draws of one, besides D of them, and as many mirrored
PLAIN = 2  # evaluations of a density until a graph of it pays
LOOPED = 5000  # draws of all, where each costs a run of the model
LEAST = 5  # iterations all the same
BRIEF = 25  # of them, until it is asked whether one that starts elsewhere is far better
RATE = 0.5  # of the way to where their estimates point
FLOOR = 1e-2  # smallest curvature at a mode: no direction starts wider than 10
GOOD = 0.5  # effective share of the draws at which an approximation needs no more work
FAIR = 0.2  # the same at which none that starts elsewhere is looked for
MARGIN = 1.2  # by which others are made wider: a normal distribution leaves out heavier tails
IDLE = 0.02  # nats by which a round must improve the bound, or three rounds are the last
TRUST = 4.0  # the most by which a round changes a variance, up or down
SLACK = 1.0  # nats by which it may lead downhill, lest noise take it back
DROP = 5.0  # nats a dimension by which draws may be less probable than their mean at the start


class Coordinates(NamedTuple):
    """A normal approximation of a posterior, in whose standard coordinates a flow has less to do.

    Attributes:
        shift: Its mean, with shape ``(D,)``.
        scale_tril: The Cholesky factor of its covariance, with shape ``(D, D)``.
        elbo: The evidence lower bound that it reaches.
        ess: The effective share of its draws as an importance sample of the posterior.
    """

    shift: Tensor
    scale_tril: Tensor
    elbo: float
    ess: float


def find_coordinates(
    log_density: LogDensity, start: Tensor, scale: Tensor, looped: bool = False
) -> Coordinates | None:
    r"""The normal approximation with the best of the evidence lower bounds that two ways lead to.

    One starts at the mode, with the curvature there (Laplace), which finds scales that differ by
    orders of magnitude; the other, unless the first is fair, at `start`: it serves where the mode
    lies in a corner or at infinity, as in a funnel. From there natural-gradient steps fit the
    normal distribution. Those from the mode end early where the others lead far above, by a nat
    a dimension.

    Arguments:
        log_density: :math:`\log p(u)` for u of shape ``(n, D)``, and for one of shape ``(D,)``.
        start: Where to start, with shape ``(D,)``.
        scale: A triangular root of the covariance to start with, with shape ``(D, D)``, or its
            diagonal alone, ``(D,)``.
        looped: Whether each point costs a run of its own: then fewer are looked at.

    Returns:
        The approximation, made wider where it is not near; None if the dimension is too high for
        a full covariance or no finite bound was found.
    """
    if len(start) > MAX_DENSE:
        return None
    start = possible(log_density, start)
    most = max(LEAST, LOOPED // (2 * (HALF + len(start)))) if looped else ROUNDS
    found: list[Coordinates] = []
    rounds: Iterator[Coordinates] = iter(())
    scores = partial(scored, log_density) if looped else soon_traced(log_density, PLAIN)
    mode = climb(scores, start)
    if mode is not None:
        rounds = fit_normal(scores, mode, curvature(log_density, mode), most)
        found += deque(islice(rounds, BRIEF), 1)
    if not found or found[0].ess < FAIR:
        tril = scale.diag() if scale.dim() == 1 else scale
        found += deque(fit_normal(scores, start, tril, most), 1)
    if not found[0].elbo < found[-1].elbo - len(start):
        found += deque(rounds, 1)
    best = max(found, key=lambda coordinates: coordinates.elbo)
    if best.ess < GOOD:
        best = best._replace(scale_tril=MARGIN * best.scale_tril)
    return best if math.isfinite(best.elbo) else None


@torch.no_grad()
def possible(log_density: LogDensity, start: Tensor) -> Tensor:
    """A point of positive density: `start`, or one near it."""
    generator = torch.Generator(start.device).manual_seed(0)
    u = start
    for attempt in range(LOOKS):
        if bool(log_density(u).isfinite()):
            return u
        noise = torch.randn(len(start), generator=generator, dtype=start.dtype, device=start.device)
        u = start + 3 * (attempt + 1) / LOOKS * noise
    return start


class LBFGS(torch.optim.LBFGS):
    """The same without a veto on torch's compiler, whose import, for that veto, takes a second."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)


class _OffTheMapError(Exception):
    """A climb has come to where the density is not known."""


def climb(scores: Scores, start: Tensor) -> Tensor | None:
    """The mode near `start`, or None where the climb ends nowhere."""
    u = start.clone().requires_grad_()
    optimizer = LBFGS([u], max_iter=CLIMB, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        value, slope = scores(u.detach().unsqueeze(0))
        if bool(value.isnan()):
            raise _OffTheMapError  # there is no way back from NaN
        u.grad = -slope[0]
        return -value[0]

    try:
        optimizer.step(closure)
    except _OffTheMapError:
        return None
    return u.detach() if bool(u.isfinite().all()) else None


def curvature(log_density: LogDensity, mode: Tensor) -> Tensor:
    """The Cholesky factor of the inverse of the negative Hessian, its eigenvalues floored."""
    hessian = torch.autograd.functional.hessian(log_density, mode)
    if not bool(hessian.isfinite().all()):
        return torch.eye(len(mode), dtype=mode.dtype, device=mode.device)
    values, vectors = torch.linalg.eigh(-(hessian + hessian.mT) / 2)
    return _root(values.clamp_min(FLOOR), vectors)


def _root(values: Tensor, vectors: Tensor) -> Tensor:
    """The Cholesky factor of the inverse of V diag(values) V'."""
    return lower(vectors / values.sqrt())


def lower(root: Tensor) -> Tensor:
    """The Cholesky factor of root root', by QR: nothing is squared."""
    upper = torch.linalg.qr(root.mT)[1]
    return (upper * upper.diagonal().sign().unsqueeze(-1)).mT


def fit_normal(
    scores: Scores, shift: Tensor, tril: Tensor, most: int = ROUNDS
) -> Iterator[Coordinates]:
    r"""Natural-gradient steps of a normal approximation, and after each round the best so far.

    In standard coordinates z, where the approximation is N(0, I) and g is the gradient of the
    log density, a round moves the precision towards :math:`-E[z g^\top]` (Stein's lemma) and the
    mean by the precision's inverse times :math:`E[g]`. Both are estimated from z and -z with
    :math:`g + z` in place of g, which vanishes for a normal target: the estimate is then exact.

    A round that has led downhill is taken back, and its step made again at half the rate.

    References:
        Conjugate-Computation Variational Inference (Khan and Lin, 2017)
        https://arxiv.org/abs/1703.04265
    """
    dim = len(shift)
    best = Coordinates(shift, tril, -math.inf, 0.0)
    rate, idle, shrunk = RATE, 0, False
    generator = torch.Generator(shift.device).manual_seed(0)
    centre = float(_finite(scores, shift.unsqueeze(0))[0])
    here = shift, tril, torch.zeros_like(tril), torch.zeros_like(shift)
    for _ in range(most):
        half = torch.randn(
            HALF + dim, dim, generator=generator, dtype=shift.dtype, device=shift.device
        )
        z = torch.cat([half, -half])
        value, gradient = _finite(scores, shift + z @ tril.mT)
        if best.elbo == -math.inf and not float(value.mean()) > centre - DROP * dim:
            tril, shrunk = tril / 2, True  # draws too wild: look closer
            yield best
            continue
        entropy = tril.diagonal().log().sum() + dim * (1 + math.log(2 * math.pi)) / 2
        elbo = float(value.mean() + entropy)
        rest = gradient @ tril + z
        drift, mean = z.mT @ rest / len(z), rest.mean(0)
        if elbo > best.elbo - SLACK and bool(drift.isfinite().all()):
            here = shift, tril, drift, mean
            rate = min(RATE, 1.5 * rate)
            idle = 0 if elbo > best.elbo + IDLE else idle + 1
            if elbo > best.elbo:
                best = Coordinates(
                    shift, tril, elbo, effective_share(value + z.square().sum(-1) / 2)
                )
            # Where the scale has been shrunk, weights are alike for being near each other.
            if (best.ess > GOOD and not shrunk) or idle == 3:
                yield best
                return
        else:
            rate /= 2
        yield best
        shift, tril = _moved(*here, rate)


def _finite(scores: Scores, u: Tensor) -> tuple[Tensor, Tensor]:
    """Log densities and gradients at u; minus infinity if any are not finite."""
    value, gradient = scores(u)
    fine = bool(value.isfinite().all()) and bool(gradient.isfinite().all())
    return (value if fine else torch.full_like(value, -math.inf)), gradient


def _moved(
    shift: Tensor, tril: Tensor, drift: Tensor, mean: Tensor, rate: float
) -> tuple[Tensor, Tensor]:
    """A natural-gradient step of a normal distribution, of bounded length in its coordinates."""
    eye = torch.eye(len(shift), dtype=shift.dtype, device=shift.device)
    values, vectors = torch.linalg.eigh(eye - rate * (drift + drift.mT) / 2)
    values = values.clamp(1 / TRUST, TRUST)
    step = (vectors / values) @ (vectors.mT @ mean) * rate
    longest = math.sqrt(len(shift))
    step = step * (longest / step.norm().clamp_min(longest))
    return shift + tril @ step, tril @ _root(values, vectors)
