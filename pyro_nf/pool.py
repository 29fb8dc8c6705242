"""Draws of the posterior from which a guide learns, besides its own."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pyro_nf.chains import SETTLING, chains
from pyro_nf.diagnosis import resampled
from pyro_nf.distribution import Company
from pyro_nf.engines import traced_scores
from pyro_nf.explore import explore
from pyro_nf.flow import Flow
from pyro_nf.guide import AutoFlowGuide
from pyro_nf.runs import NUMERICS
from pyro_nf.step import Estimate
from pyro_nf.summits import MAX_DIM
from pyro_nf.target import Target

__all__ = ["Pool", "pool_of"]

BATCH = 128  # draws a step
MANY = 256  # of them where they alone are trained
MORE = 4  # times as many chains for several modes
WEIGHT = 4.0  # of the divergence, beside that of the ELBO
FAR = 10.0  # times the median of their gaps, from which a draw counts for no more
CHOICE = 4  # draws for each chain, from which its start is chosen
# Shares of the decay of the rate at which the chains go on, in better coordinates; they reach far
# arms of a posterior one after the other.
AGAIN = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
CHEAP = 500  # log densities of a point up to which they can do so each time, and not the last alone
LOOKS = 100  # draws for each dimension, which tell where a guide lies


class Pool:
    r"""The divergence KL(p || q) from a pool of posterior draws u.

    The ELBO's divergence KL(q || p) asks little for mass that q leaves out, this one much. Its
    gradient in the parameters of the flow, too, is one along paths, without noise at q = p:

    .. math:: E_p[(\nabla \log q(u) - \nabla \log p(u))^\top \partial_\theta f_\theta(x)],
        \qquad x = f_\theta^{-1}(u)

    References:
        Fast and unified path gradient estimators for normalizing flows (Vaitl et al., 2024)
        https://arxiv.org/abs/2403.15881

    Arguments:
        guide: A guide whose flow carries the score.
        target: The log density of the posterior.
        count: The number of chains that draw.

    Attributes:
        draws: The pool, with shape ``(n, D)``; None before there is one.
        slopes: The gradients of log p there, for one mode.
        modes: How many modes the posterior has, as far as is known.
        again: Shares of the decay of the rate, at which the pool is to be refilled.
    """

    def __init__(self, guide: AutoFlowGuide, target: Target, count: int) -> None:
        self.guide, self.target, self.count = guide, target, count
        self.draws: Tensor | None = None
        self.slopes: Tensor | None = None
        self.modes = 1
        self.again = AGAIN if target.size <= CHEAP else AGAIN[-1:]

    @property
    def several(self) -> bool:
        """Whether there are several modes."""
        return self.modes > 1

    @property
    def flow(self) -> Flow:
        """The flow from noise to u."""
        return self.guide.get_transform()

    def explore(self) -> None:
        """Fill the pool, and move the guide to its coordinates, if there are several modes."""
        if self.target.dim > MAX_DIM:
            return
        with torch.no_grad():
            draws = self.guide.get_posterior().sample(torch.Size([LOOKS * self.target.dim]))
        try:
            found = explore(self.target, draws.mean(0), _root(draws), MORE * self.count)
            if found is not None:
                starts, self.modes = found
                self.guide.move(starts.mean(0), _root(starts))
                self.draws = chains(self.target, self.flow, starts)
        except NUMERICS:  # numerics of the model, out there
            return

    def fill(self) -> None:
        """Fill the pool with draws of chains, from where the pool or else the guide is."""
        if self.draws is not None:
            starts = self.draws[torch.randperm(len(self.draws))[: MORE * self.count]]
            self.draws = chains(self.target, self.flow, starts)
            return
        posterior = self.guide.get_posterior()
        with torch.no_grad():
            choice = posterior.sample(torch.Size([CHOICE * self.count]))
            log_weights = self._density(choice) - posterior.log_prob(choice)
        self.draws, self.slopes = self._drawn(choice[resampled(log_weights, self.count)])

    def refill(self) -> None:
        """Let the chains go on, in the flow's coordinates of now.

        Where they do so several times, they need not settle again, and each time renews a half of
        the pool, since what the chains of one round say together is noisy. The pool is filled in
        place, since a traced step knows its tensors.
        """
        assert self.draws is not None  # filled before
        assert self.slopes is not None
        often = len(self.again) > 1
        draws, slopes = self._drawn(self.draws[-self.count :], 0 if often else SETTLING)
        if often:
            old = torch.randperm(len(draws) - self.count, device=draws.device)[: len(draws) // 2]
            draws[old], slopes[old] = self.draws[old], self.slopes[old]
        self.draws.copy_(draws)
        self.slopes.copy_(slopes)

    def _density(self, u: Tensor) -> Tensor:
        """The log density of the posterior; NaN at points with which the numerics fail."""
        try:
            return self.target(u)
        except NUMERICS:
            if len(u) == 1:
                return u.new_full((1,), math.nan)
        return torch.cat([self._density(part) for part in u.chunk(2)])

    def _drawn(self, starts: Tensor, settling: int = SETTLING) -> tuple[Tensor, Tensor]:
        """Draws of chains, their last states at the end, and the gradients of log p there."""
        draws = chains(self.target, self.flow, starts, settling)
        scores = traced_scores(self.target, starts)
        return draws, torch.cat([scores(part)[1] for part in draws.split(len(starts))])

    def objective(self, elbo: Callable[[], Estimate]) -> Estimate:
        r"""The ELBO's loss, and what has the gradient to follow, by some draws of the pool.

        Nothing in the gradients of densities tells the shares of several modes. For these it is
        the likelihood of the draws alone that is trained: the gradient of -log q(u) is that of

        .. math:: \log |\det J_f(x)| + s^\top f(x)

        at fixed x and fixed score s of q at u. The flow is not differentiated backwards.

        Along paths, one draw where the guide has next to no mass could outweigh all others. In
        the coordinates of x, where all places are alike, its gap is cut to some times the median.
        """
        assert self.draws is not None  # the callers have filled it
        batch = MANY if self.several else BATCH
        chosen = torch.randint(len(self.draws), (batch,), device=self.draws.device)
        flow = self.flow
        with torch.no_grad():
            x, _ = flow.inverse_and_log_det(self.draws[chosen])
        company = Company(x.requires_grad_(not self.several))
        self.guide.company = company
        try:
            loss, surrogate = elbo()
        finally:
            self.guide.company = None
        u, log_det, score = company.result
        assert surrogate is not None  # Trace_ELBO has one
        if self.several:
            return loss, (log_det + (score.detach() * u).sum(-1)).mean()
        assert self.slopes is not None  # filled with the draws
        gap = score.detach() - self.slopes[chosen]
        (of_x,) = torch.autograd.grad(u, x, gap, retain_graph=True)
        size = of_x.norm(dim=-1, keepdim=True)
        most = FAR * size.median() + torch.finfo(size.dtype).tiny  # for gaps of zero
        gap = gap * (most / size.clamp_min(most))
        return loss, surrogate + WEIGHT * (gap * u).sum(-1).mean()

    @torch.no_grad()
    def loss(self) -> float:
        """The divergence times its weight, up to a constant; 0 for an empty pool."""
        if self.draws is None:
            return 0.0
        x, log_det = self.flow.inverse_and_log_det(self.draws)
        # The inverse has the other sign: log q = log N(x) + log |det dx / du|.
        return WEIGHT * float((x.square().sum(-1) / 2 - log_det).mean())


def _root(draws: Tensor) -> Tensor:
    """The Cholesky factor of the covariance of draws, with shape ``(D, D)``."""
    return torch.linalg.cholesky(torch.cov(draws.T).reshape(draws.shape[-1], -1))


def pool_of(guide: AutoFlowGuide, target: Target, count: int) -> Pool | None:
    """A pool, still empty, if there can be one for this guide."""
    able = target.vectorized and guide.gradient == "path" and guide.get_transform().carries_score
    return Pool(guide, target, count) if able else None
