"""The layers of a guide: the flows that it learns, and the coordinates in which they do."""

import itertools
import math
from collections.abc import Sequence
from operator import attrgetter

import torch
from torch import Tensor

from pyro_nf.flows import Buffers, Chain, Diag, Embedded, Flow, solved, times
from pyro_nf.guides.hierarchy import Hierarchy
from pyro_nf.sampling import lower

__all__ = ["Stack", "layers_of"]


class Whiten(Buffers, Flow):
    r"""The map from whitened coordinates back to the model's; fixed, and the identity at first.

    .. math:: y = \mu + L x, \qquad \log \det = \sum_i \log L_{ii}

    Arguments:
        dim: The dimension :math:`D`.
    """

    is_linear = True
    shift: Tensor | None
    scale: Tensor | None

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.register_buffer("shift", None)
        self.register_buffer("scale", None)

    def set(self, shift: Tensor, scale: Tensor) -> None:
        """Use the coordinates in which N(shift, L L') is standard normal.

        Arguments:
            shift: With shape ``(D,)``.
            scale: L, with shape ``(D, D)``, or its diagonal, with shape ``(D,)``.
        """
        self.shift, self.scale = shift, scale

    def forward_and_log_det(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if self.shift is None or self.scale is None:
            return x, x.new_zeros(x.shape[:-1])
        scaled = self.scale * x if self.scale.dim() == 1 else times(self.scale, x)
        return self.shift + scaled, self._log_det(x)

    def inverse_and_log_det(
        self, y: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if self.shift is None:
            return y, y.new_zeros(y.shape[:-1])
        return self._solved(y - self.shift), -self._log_det(y)

    def forward_and_score(
        self, x: Tensor, score: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        score = score if self.scale is None else self._solved(score, transposed=True)
        return *self.forward_and_log_det(x), score

    def _solved(self, x: Tensor, transposed: bool = False) -> Tensor:
        assert self.scale is not None  # the callers have looked
        return x / self.scale if self.scale.dim() == 1 else solved(self.scale, x, transposed)

    def _log_det(self, x: Tensor) -> Tensor:
        assert self.scale is not None  # the callers have looked
        scale = self.scale if self.scale.dim() == 1 else self.scale.diagonal()
        return scale.log().sum().expand(x.shape[:-1])


class Stack(Chain):
    r"""Flows, an affine map, and what is set once: whitening and a hierarchy.

    .. math:: u = h(\mu + L\,(m + e^s f(\epsilon)))

    Flows g at the end that move each coordinate by itself act on those of the model, shifted and
    scaled, but not rotated:

    .. math:: u = h(\mu + \sigma\, g(\sigma^{-1} L\,(m + e^s f(\epsilon)))), \qquad
        \sigma_i^2 = (L L^\top)_{ii}

    With `columns` f, g and what is dense of L act on these coordinates alone.

    Arguments:
        flows: The flows f and g, of one dimension.
        loc: Where the latents start, with shape ``(D,)``.
        scale: Their standard deviation at the start.
        columns: The coordinates on which the flows act; None for all.

    Attributes:
        learned: The layers with parameters: the flows and the affine map.

    Example:
        >>> from pyro_nf import make_flow
        >>> stack = Stack([make_flow("planar", 3)], torch.zeros(3), 0.1)
        >>> stack(torch.randn(5, 3)).shape
        torch.Size([5, 3])
    """

    columns: Tensor | None

    def __init__(
        self,
        flows: Sequence[Flow],
        loc: Tensor,
        scale: float,
        columns: Sequence[int] | None = None,
    ) -> None:
        dim = len(loc)
        outer = len(list(itertools.takewhile(attrgetter("elementwise"), reversed(flows))))
        first, last = flows[: len(flows) - outer], flows[len(flows) - outer :]
        affine, whiten = Diag(dim), Whiten(dim)
        turn = Whiten(dim if columns is None else len(columns))
        after = [turn, *last] if outer or columns is not None else []
        before, after = placed(first, columns, dim), placed(after, columns, dim)
        super().__init__([*before, affine, *after, whiten, Hierarchy(dim)])
        # In lists, since torch would keep a second name of each for the state of the module.
        self.learned: list[Flow] = [*first, affine, *last]
        self._maps = [turn, whiten] if after else [whiten]
        self._affine = [affine]
        self.register_buffer(
            "columns", None if columns is None else torch.tensor(columns), persistent=False
        )
        self.to(device=loc.device, dtype=loc.dtype)
        self.train()
        if after:
            whiten.set(loc, torch.ones_like(loc))
            loc = torch.zeros_like(loc)
        with torch.no_grad():
            log_scale = torch.full_like(loc, math.log(scale))
            affine.params.theta.copy_(torch.cat([loc, log_scale]))

    def train(self, mode: bool = True) -> "Stack":
        """As for any module, but that Pyro does not warn of parameters that are frozen."""
        super().train(mode)
        self.training = False  # Pyro asks the outermost module only, and layers ask themselves
        return self

    @property
    def hierarchy(self) -> Hierarchy:
        """What makes u of coordinates in which latents do not depend on those above them."""
        *_, last = self
        return last

    @property
    def whitened(self) -> bool:
        """Whether it has been moved to other coordinates."""
        return self._maps[0].shift is not None

    @torch.no_grad()
    def move(self, shift: Tensor, scale_tril: Tensor) -> None:
        """Use the coordinates in which N(shift, scale_tril scale_tril') is standard normal.

        Where a hierarchy is set, they are those of what it makes u of.

        Arguments:
            shift: With shape ``(D,)``.
            scale_tril: A triangular matrix, with shape ``(D, D)``, or its diagonal, ``(D,)``.
        """
        first, *rest = self._maps
        if scale_tril.dim() == 1:
            self._maps[-1].set(shift, scale_tril)
        elif self.columns is not None:
            block, size = _blocks(scale_tril, self.columns)
            first.set(torch.zeros_like(block[0]), block / size[self.columns].unsqueeze(-1))
            rest[0].set(shift, size)
        elif rest:
            size = scale_tril.norm(dim=-1)
            first.set(torch.zeros_like(size), scale_tril / size.unsqueeze(-1))
            rest[0].set(shift, size)
        else:
            first.set(shift, scale_tril)
        self._affine[0].params.theta.zero_()


def layers_of(flow: Flow) -> list[Flow]:
    """A flow as a list, the first of the layers nearest to the noise."""
    return list(flow) if isinstance(flow, Chain) else [flow]


def placed(flows: Sequence[Flow], columns: Sequence[int] | None, dim: int) -> list[Flow]:
    """Flows on these coordinates of all, as one; or as they are."""
    if columns is None or not flows:
        return list(flows)
    return [Embedded(Chain(flows), columns, dim)]


def _blocks(scale_tril: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """The normal distribution nearest to a given one in which all but some numbers are independent.

    Nearest is that of the least KL divergence to the given one: it has the blocks of its precision.

    Arguments:
        scale_tril: The Cholesky factor of its covariance, with shape ``(D, D)``.
        columns: Where the n numbers are that stay dependent.

    Returns:
        The Cholesky factor of their covariance, with shape ``(n, n)``, and the standard deviations
        of all numbers, with shape ``(D,)``.
    """
    precision = torch.cholesky_inverse(scale_tril.double())
    size = precision.diagonal().rsqrt()
    block = lower(torch.linalg.cholesky(precision[columns][:, columns]).inverse().mT)
    size[columns] = block.norm(dim=-1)
    return block.to(scale_tril), size.to(scale_tril)
