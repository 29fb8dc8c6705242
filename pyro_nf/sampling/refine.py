"""Draws of a posterior by chains that go on where a flow ends, until they have arrived."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_nf.flows import Flow
from pyro_nf.model import LogDensity
from pyro_nf.sampling.bridge import Bridged
from pyro_nf.sampling.chains import OUTWARDS, Chains
from pyro_nf.sampling.importance import smooth
from pyro_nf.sampling.nested import between_halves, nested_r_hat

__all__ = ["CHOICE", "SUPERCHAINS", "Phase", "how_many", "phases", "starts"]

SUPERCHAINS = 32  # groups of chains, each from one draw of the guide
CHOICE = 64  # draws of the guide for each of them
FEWEST, MOST = 256, 1024  # chains
LOOPED = 64  # of them, where each costs a run of the model
LOAD = 4_000_000  # numbers that the log densities of all chains may compute on their way
SHORTEST = 16  # transitions of which draws are kept
ARRIVED = 1.01  # nested R-hat of chains that have forgotten where they started, at most
RENEWED = 4  # independent draws that each chain must be worth
DRIFT = 0.05  # by how much means may move between halves, beyond noise


@dataclass(frozen=True)
class Phase:
    """Where chains are that have gone twice as far as in the phase before.

    Attributes:
        u: The draws that were kept, with shape ``(draws, superchains, chains, D)``.
        r_hat: Nested R-hat of each coordinate, or of the square of its distance from the mean if
            that is larger, with shape ``(D,)``.
        r_hat_log_p: Nested R-hat of the log density.
        drift: By how many of its standard deviations a coordinate, or by how many variances that
            square, moves between the halves of the draws, beyond noise, with shape ``(D,)``.
        transitions: How many transitions each chain has made.
    """

    u: Tensor
    r_hat: Tensor
    r_hat_log_p: float
    drift: Tensor
    transitions: int

    @property
    def renewed(self) -> float:
        """Nested R-hat of chains of which each is worth four independent draws.

        However many there are: many that hardly move would hide it in their number.
        """
        return math.sqrt(1 + 1 / (RENEWED * self.u.shape[2]))

    @property
    def is_slow(self) -> bool:
        """Whether the chains hardly move in a coordinate."""
        return not float(self.r_hat.max()) < self.renewed

    @property
    def mark(self) -> float:
        """Nested R-hat of chains that have arrived is below."""
        return min(ARRIVED, self.renewed)

    @property
    def away(self) -> Tensor:
        """Which coordinates have not arrived, with shape ``(D,)``."""
        return ~((self.r_hat < self.mark) & (self.drift < DRIFT))

    @property
    def has_arrived(self) -> bool:
        """Whether the draws are those of the posterior, as far as the chains can tell."""
        return self.r_hat_log_p < self.mark and not bool(self.away.any())


def how_many(work: float, most: int) -> int:
    """The number of chains: the more, the less a log density costs.

    Arguments:
        work: The numbers that the log density and its gradient compute for one point; infinite
            where each point is a run of the model.
        most: As many as there is memory for.
    """
    fit = LOOPED if work == math.inf else max(FEWEST, min(MOST, int(LOAD / max(work, 1.0))))
    each = min(fit, most) / SUPERCHAINS
    return SUPERCHAINS * max(2, 2 ** int(math.log2(max(each, 1.0))))


def starts(z: Tensor, log_weights: Tensor, way: Bridged) -> Tensor:
    """Where superchains start.

    One half are particles at the end of the way from the guide to the posterior, chosen one after
    the other in proportion to their smoothed weights. The other are draws of the guide, moved
    outwards by up to as far as the farthest of thousands would lie: R-hat tells only of what starts
    surround.

    Arguments:
        z: Draws of the guide, standard normal in its coordinates, with shape ``(n, D)``.
        log_weights: As an importance sample of the posterior, with shape ``(n,)``.
        way: The way to the posterior.

    Returns:
        With shape ``(superchains, D)``.
    """
    possible = log_weights.isfinite()
    if int(possible.sum()) < SUPERCHAINS:
        raise ValueError(
            f"{int(possible.sum())} of {len(z)} draws of the guide have a finite density, too few "
            "for chains to start from; see diagnose()"
        )
    half = SUPERCHAINS // 2
    smoothed = smooth(way.log_weights.flatten()).log_weights.to(z)
    gumbel = -torch.rand_like(smoothed).log().neg().log()  # the largest sums are such a choice
    near = way.z.flatten(0, 1)[(smoothed + gumbel).argsort(descending=True)[:half]]
    others = z[possible]
    far = others[torch.randperm(len(others), device=z.device)[:half]]
    outwards = 1 + OUTWARDS / math.sqrt(z.shape[-1]) * torch.rand_like(far[:, :1])
    return torch.cat([near, outwards * far])


def phases(log_density: LogDensity, flow: Flow, z: Tensor, draws: int) -> Iterator[Phase]:
    r"""Chains in the coordinates of a flow, in phases of which each makes as many transitions as
    all before it.

    What is kept of a phase is the whole of it, so that half of all transitions are left out.

    Arguments:
        log_density: :math:`\log p(u)` for u of shape ``(n, D)``.
        flow: The flow from z to u.
        z: Where the superchains start, repeated for each chain, with shape ``(K, M, D)``.
        draws: How many draws each chain should keep, at least.
    """
    chains = Chains(log_density, flow, z.flatten(0, 1), necks=True, jumps=True)
    length = least = max(SHORTEST, draws)
    for _ in range(length):
        chains.go()
    while True:
        places, values = [], []
        for index in range(length):
            chains.go()
            if (index + 1) % (length // least) == 0:
                places.append(chains.z)
                values.append(chains.value)
        with torch.no_grad():
            u = torch.stack([flow.forward_and_log_det(part)[0] for part in places])
        log_p = torch.stack(values).unsqueeze(-1)
        length *= 2
        yield _phase(u, log_p, z.shape[:2], length)


def _phase(u: Tensor, log_p: Tensor, groups: torch.Size, transitions: int) -> Phase:
    """What is kept, and whether it has arrived."""
    u, log_p = u.unflatten(1, groups), log_p.unflatten(1, groups)
    place = (u - u.mean((0, 1, 2))) / u.std((0, 1, 2))
    each = place, place.square()
    return Phase(
        u,
        torch.stack([*map(nested_r_hat, each)]).amax(0),
        float(nested_r_hat(log_p)),
        torch.stack([*map(between_halves, each)]).amax(0),
        transitions,
    )
