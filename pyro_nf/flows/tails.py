"""Tails: a map of each coordinate by itself, which makes its two tails heavier or lighter."""

import torch
from torch import Tensor
from torch.nn.functional import elu

from pyro_nf.flows.flow import Flow
from pyro_nf.flows.formula import register
from pyro_nf.flows.nets import Params

__all__ = ["Tails"]

SLOWLY = 0.2
LIGHTEST = 0.9  # the power 1 + c stays above 1 - LIGHTEST
BOUND = 100.0  # of q
NEWTONS = 9  # 8 end at rounding, for any weights and any y up to e^150
FAR = 2.0  # the largest log |x| to start from: beyond, log |y| is nearly straight


@register("tails")
class Tails(Flow):
    r"""Each coordinate by itself, its tails of a weight that is learned, the two sides apart.

    .. math::
        y = x\, (1 + x^2)^{c / 2}\, e^{h q / 2}, \qquad q = \frac{x^2}{1 + x^2 / 100}, \qquad
        \log \det = \sum_i \log \frac{y_i}{x_i}
        + \log\Bigl(1 + \frac{c_i x_i^2}{1 + x_i^2} + \frac{h_i q_i^2}{x_i^2}\Bigr)

    where q is the square of x as far as a normal x reaches, and bounded lest it overflow;
    :math:`c > -0.9` and :math:`h \ge 0`. From a normal x the power :math:`c > 0` makes tails
    like :math:`e^{-|y|^{2 / (1 + c)} / 2}` (those of a logistic or, in its logarithm, half-Cauchy
    variable for c = 1), and h those of Student's t with 1 / h degrees of freedom (Tukey's h).

    Both follow from two numbers in (-1, 1), none of which is ever without effect:
    :math:`h = \max(b, 0)` and :math:`c = \mathrm{elu}(a + \min(b, 0))`. They are tanh(0.2 t) of
    free numbers t, since tails magnify what an optimizer's step does to their weight.

    References:
        Flexible Tails for Normalizing Flows (Hickling and Prangle, 2024), on why they are needed
        https://arxiv.org/abs/2406.16971

        The h-distribution: Exploratory Data Analysis (Tukey, 1977)

    Arguments:
        dim: The dimension :math:`D`.
        context_dim: The size of a context on which the weights depend.

    Example:
        >>> flow = Tails(3)
        >>> x = torch.randn(5, 3)
        >>> torch.allclose(flow(x), x)
        True
    """

    elementwise = True

    def __init__(self, dim: int, context_dim: int = 0) -> None:
        super().__init__(dim, context_dim)
        self.params = Params(context_dim, left=torch.zeros(2, dim), right=torch.zeros(2, dim))

    def forward_and_log_det(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        log_stretch, excess = stretched(x, *self._weights(x, context))
        return x * log_stretch.exp(), (log_stretch + torch.log1p(excess)).sum(-1)

    def forward_and_score(
        self, x: Tensor, score: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        c, h = self._weights(x, context)
        log_stretch, excess = stretched(x, c, h)
        stretch = log_stretch.exp()
        with torch.no_grad():
            square, slope = x * x, 1 + excess
            inner, outer = 1 / (1 + square), 1 / (1 + square / BOUND)
            grow = c * inner + h * outer.square()  # d log_stretch / dx over x, and excess / x^2
            curve = c * inner.square() + h * outer**3 * (1 - square / BOUND)
            bend = x * (grow + 2 * curve / slope)
            score = (score - bend) / (stretch * slope)
        return x * stretch, (log_stretch + torch.log1p(excess)).sum(-1), score

    def inverse_and_log_det(
        self, y: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        c, h = self._weights(y, context)  # y has the sign of x
        root = solve(y.detach(), c.detach(), h.detach())
        log_stretch, excess = stretched(root, c, h)
        slope = (log_stretch.exp() * (1 + excess)).detach()
        # One step of Newton's, which leaves the root as it is and gives it its derivatives.
        x = root - (root * log_stretch.exp() - y) / slope
        log_stretch, excess = stretched(x, c, h)
        return x, -(log_stretch + torch.log1p(excess)).sum(-1)

    def _weights(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """The weights c and h, of the side on which each x lies."""
        left, right = (_weights(side) for side in self.params(context))
        c, h = (torch.where(x > 0, *pair) for pair in zip(right, left, strict=True))
        return c, h


def _weights(free: Tensor) -> tuple[Tensor, Tensor]:
    """The weights c and h of one side, from free numbers t."""
    a, b = torch.tanh(SLOWLY * free).unbind(-2)
    return elu(a + b.clamp_max(0.0), LIGHTEST), b.clamp_min(0.0)


def stretched(x: Tensor, c: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """The logarithm of y / x, and d log y / d log x - 1."""
    square = x * x
    share = 1 / (1 + square / BOUND)
    log_stretch = (c * torch.log1p(square) + h * square * share) / 2
    return log_stretch, square * (c / (1 + square) + h * share.square())


@torch.no_grad()
def solve(y: Tensor, c: Tensor, h: Tensor) -> Tensor:
    """The root x of the map, by Newton's method for log |x|, in which log |y| grows."""
    size = y.abs().clamp_min(torch.finfo(y.dtype).tiny).log()
    root = size.clamp_max(FAR)
    for _ in range(NEWTONS):
        log_stretch, excess = stretched(root.exp(), c, h)
        root = root - (root + log_stretch - size) / (1 + excess)
    return torch.copysign(root.exp(), y) * (y != 0)
