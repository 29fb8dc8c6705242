"""What the default call trains: the ELBO by draws a bit too wide, later beside those of a pool."""

import math

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_nf.fitting.elbo import Estimate
from pyro_nf.fitting.recipe import Recipe
from pyro_nf.flows import Flow
from pyro_nf.model import LogDensity

__all__ = ["beside", "drawn", "wide"]


def drawn(log_density: LogDensity, posterior: Distribution, particles: int) -> Estimate:
    r"""The ELBO's loss by draws u of a guide, :math:`\log q(u) - \log p(u)`, and itself to follow.

    Arguments:
        log_density: That of the posterior, not normalized.
        posterior: The guide's distribution of u.
        particles: The number of draws.
    """
    u = posterior.rsample(torch.Size([particles]))
    loss = (posterior.log_prob(u) - log_density(u)).mean()
    return loss.detach(), loss


def wide(log_density: LogDensity, flow: Flow, particles: int, recipe: Recipe) -> Estimate:
    r"""The ELBO's loss, and what has a gradient to follow, by draws wider than the guide's.

    The path gradient of the ELBO asks at each draw for the gap of the two scores to vanish:

    .. math:: E[(\nabla \log q(u) - \nabla \log p(u))^\top \partial_\theta f_\theta(x)],
        \qquad u = f_\theta(x)

    At q = p it does, wherever x comes from; and where the guide's own draws are rare, in the
    tails, the importance weights are decided. So x is w times a standard normal draw, w a little
    above one. The loss is that of the guide's own draws all the same: with the ratio r of normal
    to wide densities,

    .. math:: \bar l + \frac{1}{n - 1} \sum_i r_i (l_i - \bar l), \qquad
        r = \frac{w^D N(x)}{N(x / w)}, \qquad l = \log q(u) - \log p(u),

    which is unbiased, and without noise at q = p.

    Arguments:
        log_density: That of the posterior, not normalized.
        flow: The flow f, which carries the score.
        particles: The number of draws; a single one is not widened.
        recipe: How wide they are.
    """
    width = 1 + recipe.wider / math.sqrt(flow.dim) if particles > 1 else 1.0
    normal = _normal(flow, particles)
    x = width * normal
    u, log_det, score = flow.forward_and_score(x, -x)
    losses, surrogate = _own(log_density, x, u, log_det, score)
    ratios = (flow.dim * math.log(width) + (normal.square() - x.square()).sum(-1) / 2).exp()
    mean = losses.mean()
    # Less one, since each deviation is from a mean of which it is a part.
    loss = mean + (ratios * (losses - mean)).sum() / max(particles - 1, 1)
    return loss, surrogate


def beside(
    log_density: LogDensity,
    flow: Flow,
    particles: int,
    draws: Tensor,
    slopes: Tensor | None,
    recipe: Recipe,
) -> Estimate:
    r"""The ELBO's loss, and what has a gradient to follow, with draws u of the posterior.

    For one mode it is that of the ELBO by the guide's own draws and of the divergence KL(p || q),
    which asks much for mass that q leaves out, also along paths:

    .. math:: E_p[(\nabla \log q(u) - \nabla \log p(u))^\top \partial_\theta f_\theta(x)],
        \qquad x = f_\theta^{-1}(u)

    One draw where the guide has next to no mass could outweigh all others. In the coordinates of
    x, where all places are alike, its gap is cut to some times the median.

    Nothing in the gradients of densities tells the shares of several modes. For these it is the
    likelihood of the draws alone that is trained: the gradient of -log q(u) is that of

    .. math:: \log |\det J_f(x)| + s^\top f(x)

    at fixed x and fixed score s of q at u. The flow is not differentiated backwards.

    References:
        Fast and unified path gradient estimators for normalizing flows (Vaitl et al., 2024)
        https://arxiv.org/abs/2403.15881

    Arguments:
        log_density: That of the posterior, not normalized.
        flow: The flow f, which carries the score.
        particles: The number of the guide's own draws.
        draws: Draws of the posterior, with shape ``(n, D)``.
        slopes: The gradients of log p there; None for a posterior of several modes.
        recipe: How many of them a step takes, and what they count for.
    """
    count = particles * (recipe.pool_draws_alone if slopes is None else recipe.pool_draws)
    chosen = torch.randint(len(draws), (count,), device=draws.device)
    with torch.no_grad():
        x, _ = flow.inverse_and_log_det(draws[chosen])
    x.requires_grad_(slopes is not None)
    own = _normal(flow, particles)
    rows = torch.cat([own, x])  # one pass for both
    u, log_det, score = flow.forward_and_score(rows, -rows)
    first, rest = slice(particles), slice(particles, None)
    losses, surrogate = _own(log_density, own, u[first], log_det[first], score[first])
    if slopes is None:
        surrogate = (log_det[rest] + (score[rest].detach() * u[rest]).sum(-1)).mean()
        return losses.mean(), surrogate
    gap = score[rest].detach() - slopes[chosen]
    (of_x,) = torch.autograd.grad(u[rest], x, gap, retain_graph=True)
    size = of_x.norm(dim=-1, keepdim=True)
    most = recipe.far * size.median() + torch.finfo(size.dtype).tiny  # for gaps of zero
    gap = gap * (most / size.clamp_min(most))
    return losses.mean(), surrogate + recipe.pool_weight * (gap * u[rest]).sum(-1).mean()


def _normal(flow: Flow, count: int) -> Tensor:
    like = next(flow.parameters())
    return torch.randn(count, flow.dim, dtype=like.dtype, device=like.device)


def _own(
    log_density: LogDensity, x: Tensor, u: Tensor, log_det: Tensor, score: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss of each draw, without a gradient, and a surrogate with that along paths."""
    log_prob = log_density(u)
    log_base = -(x.square() + math.log(2 * math.pi)).sum(-1) / 2
    losses = (log_base - log_det - log_prob).detach()
    return losses, ((score.detach() * u).sum(-1) - log_prob).mean()
