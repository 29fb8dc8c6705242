"""Draws of a guide that its importance weights have corrected, kept with the posterior."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from pyro_nf.model import Values
from pyro_nf.posterior.refinement import Refinement, shuffled

__all__ = ["PROPOSALS", "Corrected", "kept_draws", "proposals"]

PROPOSALS = 4  # draws of the guide for each that is kept by resampling, at most
SPARE = 1.25  # by which they are more than the weights ask for, of which the share is an estimate


@dataclass(frozen=True)
class Corrected:
    """Draws by importance resampling, where the weights are good but not nearly equal.

    Attributes:
        values: For each latent site of the guide n draws, of shape ``(n, *shape)``, in random
            order.
        k_hat: The tail index of the weights.
        ess: The effective share of the draws that were weighed.
    """

    values: Values
    k_hat: float
    ess: float

    def __len__(self) -> int:
        """The number of draws."""
        return len(next(iter(self.values.values())))

    def __str__(self) -> str:
        return f"corrected by weights, k-hat {self.k_hat:.2f}, ESS {100 * self.ess:.1f} %"

    def content(self) -> dict[str, Any]:
        """Itself as tensors and plain values."""
        content = {part.name: getattr(self, part.name) for part in fields(self)}
        return content | {"values": {name: value.cpu() for name, value in self.values.items()}}

    def some(self, n: int) -> Values:
        """n of the draws, in random order; more than there are come again."""
        chosen = shuffled(len(self), n)
        return {name: value[chosen.to(value.device)] for name, value in self.values.items()}

    def spaced(self, n: int) -> tuple[Values, int]:
        """The same, which are one chain of independent draws."""
        return self.some(min(n, len(self))), 1

    def inflation(self, n: int) -> float:
        """How many times larger the variance of a mean of n of them is than of independent draws:
        besides n, the effective number of proposals is finite."""
        return 1 + n / (PROPOSALS * self.ess * len(self))


def proposals(n: int, share: float) -> int:
    """How many draws of the guide are weighed, of which n are kept.

    The more unequal their weights, the more of them: the mean of those that are kept has then the
    variance of that of n independent ones, or up to a fifth more.
    """
    return math.ceil(n * min(PROPOSALS, SPARE / share**2))


def kept_draws(content: Mapping[str, Any] | None) -> Corrected | Refinement | None:
    """Those of some content, if there are any."""
    if content is not None and "k_hat" in content:
        return Corrected(**content)
    return Refinement.of(content)
