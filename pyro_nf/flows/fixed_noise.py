"""Standard normal draws that are the same at each call, for means and quantiles."""

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

__all__ = ["fixed_noise"]

DRAWS = 8192
FEW_DRAWS = 1024  # above LARGE dimensions, where a table of all draws would fill the memory
LARGE = 4096


def fixed_noise(dim: int) -> Tensor:
    """Fixed standard normal draws, quasi-random as far as Sobol's numbers go.

    Arguments:
        dim: The dimension D.

    Returns:
        With shape ``(*, D)``.
    """
    count = DRAWS if dim <= LARGE else FEW_DRAWS
    if dim > SobolEngine.MAXDIM:
        return torch.randn(count, dim, generator=torch.Generator().manual_seed(0))
    uniform = SobolEngine(dim, scramble=True, seed=0).draw(count, dtype=torch.float64)
    return torch.special.ndtri(uniform.clamp(1e-10, 1 - 1e-10))
