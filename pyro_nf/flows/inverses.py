"""What flows are inverted by: triangular systems, and the root of v + c tanh(v) = t."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["root", "solved", "times"]

MAX_NEWTON = 100  # the iteration is monotone; ten suffice unless c is extreme


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


def root(t: Tensor, c: Tensor) -> Tensor:
    """The root v of v + c tanh(v) = t, for c > -1, differentiable in t and c."""
    return Root.apply(*torch.broadcast_tensors(t, c))


class Root(torch.autograd.Function):
    """The root of g(v) = v + c tanh(v) - t, its derivatives by the implicit function theorem.

    The map is odd, so take t >= 0. There g is concave for c > 0 and convex for c < 0, and
    between 0 <= tanh(v) <= min(v, 1) the root has a bound on the side from which Newton's
    iteration runs monotonically into it: no bracket and no damping is needed.
    """

    @staticmethod
    def forward(t: Tensor, c: Tensor) -> Tensor:
        size = t.abs()
        steep, shifted = size / (1 + c), size - c
        v = torch.where(c > 0, torch.maximum(steep, shifted), torch.minimum(steep, shifted))
        eps = torch.finfo(v.dtype).eps
        for _ in range(MAX_NEWTON):
            bend = torch.tanh(v)
            g = v + c * bend - size
            step = g / (1 + c * (1 - bend * bend))
            v = v - step
            # One step more squares a relative error of this size, times 1 / MARGIN at worst; and
            # once g is down to rounding no step can better v, however flat g may be there.
            close = step.abs() <= 0.01 * eps**0.5 * v
            if bool((close | (g.abs() <= 4 * eps * (v + size))).all()):
                break
        bend = torch.tanh(v)
        v = v - (v + c * bend - size) / (1 + c * (1 - bend * bend))
        return torch.copysign(v, t)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output, inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        v, c = ctx.saved_tensors
        bend = torch.tanh(v)
        along_t = grad / (1 + c * (1 - bend * bend))
        return along_t, -along_t * bend

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor) -> tuple[Tensor, int]:
        whole = [
            x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip(tensors, in_dims, strict=True)
        ]
        return Root.apply(*whole), 0
