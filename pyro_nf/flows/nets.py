"""Parameters and small networks: what a flow's numbers are, or how they follow from a context."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from pyro.distributions.util import broadcast_shape
from torch import Tensor, nn
from torch.nn.functional import elu, linear

__all__ = ["MLP", "Buffers", "MaskedMLP", "Params"]

SMALL = 0.01  # spread of parameters that must break a symmetry without moving the start


class Params(nn.Module):
    r"""Named tensors of a flow: free, or affine functions of a context :math:`c` of F numbers.

    .. math:: \theta(c) = \theta_0 + \gamma W c, \qquad \gamma = F^{-1/2}

    Adam moves all of W by one size of step. Without :math:`\gamma` hundreds of features would add
    these up to a jump of :math:`\theta`, at which planes turn over.

    All tensors are cut from one vector :math:`\theta`, so that an optimizer and Pyro's
    parameter store meet one tensor a layer instead of one a name.

    Arguments:
        context_dim: The size of the context; 0 for free parameters.
        initial: For each name an initial tensor, or a shape to fill with small normal noise.

    Attributes:
        pace: The factor :math:`\gamma`, which a layer may change.

    Example:
        >>> params = Params(0, v=(3,), b=())
        >>> v, b = params()
        >>> v.shape, b.shape
        (torch.Size([3]), torch.Size([]))
        >>> v, b = Params(2, v=(3,), b=())(torch.zeros(5, 2))
        >>> v.shape, b.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(self, context_dim: int = 0, /, **initial: Tensor | tuple[int, ...]) -> None:
        super().__init__()
        values = {
            name: value if isinstance(value, Tensor) else SMALL * torch.randn(value)
            for name, value in initial.items()
        }
        self.context_dim = context_dim
        self.shapes = {name: tuple(value.shape) for name, value in values.items()}
        self.sizes = [value.numel() for value in values.values()]
        self.theta = nn.Parameter(torch.cat([value.reshape(-1) for value in values.values()]))
        if context_dim:
            # Zero is no saddle here: the gradient of W is that of theta times the context.
            self.weight = nn.Parameter(torch.zeros(sum(self.sizes), context_dim))
        self.pace = max(context_dim, 1) ** -0.5

    def forward(self, context: Tensor | None = None) -> tuple[Tensor, ...]:
        """The tensors in the order of their declaration, of shape ``(*, *shape)``.

        Arguments:
            context: The context, with shape ``(*, context_dim)``; None for free parameters.
        """
        check_context(context, self.context_dim)
        theta: Tensor = self.theta
        if context is not None:
            theta = linear(self.pace * context, self.weight, theta)
        parts = theta.split(self.sizes, -1)
        batch = theta.shape[:-1]
        return tuple(
            part if len(shape) == 1 else part.reshape(batch + shape)
            for part, shape in zip(parts, self.shapes.values(), strict=True)
        )

    def extra_repr(self) -> str:
        names = ", ".join(f"{name}={shape}" for name, shape in self.shapes.items())
        return f"{self.context_dim}, {names}" if self.context_dim else names


