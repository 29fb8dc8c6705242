"""Differential equations, in steps that are bijections themselves."""

import torch
from torch import Tensor

from pyro_nf.checks import whole
from pyro_nf.flows.flow import Flow
from pyro_nf.flows.formula import register
from pyro_nf.flows.nets import MLP

__all__ = ["ODE"]

MOST = 64  # dimensions up to which a determinant for each draw and step costs little
STEEPEST = 0.9  # bound on the slope of a step, less the identity
SQUARINGS = 3  # of a matrix, whose largest singular value is bounded by its Schatten norm 16
TURNS = 1000  # of the iteration that inverts a step, at most; most take some ten


@register("ode")
class ODE(Flow):
    r"""The solution of a differential equation :math:`\dot z = v(z, t)` from 0 to 1, in T steps.

    .. math:: z_{k+1} = z_k + h\, v(z_k, k h), \qquad h = 1 / T, \qquad
        \log \det = \sum_k \log \det (I + h A_k), \quad A_k = \partial v / \partial z\, (z_k, k h)

    The flow is these steps, and not what they come near to: the determinants are theirs, so that no
    error of discretisation is in the density, however few they are. Each is a bijection since
    :math:`h v` has slopes below 0.9: of a network w, whose slopes are below the product B of the
    norms of its matrices,

    .. math:: v = \frac{w}{1 + B / (0.9\, T)}, \qquad
        B = \prod_i \Bigl(\sum_j \sigma_j(W_i)^{16}\Bigr)^{1 / 16}

    Up to 64 dimensions: with more, only estimates of a determinant cost less, and a density with
    their noise has neither weights nor a k-hat.

    References:
        Neural Ordinary Differential Equations (Chen, Rubanova, Bettencourt and Duvenaud, 2018)
        https://arxiv.org/abs/1806.07366

        Invertible Residual Networks (Behrmann, Grathwohl, Chen, Duvenaud and Jacobsen, 2019)
        https://arxiv.org/abs/1811.00995

    Arguments:
        dim: The dimension :math:`D`, up to 64.
        context_dim: The size of a context on which the velocity depends.
        steps: The number T of steps.
        hidden: The sizes of the hidden layers of the network w.

    Example:
        >>> flow = ODE(3, steps=4)
        >>> x = torch.randn(5, 3)
        >>> y, log_det = flow.forward_and_log_det(x)
        >>> torch.allclose(flow.inverse_and_log_det(y)[0], x, atol=1e-5)
        True
    """

    def __init__(
        self, dim: int, context_dim: int = 0, steps: int = 8, hidden: tuple[int, ...] = (32, 32)
    ) -> None:
        super().__init__(dim, context_dim)
        if dim > MOST:
            raise ValueError(
                f"ode has a determinant of D^3 operations for each draw and step, up to {MOST} "
                f'dimensions, and here are {dim}; type "affine_coupling*6"'
            )
        self.steps = whole("steps", steps)
        self.net = MLP(dim + 1, dim, hidden, context_dim)  # the last input is the time

    def forward_and_log_det(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        pace, total = self._pace(), x.new_zeros(())
        for k in range(self.steps):
            way, slope = self._way(x, context, k, pace)
            x, total = x + way, total + self._log_det(slope)
        return x, total

    def inverse_and_log_det(
        self, y: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        pace, total = self._pace(), y.new_zeros(())
        for k in reversed(range(self.steps)):
            root = self._before(y, context, k, pace)
            way, slope = self._way(root, context, k, pace)
            # One step of Newton's, which leaves the root as it is and gives it its derivatives.
            matrix = torch.eye(self.dim).to(slope) + slope.detach()
            x = root - torch.linalg.solve(matrix, root + way - y)
            y, total = x, total - self._log_det(self._way(x, context, k, pace)[1])
        return y, total

    def forward_and_score(
        self, x: Tensor, score: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        pace, total = self._pace(), x.new_zeros(())
        for k in range(self.steps):
            score = self._carried(x, score, context, k, pace)
            way, slope = self._way(x, context, k, pace)
            x, total = x + way, total + self._log_det(slope)
        return x, total, score

    @torch.no_grad()
    def _carried(
        self, x: Tensor, score: Tensor, context: Tensor | None, k: int, pace: Tensor
    ) -> Tensor:
        """The score after a step, see :meth:`Flow.forward_and_score`."""

        def stretch(x: Tensor) -> tuple[Tensor, Tensor]:
            slope = self._way(x, context, k, pace)[1]
            return self._log_det(slope).sum(), slope

        bend, slope = torch.func.grad(stretch, has_aux=True)(x)
        matrix = torch.eye(self.dim).to(slope) + slope
        return torch.linalg.solve(matrix.mT, score - bend)

    def _way(
        self, z: Tensor, context: Tensor | None, k: int, pace: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The way of a step, and its derivative, with shape ``(*, D, D)``."""
        time = torch.full_like(z[..., :1], k / self.steps)
        way, units = self.net.forward_and_units(torch.cat([z, time], -1), context)
        first, *rest = self.net.matrices()
        slope = first[:, : self.dim]
        for weight, unit in zip(rest, units, strict=True):
            # elu' = 1 + min(elu, 0)
            slope = weight @ ((1 + unit.clamp_max(0.0)).unsqueeze(-1) * slope)
        return pace * way, pace * slope.expand(*way.shape, self.dim)

    def _log_det(self, slope: Tensor) -> Tensor:
        return torch.linalg.slogdet(torch.eye(self.dim).to(slope) + slope)[1]

    def _pace(self) -> Tensor:
        """What the network's output is times in a step."""
        first, *rest = self.net.matrices()
        steepest = bound(first[:, : self.dim])
        for weight in rest:
            steepest = steepest * bound(weight)
        return 1 / (self.steps + steepest / STEEPEST)

    @torch.no_grad()
    def _before(self, y: Tensor, context: Tensor | None, k: int, pace: Tensor) -> Tensor:
        """Where a step has come from, by an iteration that comes nearer by a tenth at least."""
        tolerance = 8 * torch.finfo(y.dtype).eps
        root = y
        for _ in range(TURNS):
            closer = y - self._way(root, context, k, pace)[0]
            gap = (closer - root).abs()
            root = closer
            if bool((gap <= tolerance * (1 + root.abs())).all()):
                break
        return root


def bound(matrix: Tensor) -> Tensor:
    """A bound on the largest singular value of a matrix, its Schatten norm 16."""
    square = matrix @ matrix.mT if len(matrix) <= matrix.shape[1] else matrix.mT @ matrix
    size = torch.linalg.matrix_norm(square)
    power = square / (size + torch.finfo(size.dtype).tiny)  # also of zeros
    for _ in range(SQUARINGS - 1):
        power = power @ power
    return size.sqrt() * torch.linalg.matrix_norm(power) ** (2.0**-SQUARINGS)
