"""Plain Pyro and torch transforms as flows."""

from typing import Any

from torch import Tensor, nn
from torch.distributions import ComposeTransform, Transform
from torch.distributions.transforms import _InverseTransform

from pyro_nf.flows.flow import Chain, Flow

__all__ = ["Adapted", "adapt", "walk"]

CACHES = "_cached_", "_cache_log_detJ"  # where torch and Pyro keep what they have computed


class Adapted(Flow):
    """A plain Pyro or torch transform as a flow.

    Elementwise transforms have their log-determinants summed; a log-determinant whose shape
    contradicts the transform's ``event_dim`` is refused. Parameters inside composed, inverted
    and independent transforms are found and trained; constant tensors move, and are saved, with
    the flow. What Pyro's transforms cache is cleared after each use, since it goes stale when
    the parameters move.

    Arguments:
        transform: A bijective transform of scalars or vectors.
        dim: The dimension :math:`D`.
    """

    def __init__(self, transform: Transform, dim: int) -> None:
        super().__init__(dim)
        name = type(transform).__name__
        if not transform.bijective:
            raise ValueError(f"{name} is not bijective, so it has no density; use a bijection")
        self._event_dim = max(transform.domain.event_dim, transform.codomain.event_dim)
        if self._event_dim > 1:
            raise ValueError(
                f"{name} acts on events of {self._event_dim} dimensions; a flow acts on vectors: "
                "declare domain = codomain = constraints.real_vector"
            )
        self.transform = transform
        inner = walk(transform)
        if not isinstance(transform, nn.Module):  # torch would not look for parameters in it
            self.inner = nn.ModuleList(part for part in inner if isinstance(part, nn.Module))
            held = [value for part in inner for value in vars(part).values()]
            self.held = nn.ParameterList(v for v in held if isinstance(v, nn.Parameter))
        self._constants = [
            (part, name)
            for part in inner
            for name, value in vars(part).items()
            if isinstance(value, Tensor) and not value.requires_grad and not name.startswith(CACHES)
        ]
        for index, (part, name) in enumerate(self._constants):
            self.register_buffer(f"constant_{index}", getattr(part, name))

    def _apply(self, *args: Any, **kwargs: Any) -> "Adapted":
        super()._apply(*args, **kwargs)  # makes new tensors of the constants
        for index, (part, name) in enumerate(self._constants):
            setattr(part, name, getattr(self, f"constant_{index}"))
        return self

    def forward_and_log_det(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if not x.numel():  # many a network of Pyro cannot reshape an empty batch
            return x, x.new_zeros(x.shape[:-1])
        y = self.transform(x)
        return y, self._log_det(x, y)

    def inverse_and_log_det(
        self, y: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if not y.numel():
            return y, y.new_zeros(y.shape[:-1])
        try:
            x = self.transform.inv(y)
        except (KeyError, NotImplementedError) as error:
            raise NotImplementedError(
                f"{type(self.transform).__name__} cannot invert a value that it has not just "
                "produced; use a flow with an inverse, such as those of pyro_nf.flow_names()"
            ) from error
        return x, -self._log_det(x, y)

    def _log_det(self, x: Tensor, y: Tensor) -> Tensor:
        log_det = self.transform.log_abs_det_jacobian(x, y)
        for part in walk(self.transform):
            for name in [name for name in vars(part) if name.startswith(CACHES)]:
                setattr(part, name, (None, None) if name == "_cached_x_y" else None)
        expected = x.shape[:-1] if self._event_dim else x.shape
        if log_det.shape != expected or y.shape != x.shape:
            raise ValueError(
                f"{type(self.transform).__name__} declares event_dim={self._event_dim} and maps "
                f"{tuple(x.shape)} to {tuple(y.shape)} with a log-determinant of shape "
                f"{tuple(log_det.shape)}; expected {tuple(x.shape)} and {tuple(expected)}. For one "
                "log-determinant a vector, declare domain = codomain = constraints.real_vector; "
                "for one an element, constraints.real"
            )
        return log_det if self._event_dim else log_det.sum(-1)


def walk(transform: Transform) -> list[Transform]:
    """The transform and all that it is composed of."""
    found: dict[int, Transform] = {}
    waiting = [transform]
    while waiting:
        part = waiting.pop()
        if id(part) in found:  # a transform and its inverse hold each other
            continue
        found[id(part)] = part
        values = [*vars(part).values()]
        if isinstance(part, nn.Module):
            values += part.children()
        for value in values:
            items = value if isinstance(value, list | nn.ModuleList) else [value]
            waiting += [item for item in items if isinstance(item, Transform)]
    return list(found.values())


def adapt(transform: Transform, dim: int) -> Flow:
    """A transform as a flow; compositions and inverses part by part.

    As a whole, a composition that is a module would find the parameters of other modules only,
    not those of a plain transform of torch among them.
    """
    if isinstance(transform, Flow):
        return transform
    if isinstance(transform, _InverseTransform):
        return adapt(transform.inv, dim).inv
    if isinstance(transform, ComposeTransform) and transform.parts:
        return Chain(adapt(part, dim) for part in transform.parts)
    return Adapted(transform, dim)
