"""A model seen as one log density over one unconstrained vector."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide.guides import AutoContinuous
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_nf.model.failures import patiently
from pyro_nf.model.many import Many, Result, Values, by_loop
from pyro_nf.model.packing import Packing, Unpack

__all__ = ["Target", "cause"]

RANDOM = (
    "its density is random, of a subsample of the data or of a site that the guide lacks; let the "
    "plate have all its rows, or type fit(..., batches=...)"
)
NOISE = (
    "its density is random, of numbers that the model draws outside of pyro.sample; sample them, "
    "as a site, or draw them once before the fit"
)
WIDTHS = (0.0, 0.01, 0.3, 1.0)  # of points at which it is run twice: at the start noise may cancel


class Target:
    r"""The log density :math:`\log p(u, \mathrm{data})` of a model's latents, packed into u.

    The Jacobians of the supports are included. Each point is evaluated as if it were alone, many
    of them together where that can be done. Where the model's numerics fail, its density is NaN.

    Arguments:
        model: A Pyro model.
        packing: Where in u the numbers of each latent site are.
        start: A point from which to look at it, with shape ``(D,)``.
        args: What the model takes.
        kwargs: What the model takes.

    Attributes:
        dim: The dimension D of u.
        random: Whether the density is: of a subsample of the data, of sites that the guide lacks,
            or of numbers that the model draws outside of pyro.sample.
        vectorized: Whether points are evaluated together.
        reason: Why they are not, in words.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        packing: Packing,
        start: Tensor,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.args, self.kwargs = model, tuple(args), dict(kwargs or {})
        self.packing, self.dim, self.start = packing, packing.dim, start
        self._many = Many(self.one, tolerant=True)
        with torch.no_grad(), poutine.block():
            self.random = self._is_random()
            near = start + 0.01 * (1 + start.abs())
            alike = self._many.decide(2, {"u": torch.stack([near, start])})
            self.reason = self._many.reason
            if self.random:
                self.reason = cause(patiently(lambda: self.trace(self.start)[0]), packing.shapes)
        self.vectorized = alike and not self.random

    @classmethod
    def of(
        cls,
        guide: AutoContinuous,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        model: Callable[..., Any] | None = None,
    ) -> "Target":
        """That of the latents of an autoguide that has been set up, from where it starts.

        Arguments:
            guide: The guide.
            args: What the model takes.
            kwargs: What the model takes.
            model: The model, where the guide's own lacks sites of it; by default the guide's.
        """
        packing = Packing(guide._unconstrained_shapes)
        start = guide._init_loc().detach()
        return cls(guide.model if model is None else model, packing, start, args, kwargs)

    def __call__(self, u: Tensor) -> Tensor:
        """The log density at the points u.

        Arguments:
            u: With shape ``(D,)`` or ``(n, D)``.

        Returns:
            With shape ``()`` or ``(n,)``.
        """
        if u.dim() not in (1, 2) or u.shape[-1] != self.dim:
            raise ValueError(
                f"expected points of shape ({self.dim},) or (n, {self.dim}), got {tuple(u.shape)}"
            )
        if u.dim() == 2:
            return self.many(self._many, u)[0]
        with poutine.block():
            numbers, _ = by_loop(self.one, 1, {"u": u.unsqueeze(0)}, tolerant=True)
        return _of(u, numbers[0])

    def many(self, function: Many, points: Tensor) -> Result:
        """A function of one run, :meth:`trace`, at many points; NaN where the numerics fail.

        Arguments:
            function: Takes the point ``"u"``.
            points: With shape ``(n, D)``.
        """
        with poutine.block():
            numbers, values = function(len(points), {"u": points})
        return _of(points, numbers), values

    def _is_random(self) -> bool:
        """Whether the density differs from run to run, at one of some points around the start."""
        generator = torch.Generator().manual_seed(0)
        for width in WIDTHS:
            aside = torch.randn(self.dim, generator=generator).to(self.start)
            u = self.start + width * aside
            if bool(self(u).nan_to_num(0.0) != self(u).nan_to_num(0.0)):
                return True
        return False

    def one(self, values: Values) -> Result:
        """The log density at the one point ``"u"``, by one run of the model."""
        trace, log_det = self.trace(values["u"])
        return trace.log_prob_sum().to(log_det) + log_det, {}

    def trace(self, u: Tensor) -> tuple[poutine.Trace, Tensor]:
        """A run of the model with the latents u, and the log-determinant of its supports.

        Arguments:
            u: With shape ``(D,)``.
        """
        with Unpack(self.packing, u) as unpack:
            trace = poutine.trace(self.model).get_trace(*self.args, **self.kwargs)
        return trace, unpack.log_det


def cause(trace: poutine.Trace, known: Collection[str]) -> str:
    """Of what a density is random, in words.

    Arguments:
        trace: A run of the model.
        known: The latents that it was given.
    """
    for name, node in trace.nodes.items():
        if node["type"] != "sample" or node["is_observed"] or name in known:
            continue
        if not (site_is_subsample(node) and len(node["value"]) == node["fn"].size):
            return RANDOM
    return NOISE


def _of(points: Tensor, numbers: Tensor) -> Tensor:
    """Numbers of points, of which autograd takes them for a function where all have failed, too."""
    numbers = numbers.to(points.dtype)
    unknown = points.requires_grad and not numbers.requires_grad
    return numbers + 0 * points.sum(-1) if unknown else numbers
