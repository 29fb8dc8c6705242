"""The contract of a flow, and what is built from flows."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import ClassVar

from pyro.distributions import TransformModule
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_nf.checks import whole

__all__ = ["MANY", "Chain", "Conditioned", "Flow", "Inverse"]

MANY = 50  # dimensions from which a flow that bends a few directions is told so


class Flow(TransformModule):
    r"""A bijection of R^D which returns its value and its log-determinant together.

    A flow runs from noise to posterior. To write one, inherit, call
    ``super().__init__(dim, context_dim)``, make the parameters with
    :class:`~pyro_nf.flows.Params`, and implement :meth:`forward_and_log_det`;
    :meth:`inverse_and_log_det` is optional. It should start as (nearly) the identity.
    Everything that Pyro and torch ask of a transform is derived here.
    ``pyro_nf.testing.check_flow`` tests the result.

    Nothing computed is kept in a flow, so it can be copied, pickled and trained at any time.

    Arguments:
        dim: The dimension :math:`D`.
        context_dim: The size of a context on which the parameters depend; 0 for none.

    Example:
        >>> import torch
        >>> from pyro_nf import Params
        >>> class Shift(Flow):
        ...     def __init__(self, dim, context_dim=0):
        ...         super().__init__(dim, context_dim)
        ...         self.params = Params(context_dim, by=(dim,))
        ...
        ...     def forward_and_log_det(self, x, context=None):
        ...         (by,) = self.params(context)
        ...         return x + by, torch.zeros_like(x[..., 0])
        >>> Shift(3)(torch.zeros(5, 3)).shape
        torch.Size([5, 3])
    """

    domain: ClassVar[constraints.Constraint] = constraints.real_vector
    codomain: ClassVar[constraints.Constraint] = constraints.real_vector
    bijective = True
    elementwise: ClassVar[bool] = False  # whether each coordinate moves by itself
    is_linear: ClassVar[bool] = False

    def __init__(self, dim: int, context_dim: int = 0) -> None:
        dim, context_dim = whole("dim", dim), whole("context_dim", context_dim, least=0)
        super().__init__()
        self.dim = dim
        self.context_dim = context_dim

    @abstractmethod
    def forward_and_log_det(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""The value :math:`y = f(x)` and :math:`\log |\det \partial y / \partial x|`.

        Arguments:
            x: The input, with shape ``(*, D)``.
            context: The context, with shape ``(*, context_dim)``.

        Returns:
            The value, with shape ``(*, D)``, and the log-determinant, with shape ``(*,)``.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define forward_and_log_det(x, context)"
        )

    def inverse_and_log_det(
        self, y: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""The input :math:`x = f^{-1}(y)` and :math:`\log |\det \partial x / \partial y|`."""
        raise NotImplementedError(
            f"{type(self).__name__} has no inverse, which scoring a value that the flow has not "
            "just produced needs; define inverse_and_log_det(y, context), or score fresh samples"
        )

    def forward_and_score(
        self, x: Tensor, score: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""The value, the log-determinant, and the score of the output; optional.

        The score of a distribution is the gradient of its log density. From that of x, which the
        density p is of, follows that of y by

        .. math::
            \nabla \log q(y) = J^{-\top} (\nabla \log p(x) - \nabla \log |\det J|),
            \qquad J = \partial y / \partial x

        With it a guide has the path gradient, of less noise. No gradient flows through the score.

        Arguments:
            x: The input, with shape ``(*, D)``.
            score: Its score, with shape ``(*, D)``.
            context: The context, with shape ``(*, context_dim)``.
        """
        raise NotImplementedError(f"{type(self).__name__} does not carry the score")

    @property
    def carries_score(self) -> bool:
        """Whether there is a :meth:`forward_and_score`."""
        return type(self).forward_and_score is not Flow.forward_and_score

    @property
    def caveat(self) -> str:
        """Why this flow serves badly in its dimension; empty where it does not."""
        return ""

    def condition(self, context: Tensor) -> "Conditioned":
        """This flow with its context fixed."""
        return Conditioned(self, context)

    @property
    def sign(self) -> int:
        """Not known; torch.jit asks, and takes no NotImplementedError for an answer."""
        raise AttributeError("the sign of a flow's determinant is not known")

    @property
    def inv(self) -> "Flow":
        """The inverse, a flow and hence a module whose parameters are found and trained."""
        return Inverse(self)

    def with_cache(self, cache_size: int = 1) -> "Flow":
        """This flow: nothing is cached, so there is nothing to switch on."""
        return self

    def _call(self, x: Tensor) -> Tensor:
        return self.forward_and_log_det(x)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return self.inverse_and_log_det(y)[0]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The log-determinant at x, with shape ``(*,)``; y is not needed."""
        return self.forward_and_log_det(x)[1]

    __repr__ = nn.Module.__repr__  # not that of torch's Transform, which shows nothing

    def extra_repr(self) -> str:
        shown = {name: getattr(self, name, 0) for name in ("context_dim", "layers")}
        return ", ".join([str(self.dim), *(f"{key}={n}" for key, n in shown.items() if n)])


class Chain(Flow):
    """Flows one after the other, the first nearest to the noise.

    Arguments:
        flows: At least one flow; all of the same dimension and, where they use one, context.

    Example:
        >>> import torch
        >>> from pyro_nf.flows import Diag, Planar
        >>> chain = Chain([Planar(3, layers=4), Diag(3)])
        >>> y, log_det = chain.forward_and_log_det(torch.randn(5, 3))
        >>> [type(flow).__name__ for flow in chain]
        ['Planar', 'Diag']
    """

    def __init__(self, flows: Iterable[Flow]) -> None:
        flows = list(flows)
        if not flows:
            raise ValueError("a chain needs at least one flow, got none")
        dims = sorted({flow.dim for flow in flows})
        contexts = sorted({flow.context_dim for flow in flows} - {0})
        for name, sizes in (("dim", dims), ("context_dim", contexts)):
            if len(sizes) > 1:
                raise ValueError(f"the flows of a chain must agree on {name}, got {sizes}")
        super().__init__(dims[0], contexts[0] if contexts else 0)
        self.flows = nn.ModuleList(flows)

    def __iter__(self) -> Iterator[Flow]:
        return iter(self.flows)  # type: ignore[arg-type]  # ModuleList knows only Module

    def __len__(self) -> int:
        return len(self.flows)

    def forward_and_log_det(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return self._run(x, context, inverse=False)

    def inverse_and_log_det(
        self, y: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return self._run(y, context, inverse=True)

    def forward_and_score(
        self, x: Tensor, score: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        total: Tensor | None = None
        for flow in self:
            x, log_det, score = flow.forward_and_score(
                x, score, context if flow.context_dim else None
            )
            total = log_det if total is None else total + log_det
        assert total is not None  # a chain is never empty
        return x, total, score

    @property
    def carries_score(self) -> bool:
        return all(flow.carries_score for flow in self)

    def _run(self, x: Tensor, context: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        total: Tensor | None = None
        for flow in reversed(list(self)) if inverse else self:
            step = flow.inverse_and_log_det if inverse else flow.forward_and_log_det
            x, log_det = step(x, context if flow.context_dim else None)
            total = log_det if total is None else total + log_det
        assert total is not None  # a chain is never empty
        return x, total


class Inverse(Flow):
    """A flow run backwards."""

    def __init__(self, flow: Flow) -> None:
        super().__init__(flow.dim, flow.context_dim)
        self.flow = flow

    @property
    def inv(self) -> Flow:
        return self.flow

    def forward_and_log_det(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.flow.inverse_and_log_det(x, context)

    def inverse_and_log_det(
        self, y: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.flow.forward_and_log_det(y, context)


class Conditioned(Flow):
    """A view of a flow with its context fixed, of shape ``(*, context_dim)``."""

    def __init__(self, flow: Flow, context: Tensor) -> None:
        super().__init__(flow.dim)
        self.flow = flow
        self.context = context

    def forward_and_log_det(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.flow.forward_and_log_det(x, self.context)

    def inverse_and_log_det(
        self, y: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.flow.inverse_and_log_det(y, self.context)

    def forward_and_score(
        self, x: Tensor, score: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.flow.forward_and_score(x, score, self.context)

    @property
    def carries_score(self) -> bool:
        return self.flow.carries_score
