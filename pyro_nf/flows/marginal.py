"""The distribution of a part of a flow's output, of which the rest is noise."""

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_nf.flows.distribution import FlowDistribution, OwnSample

__all__ = ["FlowMarginal"]

REVERSED = 16  # values of the noise by which the log density of a given value is estimated


class FlowMarginal(OwnSample):
    r"""The distribution of u alone, of :math:`(u, a) = F(x)`, with x from a base distribution.

    Its density is an integral over the noise a. A sample has the effective log density

    .. math:: L = \log q(u, a) - \log r(a | u), \qquad E[L | u] \ge \log q(u)

    in place of it, with a reverse model r that may be any; the nearer it is to :math:`q(a | u)`,
    the smaller is the gap. So :math:`E[\log p(u) - L]` is a lower bound on :math:`\log Z`, and the
    weights :math:`e^{\log p(u) - L}` have the mean Z.

    The log density of another value is an estimate, another at each call, of which the exponential
    is right on average, and which is itself too low on average:

    .. math:: \log \frac{1}{16} \sum_{i=1}^{16} \frac{q(u, a_i)}{r(a_i | u)}, \qquad
        a_i \sim r(a | u)

    References:
        An Auxiliary Variational Method (Agakov and Barber, 2004)
        https://doi.org/10.1007/978-3-540-30499-9_86

        Hierarchical Variational Models (Ranganath, Tran and Blei, 2016)
        https://arxiv.org/abs/1511.02386

    Arguments:
        joint: The distribution of both, vectors of which the first D numbers are u.
        dim: The number D.
        reverse: The reverse model: from u of shape ``(*, D)`` a distribution of a.

    Example:
        >>> import pyro.distributions as dist
        >>> from pyro_nf import FlowDistribution, make_flow
        >>> normal = dist.Normal(torch.zeros(3), 1.0).to_event(1)
        >>> joint = FlowDistribution(normal, make_flow("radial*4", 3))
        >>> def reverse(u):
        ...     return dist.Normal(torch.zeros_like(u[..., :1]), 1.0).to_event(1)
        >>> q = FlowMarginal(joint, 2, reverse)
        >>> u = q.rsample((5,))
        >>> u.shape, q.log_prob(u).shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    def __init__(
        self,
        joint: FlowDistribution,
        dim: int,
        reverse: Callable[[Tensor], TorchDistribution],
    ) -> None:
        super().__init__(joint.base, dim)
        self.joint, self.dim, self.reverse = joint, dim, reverse

    def expand(self, batch_shape: Any, _instance: Any = None) -> "FlowMarginal":
        """The same distribution with a larger batch shape."""
        return FlowMarginal(self.joint.expand(batch_shape), self.dim, self.reverse)

    def _drawn(self, sample_shape: torch.Size) -> tuple[Tensor, Tensor]:
        both = self.joint.rsample(sample_shape)
        u, a = both[..., : self.dim], both[..., self.dim :]
        return u, self.joint.log_prob(both) - self.reverse(u).log_prob(a)

    def fixed_draws(self) -> Tensor:
        return self.joint.fixed_draws()[..., : self.dim]

    def _scored(self, value: Tensor) -> Tensor:
        u = value.expand(REVERSED, *value.shape)
        reverse = self.reverse(u)
        a = reverse.rsample()
        log_ratio = self.joint.log_prob(torch.cat([u, a], -1)) - reverse.log_prob(a)
        return log_ratio.logsumexp(0) - math.log(REVERSED)
