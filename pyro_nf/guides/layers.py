"""The layers of a guide: the flows that it learns, and the coordinates in which they do."""

import itertools
import math
from collections.abc import Sequence
from operator import attrgetter

import torch
from torch import Tensor

from pyro_nf.flows.flow import Chain, Flow
from pyro_nf.flows.linear import Diag
from pyro_nf.guides.hierarchy import Hierarchy
from pyro_nf.sampling.normal import Whiten

__all__ = ["Stack"]


class Stack(Chain):
    r"""Flows, an affine map, and what is set once: whitening and a hierarchy.

    .. math:: u = h(\mu + L\,(m + e^s f(\epsilon)))

    Flows g at the end that move each coordinate by itself act on those of the model, shifted and
    scaled, but not rotated:

    .. math:: u = h(\mu + \sigma\, g(\sigma^{-1} L\,(m + e^s f(\epsilon)))), \qquad
        \sigma_i^2 = (L L^\top)_{ii}

    Arguments:
        flows: The flows f and g, of one dimension.
        loc: Where the latents start, with shape ``(D,)``.
        scale: Their standard deviation at the start.

    Example:
        >>> from pyro_nf import make_flow
        >>> stack = Stack([make_flow("planar", 3)], torch.zeros(3), 0.1)
        >>> stack(torch.randn(5, 3)).shape
        torch.Size([5, 3])
    """

    def __init__(self, flows: Sequence[Flow], loc: Tensor, scale: float) -> None:
        dim = len(loc)
        outer = len(list(itertools.takewhile(attrgetter("elementwise"), reversed(flows))))
        inner = len(flows) - outer
        affine, turn, whiten = Diag(dim), Whiten(dim), Whiten(dim)
        last = [turn, *flows[inner:]] if outer else []
        super().__init__([*flows[:inner], affine, *last, whiten, Hierarchy(dim)])
        self.inner = inner
        self.to(device=loc.device, dtype=loc.dtype)
        if outer:
            whiten.set(loc, torch.ones_like(loc))
            loc = torch.zeros_like(loc)
        with torch.no_grad():
            log_scale = torch.full_like(loc, math.log(scale))
            affine.params.theta.copy_(torch.cat([loc, log_scale]))

    @property
    def learned(self) -> list[Flow]:
        """The layers with parameters: the flows and the affine map."""
        return [flow for flow in self if not isinstance(flow, Whiten | Hierarchy)]

    @property
    def hierarchy(self) -> Hierarchy:
        """What makes u of coordinates in which latents do not depend on those above them."""
        *_, last = self
        return last

    @property
    def whitened(self) -> bool:
        """Whether it has been moved to other coordinates."""
        return self._whitening()[0].shift is not None

    @torch.no_grad()
    def move(self, shift: Tensor, scale_tril: Tensor) -> None:
        """Use the coordinates in which N(shift, scale_tril scale_tril') is standard normal.

        Where a hierarchy is set, they are those of what it makes u of.

        Arguments:
            shift: With shape ``(D,)``.
            scale_tril: A triangular matrix, with shape ``(D, D)``.
        """
        first, *rest = self._whitening()
        if rest:
            size = scale_tril.norm(dim=-1)
            first.set(torch.zeros_like(size), scale_tril / size.unsqueeze(-1))
            rest[0].set(shift, size)
        else:
            first.set(shift, scale_tril)
        self.learned[self.inner].params.theta.zero_()

    def _whitening(self) -> list[Whiten]:
        """One map, or two: that before flows which act on the model's own coordinates is first."""
        return [flow for flow in self if isinstance(flow, Whiten)]
