"""Latent sites as one unconstrained vector, and back."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.constraints import Constraint, independent

from pyro_nf.model.bijections import support_of
from pyro_nf.model.handlers import Given, until
from pyro_nf.model.many import Many, Result, Values

__all__ = ["Latents", "Pack", "Packing", "Unpack", "packed"]


class Packing:
    r"""Where in a vector :math:`u \in R^D` the unconstrained numbers of each latent site are.

    Supports are asked of the run that uses them: :class:`Unpack` gives the sites of a run their
    values and :class:`Pack` takes them, each as soon as the site, and so its support, is there. A
    support may depend on the sites before it.

    Arguments:
        shapes: For each site the shape of its unconstrained value.

    Example:
        >>> packing = Packing({"scale": torch.Size([]), "mean": torch.Size([2])})
        >>> packing.dim, packing.columns["mean"]
        (3, slice(1, 3, None))
    """

    def __init__(self, shapes: Mapping[str, torch.Size]) -> None:
        self.shapes = dict(shapes)
        self.columns: dict[str, slice] = {}
        self.dim = 0
        for name, shape in self.shapes.items():
            self.columns[name] = slice(self.dim, self.dim + shape.numel())
            self.dim += shape.numel()

    @classmethod
    def of(cls, shapes: Mapping[str, torch.Size], supports: Mapping[str, Constraint]) -> "Packing":
        """That of sites of these shapes and supports."""
        return cls({name: _free_shape(supports[name], shape) for name, shape in shapes.items()})

    def free(self, u: Tensor, name: str) -> Tensor:
        """The unconstrained value of a site, of u with shape ``(*, D)``."""
        return u[..., self.columns[name]].reshape(u.shape[:-1] + self.shapes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __contains__(self, name: object) -> bool:
        return name in self.shapes


def _free_shape(support: Constraint, shape: torch.Size) -> torch.Size:
    """The shape of a site's unconstrained value; that of the site where each number moves alone.

    Torch would tell so by ``broadcast_shapes``, whose first call imports SymPy for half a second.
    """
    to_support = biject_to(support)
    while isinstance(support, independent):
        support = support.base_constraint
    return torch.Size(to_support.inverse_shape(shape)) if support.event_dim else shape


class Unpack(Messenger):
    r"""Gives the latent sites of one run their values, from one vector u.

    Arguments:
        packing: Where in u they are.
        u: With shape ``(D,)``.

    Attributes:
        values: The values so far.
        log_dets: Of each site :math:`\log |\det \partial \mathrm{value} / \partial u|`, of the
            site's batch shape.
        log_det: Their sum so far.
    """

    def __init__(self, packing: Packing, u: Tensor) -> None:
        super().__init__()
        self.packing, self.u = packing, u
        self.values: Values = {}
        self.log_dets: Values = {}
        self.log_det = u.new_zeros(())

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name not in self.packing:
            return
        free = self.packing.free(self.u, name)
        to_support = biject_to(support_of(msg["fn"]))
        value = self.values[name] = to_support(free)
        self.log_dets[name] = to_support.log_abs_det_jacobian(free, value)
        self.log_det = self.log_det + self.log_dets[name].sum()
        msg["value"], msg["done"] = value, True


class Pack(Messenger):
    """Takes the values of the latent sites of one run, as one vector u.

    The inverse of :class:`Unpack`, with the same :attr:`log_det`.

    Arguments:
        packing: Where in u they are to be.
    """

    def __init__(self, packing: Packing) -> None:
        super().__init__()
        self.packing = packing
        self._free: Values = {}
        self._log_dets: list[Tensor] = []
        self._inside: list[Tensor] = []

    def _pyro_post_sample(self, msg: Any) -> None:
        name, value = msg["name"], msg["value"]
        if name not in self.packing:
            return
        support = support_of(msg["fn"])
        to_support = biject_to(support)
        free = self._free[name] = to_support.inv(value)
        self._log_dets.append(to_support.log_abs_det_jacobian(free, value).sum())
        self._inside.append(support.check(value).all())

    @property
    def u(self) -> Tensor:
        """The vector, with shape ``(D,)``; NaN for values outside of their supports."""
        u = torch.cat([self._free[name].reshape(-1) for name in self.packing])
        return torch.where(torch.stack(self._inside).all(), u, torch.nan)

    @property
    def log_det(self) -> Tensor:
        r""":math:`\log |\det \partial \mathrm{values} / \partial u|`."""
        return torch.stack(self._log_dets).sum()


class Latents:
    """The latent sites of a model at many draws: as values by site, and as vectors u.

    The model runs as far as the last of them.

    Arguments:
        model: A Pyro model.
        packing: Where in u the numbers of each site are.
        args: What the model takes.
        kwargs: What the model takes.
        chunk: How many draws may run together.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        packing: Packing,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        chunk: int | None = None,
    ) -> None:
        def unpacked(row: Values) -> Result:
            with Unpack(packing, row["u"]) as unpack, until(packing):
                model(*args, **kwargs)
            return unpack.log_det, unpack.values

        def packed(row: Values) -> Result:
            with Pack(packing) as pack, Given(row), until(packing):
                model(*args, **kwargs)
            return pack.log_det, {"u": pack.u}

        self.packing = packing
        self._unpacked = Many(unpacked, chunk, tolerant=True)
        self._packed = Many(packed, chunk, tolerant=True)

    def unpack(self, u: Tensor) -> tuple[Values, Tensor]:
        """The values by site, and the log-determinant, for u of shape ``(n, D)``."""
        log_det, values = self._unpacked(len(u), {"u": u})
        return values, log_det

    def pack(self, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The vectors, of shape ``(n, D)``, and the log-determinant of :meth:`unpack`.

        Arguments:
            values: For each site n values, of shape ``(n, *shape)``; NaN comes of those outside
                of the support.
        """
        sites = {name: values[name] for name in self.packing}
        log_det, found = self._packed(len(next(iter(sites.values()))), sites)
        return found["u"], log_det


def packed(
    values: Mapping[str, Tensor], supports: Mapping[str, Constraint]
) -> tuple[Tensor, Tensor]:
    """What :meth:`Latents.pack` gives, without a run of the model, for supports that are fixed.

    Arguments:
        values: For each site n values, of shape ``(n, *shape)``.
        supports: The support of each site, in the order in which they are packed.

    Returns:
        The vectors, of shape ``(n, D)``, and the log-determinant in double precision.
    """
    parts, log_dets = [], []
    for name, support in supports.items():
        value, to_support = values[name], biject_to(support)
        free = to_support.inv(value)
        parts.append(free.reshape(len(value), -1))
        stretch = to_support.log_abs_det_jacobian(free, value)
        log_dets.append(stretch.double().reshape(len(value), -1).sum(-1))
    return torch.cat(parts, -1), torch.stack(log_dets).sum(0)
