"""Supports that depend on other latents, asked of a run of the model."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import ImproperUniform
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints

from pyro_nf.model import Many, Packing, Result, Unpack, Values, until

__all__ = ["DependentSupports"]

Sites = Iterable[tuple[dict[str, Any], Tensor]]  # Pyro's nodes, and their unconstrained values


class DependentSupports:
    r"""The values of latents whose supports depend on other latents.

    The interval of :math:`\beta \sim U(0, 1 - \alpha)` is known once :math:`\alpha` is. So the
    model runs with the unconstrained numbers, and each support is asked of the site as it comes.

    Arguments:
        shapes: For each latent site the shape of its unconstrained value.
        names: The sites whose supports depend on others.
    """

    def __init__(self, shapes: Mapping[str, torch.Size], names: Iterable[str]) -> None:
        self.packing, self.names = Packing(shapes), frozenset(names)
        self._asked: tuple[Callable[..., Any], Any, Any] | None = None
        self._many = Many(self._one)

    def __getstate__(self) -> dict[str, Any]:
        return {"packing": self.packing, "names": self.names}  # neither the model nor the data

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["packing"].shapes, state["names"])  # type: ignore[misc]

    def ask(self, model: Callable[..., Any], args: Any, kwargs: Any, example: Tensor) -> None:
        """Ask this model, with these arguments, from now on.

        Arguments:
            model: The model.
            args: What it takes.
            kwargs: What it takes.
            example: A point in unconstrained space, with shape ``(D,)``.
        """
        self._asked = model, args, kwargs
        if self._many.vectorized is None:
            with poutine.block():
                self._many.decide(1, {"u": example.unsqueeze(0)})

    def _one(self, row: Values) -> Result:
        """The values of one draw, and their log-determinants, of the sites' batch shapes."""
        assert self._asked is not None  # the callers have looked
        model, args, kwargs = self._asked
        with Unpack(self.packing, row["u"]) as unpack, until(self.packing):
            model(*args, **kwargs)
        log_dets = {f"log_det/{name}": part for name, part in unpack.log_dets.items()}
        return unpack.log_det, unpack.values | log_dets

    def __call__(self, latent: Tensor, sites: Sites) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """Pyro's nodes with supports that know their values, in place of those of the first run.

        Arguments:
            latent: With shape ``(*, D)``, a one in the place of each plate.
            sites: The nodes, and their unconstrained values.
        """
        if self._asked is None:
            raise RuntimeError("the guide has not run since it was copied: call it, guide(*args)")
        batch = latent.shape[:-1]
        rows = latent.reshape(-1, latent.shape[-1])
        with poutine.block():
            if len(rows) == 1:  # perhaps already one among many
                alone = self._one({"u": rows[0]})[1]
                values = {name: value.unsqueeze(0) for name, value in alone.items()}
            else:
                values = self._many(len(rows), {"u": rows})[1]
        for site, free in sites:
            name, fn = site["name"], site["fn"]
            value = _with_ones(values[name], batch, fn.event_dim)
            log_det = _with_ones(values[f"log_det/{name}"], batch, 0)
            known = ImproperUniform(_Known(_To(value, log_det)), log_det.shape, fn.event_shape)
            yield site | {"fn": known}, free


def _with_ones(rows: Tensor, batch: torch.Size, event_dim: int) -> Tensor:
    """Rows of values as Pyro has them under plates of particles: a one in the place of each."""
    return rows.reshape(broadcast_shape(rows.shape[1:], batch + (1,) * event_dim))


class _To(Transform):
    """The map from an unconstrained value to a value, both of which are known."""

    bijective = True
    domain = codomain = constraints.real

    def __init__(self, value: Tensor, log_det: Tensor) -> None:
        super().__init__()
        self.value, self.log_det = value, log_det

    def _call(self, x: Tensor) -> Tensor:
        return self.value

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.log_det


class _Known(constraints.Constraint):
    """A support of which one value is known."""

    def __init__(self, transform: Transform) -> None:
        self.transform = transform
        super().__init__()


# Pyro's autoguides ask torch for the bijection to a site's support.
biject_to.register(_Known, lambda support: support.transform)
