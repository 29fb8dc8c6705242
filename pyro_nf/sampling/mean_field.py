"""A normal approximation of independent numbers, for dimensions in which no other is affordable."""

import math
from collections import deque

import torch
from torch import Tensor

from pyro_nf.model import LogDensity, traced_scores

__all__ = ["mean_field"]

PAIRS = 128  # of draws a round, z and -z
ROUNDS = 200
LOOPED = 20  # of them, where each draw costs a run of the model
RATE = 0.2  # of the way to where their estimates point; larger steps lead to lower summits
TRUST = 4.0  # the most by which a round changes a variance, up or down
TAIL = 50  # rounds, the last, of which the means are the result: each alone is noisy


@torch.no_grad()
def mean_field(
    log_density: LogDensity, start: Tensor, scale: Tensor, looped: bool = False
) -> tuple[Tensor, Tensor]:
    r"""Natural-gradient steps of a normal distribution N(m, diag(s)^2).

    With z standard normal and g the gradient of the log density at m + s z, a round moves
    :math:`s^{-2}` towards :math:`-E[z g] / s` and m by :math:`s^2 E[g]`, a part of the way.

    Arguments:
        log_density: :math:`\log p(u)` for u of shape ``(n, D)``.
        start: The first m, with shape ``(D,)``.
        scale: The first s, with shape ``(D,)``.
        looped: Whether each point costs a run of its own: then fewer are looked at.

    Returns:
        Mean and standard deviations; those to start with where the density is no number.
    """
    mean, width, dim = start, scale, len(start)
    generator = torch.Generator(start.device).manual_seed(0)
    scores = traced_scores(log_density, mean.expand(2 * PAIRS, dim))
    last: deque[tuple[Tensor, Tensor]] = deque(maxlen=TAIL)
    for _ in range(LOOPED if looped else ROUNDS):
        half = torch.randn(PAIRS, dim, generator=generator, dtype=start.dtype, device=start.device)
        z = torch.cat([half, -half])
        value, slope = scores(mean + width * z)
        fine = value.isfinite() & slope.isfinite().all(-1)
        if not bool(fine.any()):
            width = width / 2  # draws too wild: look closer
            continue
        rest = torch.where(fine.unsqueeze(-1), slope * width + z, 0.0) / fine.float().mean()
        precision = (1 - RATE * (z * rest).mean(0)).clamp(1 / TRUST, TRUST)
        step = RATE * rest.mean(0) / precision
        step = step * (math.sqrt(dim) / step.norm().clamp_min(math.sqrt(dim)))
        mean, width = mean + width * step, width / precision.sqrt()
        last.append((mean, width.log()))
    if not last:
        return start, scale
    means, logs = (torch.stack(part) for part in zip(*last, strict=True))
    return means.mean(0), logs.mean(0).exp()
