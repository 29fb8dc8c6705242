"""A flow on some of the coordinates."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from pyro_nf.flows.flow import Flow

__all__ = ["Embedded"]


class Embedded(Flow):
    r"""A flow on some of the coordinates; the others stay where they are.

    .. math:: y_C = f(x_C), \qquad y_i = x_i \text{ for } i \notin C

    Arguments:
        flow: The flow f, without context.
        columns: The coordinates C, in the order in which f takes them.
        dim: The dimension :math:`D` of all.

    Example:
        >>> from pyro_nf import make_flow
        >>> flow = Embedded(make_flow("planar*4", 2), [0, 3], 5)
        >>> x = torch.randn(7, 5)
        >>> torch.equal(flow(x)[:, 1:3], x[:, 1:3])
        True
    """

    def __init__(self, flow: Flow, columns: Sequence[int], dim: int) -> None:
        super().__init__(dim)
        if flow.context_dim or len(columns) != flow.dim:
            raise ValueError(
                f"expected a flow of dimension {len(columns)} without context, one number for "
                f"each of the columns {list(columns)}; got {flow!r}"
            )
        self.flow = flow
        self.register_buffer("columns", torch.tensor(columns), persistent=False)

    def forward_and_log_det(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        moved, log_det = self.flow.forward_and_log_det(self._part(x))
        return self._joined(x, moved), log_det

    def inverse_and_log_det(
        self, y: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        moved, log_det = self.flow.inverse_and_log_det(self._part(y))
        return self._joined(y, moved), log_det

    def forward_and_score(
        self, x: Tensor, score: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        moved, log_det, part = self.flow.forward_and_score(self._part(x), self._part(score))
        return self._joined(x, moved), log_det, self._joined(score, part)

    @property
    def carries_score(self) -> bool:
        return self.flow.carries_score

    def _part(self, x: Tensor) -> Tensor:
        return x.index_select(-1, cast(Tensor, self.columns))

    def _joined(self, x: Tensor, part: Tensor) -> Tensor:
        return x.index_copy(-1, cast(Tensor, self.columns), part)
