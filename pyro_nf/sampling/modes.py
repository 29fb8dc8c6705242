"""A look for several modes before a fit, since a flow trained on one does not find the others."""

import torch
from torch import Tensor

from pyro_nf.engines.graph import traced_scores, work
from pyro_nf.model.target import LogDensity
from pyro_nf.posterior.diagnosis import USABLE, resampled, smooth
from pyro_nf.sampling.summits import find_summits, scattered

__all__ = ["explore"]

CLIMBS = 2048  # a mode far away may draw one in two hundred
FEWEST = 32  # for models in which a climb is dear
WORK = 2e6  # numbers that all climbs together may compute at a step
PROBES = 1000  # proposals from each summit
LEAST = 0.01  # share of the mass that makes a mode
LEFT = 0.05  # nats that the end of a climb may be below its summit


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
