"""Whether a posterior is improper: whether its density falls far away from the draws."""

import math

import torch
from torch import Tensor

from pyro_nf.model import Latents, Packing, doubled, in_double
from pyro_nf.posterior.finding import Case, Finding

__all__ = ["improper"]

AXES = 250  # dimensions up to which each is looked along
RAYS = 64  # through draws, besides
RATIO = 1.25  # of the distances at which it is looked at: a mode far out should not be leapt over
FAR = tuple(64 * RATIO**k for k in range(44))  # to a million standard deviations of the draws
ROUNDING = 1e-9  # of a standard deviation of draws that are all the same
SLOW = 1.0  # a density that falls by no more than so many powers of the distance has no integral


def improper(case: Case) -> Finding | None:
    r"""Whether a density that does not fall is found; None where it falls, or cannot be looked at.

    Along rays from the middle of the draws, in unconstrained coordinates, a density which can be
    normalized falls faster than one over the distance t. What is named has, far out,

    .. math:: - \frac{d \log p}{d \log t} \le 1.
    """
    if not case.model.vectorized or not case.joint.is_smooth:
        return None
    sites = {name: latent.support for name, latent in case.joint.latents.items()}
    try:
        packing = Packing.of({n: case.joint.latents[n].shape for n in sites}, sites)
    except NotImplementedError:
        return None
    along = in_double(lambda: _slowest(case, packing))
    if not along:
        return None
    message = (
        f"the posterior is improper, or nearly so: its density does not fall along {along!r}, "
        f"however far away; give {along!r} a proper prior, or a narrower one"
    )
    return Finding(
        "improper",
        1.0,
        "spoils",
        f"along {along!r}",
        "a density that does not fall",
        message,
    )


def _slowest(case: Case, packing: Packing) -> str:
    """The site along which a density does not fall; empty if there is none."""
    joint = case.joint
    latents = Latents(joint.model, packing, joint.args, joint.kwargs, joint.chunk)
    u = latents.pack(doubled(case.values))[0]
    u = u[u.isfinite().all(-1)]
    middle, width = u.mean(0), u.std(0)
    wide = width > ROUNDING * (1 + middle.abs())  # others are points
    if not bool(wide.any()):
        return ""
    free = _rays(((u - middle) / width)[:, wide])
    rays = u.new_zeros(len(free), packing.dim)
    rays[:, wide] = free

    def heights(rays: Tensor, *distances: float) -> Tensor:
        far = torch.tensor(distances).to(rays).view(-1, 1, 1)
        values, log_det = latents.unpack((middle + width * far * rays).flatten(0, 1))
        found = case.model(len(distances) * len(rays), values)[0] + log_det
        return found.view(len(distances), -1)

    last = heights(rays, *FAR[-2:])
    rays = rays[~(last[0] - last[1] > SLOW * math.log(RATIO))]  # or it falls, whatever comes before
    if not len(rays):
        return ""
    tall = heights(rays, *FAR)
    # What is lower than the middle at all distances has no mass as far as it is looked.
    mass = tall + packing.dim * torch.tensor(FAR).to(tall).log().unsqueeze(-1)
    slow = (mass >= heights(rays[:1], 0.0)).any(0) & (_falls(tall) <= SLOW)
    if not bool(slow.any()):
        return ""
    column = int(rays[slow][0].abs().argmax())
    return next(n for n in packing if packing.columns[n].start <= column < packing.columns[n].stop)


def _falls(heights: Tensor) -> Tensor:
    """By how many powers of the distance densities fall, as far out as they are numbers.

    Infinite where they fall to zero, or are no numbers before that is known.
    """
    heights = heights.masked_fill(heights == math.inf, math.nan)  # an overflow
    falls = heights.new_full(heights.shape[1:], math.inf)
    for slope in (heights[:-1] - heights[1:]) / math.log(RATIO):
        falls = torch.where(slope.isnan(), falls, slope)
    return falls


def _rays(draws: Tensor) -> Tensor:
    """Directions of length one, along the axes and through the draws that are farthest out."""
    far = draws[draws.norm(dim=-1).argsort(descending=True)[:RAYS]]
    through = far / far.norm(dim=-1, keepdim=True)
    if draws.shape[-1] > AXES:
        return through
    eye = torch.eye(draws.shape[-1], dtype=draws.dtype, device=draws.device)
    return torch.cat([eye, -eye, through])
