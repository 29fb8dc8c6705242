"""Auxiliary variables: a flow of more numbers than there are latents, and a reverse model."""

from collections.abc import Callable
from functools import partial

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_nf.flows import MLP, Chain, Embedded, Flow, FlowDistribution, FlowMarginal
from pyro_nf.guides.layers import Stack
from pyro_nf.model import Target, through
from pyro_nf.sampling import MAX_DIM, all_modes, root_of

__all__ = ["Auxiliary", "over_modes"]

HIDDEN = (32, 32)
DRAWS = 100  # for each dimension, from around which climbs start
KEPT = 1024  # draws of all modes, which tell where these lie
WIDEST = 3.0  # logarithm of a reverse model's standard deviation, and of its inverse


class Auxiliary(nn.Module):
    r"""A flow on D + A numbers, of which the last A are noise that a reverse model tells from u.

    .. math:: (v, a) = F(x), \qquad x \sim N(0, I_{D + A}), \qquad u = h(v)

    .. math::
        r(a | u) = N(a; m(v), e^{2 s(v)}), \qquad
        \log q(u, a) = \log N(x) - \log |\det J_F(x)| - \log |\det J_h(v)|

    with the guide's coordinates h, and networks m and s that begin near zero; s stays between -3
    and 3. Both are trained by the bound. The marginal of u need not be what one bijection of R^D
    makes of noise: it may have several modes, or a hole.

    References:
        Hierarchical Variational Models (Ranganath, Tran and Blei, 2016)
        https://arxiv.org/abs/1511.02386

        Auxiliary Deep Generative Models (Maaloe, Soenderby, Soenderby and Winther, 2016)
        https://arxiv.org/abs/1602.05473

        VFlow: More Expressive Generative Flows with Variational Data Augmentation (Chen, Lu,
        Chenli, Zhu and Tian, 2020) https://arxiv.org/abs/2002.09741

    Arguments:
        flow: The flow F.
        dim: The number D.
    """

    def __init__(self, flow: Flow, dim: int) -> None:
        super().__init__()
        self.dim, self.flow = dim, flow
        self.reverse = MLP(dim, 2 * (flow.dim - dim), HIDDEN)
        self.train()

    def train(self, mode: bool = True) -> "Auxiliary":
        """As for any module, but that Pyro does not warn of parameters that are frozen."""
        super().train(mode)
        self.training = False
        return self

    def distribution(
        self, flow: Flow, base: Callable[[Flow], TorchDistribution], path: bool
    ) -> FlowMarginal:
        """That of u.

        Arguments:
            flow: What makes u of v.
            base: Makes the standard normal distribution that a flow starts from.
            path: Whether its gradient is that along paths, where the flows carry the score.
        """
        rest = Embedded(flow, range(self.dim), self.flow.dim)
        both = Chain([self.flow, rest.to(next(flow.parameters()).device)])
        score = torch.neg if path and both.carries_score else None
        joint = FlowDistribution(base(both), both, score)
        return FlowMarginal(joint, self.dim, partial(self._reverse, flow))

    def _reverse(self, flow: Flow, u: Tensor) -> TorchDistribution:
        """The reverse model r, for u of shape ``(*, D)``."""
        v, _ = flow.inverse_and_log_det(u)
        mean, free = self.reverse(v).chunk(2, -1)
        spread = (WIDEST * torch.tanh(free / WIDEST)).exp()
        return dist.Normal(mean, spread, validate_args=False).to_event(1)


def over_modes(stack: Stack, target: Target) -> None:
    """Move a guide's coordinates to those of all modes that climbs find, if they find several.

    Where it starts at one of them, its bound has no slope that leads to the others.

    Arguments:
        stack: What makes u of noise.
        target: The log density of u.
    """
    if not target.vectorized or target.dim > MAX_DIM:
        return
    hierarchy = stack.hierarchy
    with torch.no_grad():
        noise = torch.randn(DRAWS * target.dim, target.dim).to(target.start)
        free = hierarchy.inv(stack(noise))
    free, modes = all_modes(through(hierarchy, target), free, KEPT)
    if modes > 1:
        stack.move(free.mean(0), root_of(free))