class Buffers(nn.Module):
    """Buffers that are given once and not trained; None until then."""

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Take over what there is, or nothing, whatever there was before."""
        for name in list(self._buffers):
            value = state.get(prefix + name)
            setattr(self, name, None if value is None else torch.empty_like(value))
        super()._load_from_state_dict(state, prefix, *rest)


class MLP(nn.Module):
    r"""A multilayer perceptron with ELU units whose output starts near zero.

    Arguments:
        in_dim: The size of the input :math:`x`; may be 0.
        out_dim: The size of the output.
        hidden: The sizes of the hidden layers.
        context_dim: The size of a context that is appended to the input.
        kinks: The spread of the first layer's biases. At zero all units of a network of one input
            bend at the same place; shapes that change quickly in a plane want some 2.

    Example:
        >>> MLP(3, 2, (16, 16))(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        hidden: Sequence[int] = (32, 32),
        context_dim: int = 0,
        kinks: float = 0.0,
    ) -> None:
        super().__init__()
        are_sizes = isinstance(hidden, list | tuple) and all(type(size) is int for size in hidden)
        if not are_sizes or min(hidden, default=1) < 1:
            raise ValueError(f"hidden must be layer sizes such as (64, 64), got {hidden!r}")
        if not (isinstance(kinks, int | float) and 0 <= kinks < math.inf):
            raise ValueError(f"kinks must be a number from 0, got {kinks!r}")
        self.context_dim = context_dim
        sizes = [in_dim + context_dim, *hidden, out_dim]
        # 1 / sqrt(fan in) keeps the spread of the units; the last layer starts small.
        spreads = [*(1.0 for _ in hidden), SMALL]
        self.weights = nn.ParameterList(
            torch.randn(n, m) * spread / math.sqrt(max(m, 1))
            for (m, n), spread in zip(pairwise(sizes), spreads, strict=True)
        )
        self.biases = nn.ParameterList(torch.zeros(n) for n in sizes[1:])
        if hidden and kinks:
            nn.init.normal_(self.biases[0], std=kinks)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The output, with shape ``(*, out_dim)``, for an input of shape ``(*, in_dim)``."""
        return self.forward_and_units(x, context)[0]

    def forward_and_units(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """The output, and the values of the hidden layers, which :meth:`pull` needs."""
        check_context(context, self.context_dim)
        if context is not None:
            batch = broadcast_shape(x.shape[:-1], context.shape[:-1])
            x = torch.cat([x.expand(*batch, -1), context.expand(*batch, -1)], -1)
        *inner, last = zip(self.matrices(), self.biases, strict=True)
        units = []
        for weight, bias in inner:
            x = elu(linear(x, weight, bias))
            units.append(x)
        return linear(x, *last), units

    def matrices(self) -> list[Tensor]:
        """The matrix of each layer."""
        return list(self.weights)

    @torch.no_grad()
    def pull(self, gradient: Tensor, units: list[Tensor]) -> Tensor:
        """The gradient with respect to x of a number with this gradient in the output."""
        *inner, last = self.matrices()
        gradient = gradient @ last
        for weight, unit in zip(reversed(inner), reversed(units), strict=True):
            # elu' = 1 + min(elu, 0)
            gradient = torch.addcmul(gradient, gradient, unit.clamp_max(0.0)) @ weight
        return gradient[..., : gradient.size(-1) - self.context_dim]


class MaskedMLP(MLP):
    r"""An :class:`MLP` of which each output sees only the inputs before it, and the context.

    Every unit has a degree, and sees what has none higher; inputs have their place in the order,
    a context zero, and an output sees only what is of a lower degree than its own.

    References:
        MADE: Masked Autoencoder for Distribution Estimation
        (Germain, Gregor, Murray and Larochelle, 2015) https://arxiv.org/abs/1502.03509

    Arguments:
        order: The place of each of the D inputs, a permutation of 1 to D.
        numbers: The number of outputs for each place.
        hidden: The sizes of the hidden layers.
        context_dim: The size of a context that is appended to the input.

    Example:
        >>> MaskedMLP(torch.tensor([1, 2, 3]), 2)(torch.zeros(5, 3)).shape
        torch.Size([5, 6])
    """

    def __init__(
        self, order: Tensor, numbers: int, hidden: Sequence[int] = (32, 32), context_dim: int = 0
    ) -> None:
        dim = len(order)
        super().__init__(dim, dim * numbers, hidden, context_dim)
        # Units of degree zero see the context alone, and are of use to the first output only.
        low = 0 if context_dim or dim == 1 else 1
        degrees = [torch.cat([order, order.new_zeros(context_dim)])]
        degrees += [low + torch.arange(size) * (dim - low) // size for size in hidden]
        masks = [b.unsqueeze(-1) >= a for a, b in pairwise(degrees)]
        masks.append(order.repeat(numbers).unsqueeze(-1) > degrees[-1])
        for k, mask in enumerate(masks):
            self.register_buffer(f"mask{k}", mask.to(self.weights[0].dtype), persistent=False)

    def matrices(self) -> list[Tensor]:
        return [weight * getattr(self, f"mask{k}") for k, weight in enumerate(self.weights)]

    @torch.no_grad()
    def jacobian(self, units: list[Tensor]) -> Tensor:
        """The derivative of the output with respect to x, with shape ``(*, out_dim, in_dim)``."""
        first, *rest = self.matrices()
        product = first[:, : first.size(-1) - self.context_dim]
        for weight, unit in zip(rest, units, strict=True):
            product = weight @ ((1 + unit.clamp_max(0.0)).unsqueeze(-1) * product)
        return product


def check_context(context: Tensor | None, context_dim: int) -> None:
    """Refuse a context where none is expected, a missing one, and one of another size."""
    if context is None and context_dim:
        raise ValueError(
            f"this flow was made with context_dim={context_dim} and got no context; "
            f"type flow.condition(context) with a context of shape (*, {context_dim})"
        )
    if context is not None and (context.dim() == 0 or context.size(-1) != context_dim):
        raise ValueError(
            f"expected a context of shape (*, {context_dim}), got {tuple(context.shape)}"
            + ("" if context_dim else "; make the flow with context_dim to use one")
        )
