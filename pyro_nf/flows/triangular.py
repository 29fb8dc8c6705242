"""Products with a lower-triangular matrix and its inverse, for one matrix or a batch of them."""

import torch
from torch import Tensor

__all__ = ["solved", "times"]


def times(tril: Tensor, x: Tensor) -> Tensor:
    """L x, for L of shape ``(*, D, D)`` and x of shape ``(*, D)``."""
    return x @ tril.mT if tril.dim() == 2 else (tril @ x.unsqueeze(-1)).squeeze(-1)


def solved(tril: Tensor, x: Tensor, transposed: bool = False) -> Tensor:
    r"""The inverse of L, or of its transpose, times x."""
    matrix = tril.mT if transposed else tril
    if tril.dim() > 2:
        return torch.linalg.solve_triangular(matrix, x.unsqueeze(-1), upper=transposed).squeeze(-1)
    # One matrix for all rows: one call of BLAS, where broadcasting would make one a row.
    rows = torch.linalg.solve_triangular(
        matrix.mT, x.reshape(-1, x.size(-1)), upper=not transposed, left=False
    )
    return rows.reshape(x.shape)
