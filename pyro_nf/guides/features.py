"""A flow whose context is a linear function of a larger one."""

from torch import Tensor, nn

from pyro_nf.flows import Flow, check_context

__all__ = ["OfFeatures"]


class OfFeatures(Flow):
    """A flow whose context is a linear function of features.

    Arguments:
        flow: The flow, with a context.
        features: The number of features.
    """

    def __init__(self, flow: Flow, features: int) -> None:
        super().__init__(flow.dim, features)
        self.flow = flow
        self.linear = nn.Linear(features, flow.context_dim)

    def _of(self, context: Tensor | None) -> Flow:
        check_context(context, self.context_dim)
        return self.flow.condition(self.linear(context))

    def forward_and_log_det(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return self._of(context).forward_and_log_det(x)

    def inverse_and_log_det(
        self, y: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return self._of(context).inverse_and_log_det(y)

    def forward_and_score(
        self, x: Tensor, score: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self._of(context).forward_and_score(x, score)

    @property
    def carries_score(self) -> bool:
        return self.flow.carries_score
