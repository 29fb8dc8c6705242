"""Leapfrog steps through the density of the model, between a guide's noise and its flow."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_nf.flows import Flow, FlowDistribution, FlowMarginal, Params
from pyro_nf.model import (
    LogDensity,
    Target,
    differentiable_scores,
    has_slopes,
    patiently,
    through,
)

__all__ = ["Bridge", "Leapfrogs"]

LONGEST = 1.0  # step: of a standard normal density the leapfrog is stable up to 2
FIRST = 0.1  # step, of a new guide
QUICK = 5.0  # times as far as a parameter of a flow, an optimizer's step moves one of these
STEEPEST = 100.0  # number of a gradient, beyond which it is cut
TRIED = 4  # points at which the model's gradients are compared with its values
FAILED = 1000.0  # nats that a path must lose to have failed, and what it says of longer steps


class Bridge(nn.Module):
    r"""The numbers of K leapfrog steps from the noise of a guide to the posterior.

    .. math::
        h_k = \mathrm{sigmoid}(5 s_k), \qquad b_k = C_k / C_{K+1}, \quad
        C_k = \sum_{j \le k} \mathrm{softplus}(5 c_j), \qquad \eta = \mathrm{sigmoid}(5 m)

    The sizes h begin at 0.1, the inverse temperatures b at :math:`k / (K + 1)`, the persistence
    :math:`\eta` where it is set; it stays there if it is 0 or 1. By the factor of five they change
    more quickly than a flow's parameters, of one step of an optimizer's.

    Arguments:
        steps: The number K.
        persistence: That at the start.

    Attributes:
        target: The density that is followed; None where it is not known.
    """

    def __init__(self, steps: int, persistence: float) -> None:
        super().__init__()
        self.steps, self.persistence = steps, persistence
        sizes = torch.full((self.steps,), math.log(FIRST / (LONGEST - FIRST)) / QUICK)
        parts = {"size": sizes, "rise": torch.zeros(self.steps + 1)}
        if 0 < self.persistence < 1:
            parts["memory"] = torch.logit(torch.tensor([self.persistence])) / QUICK
        self.params = Params(0, **parts)
        self.target: Target | None = None
        self.train()

    def train(self, mode: bool = True) -> "Bridge":
        """As for any module, but that Pyro does not warn of parameters that are frozen."""
        self.training = False
        return self

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"target": None}  # neither the model nor the data

    def follow(self, target: Target) -> None:
        """Follow this density from now on, if it can be; else say why not."""
        if reason := why_not_followed(target):
            raise ValueError(f"hamiltonian={self.steps} follows the model's density: {reason}")
        self.target = target

    def distribution(
        self, flow: Flow, base: Callable[[Flow], TorchDistribution], path: bool
    ) -> FlowMarginal:
        """That of what a flow makes of where the steps lead.

        Arguments:
            flow: The flow.
            base: Makes the standard normal distribution that a flow starts from.
            path: Not asked for; the gradient is the total one.
        """
        if self.target is None:
            raise RuntimeError(
                "this guide follows a model, and neither model nor data are pickled with it; to "
                "draw, make it again, AutoFlowGuide(model, ...).setup(*args), and type "
                "load_state_dict(guide.state_dict())"
            )
        if torch.jit.is_tracing():  # type: ignore[attr-defined]
            raise NotImplementedError(
                "torch.jit.trace, and so JitTrace_ELBO, cannot follow a guide that asks the model "
                "for its gradients; type pyro_nf.fit(model, *args, guide=guide), which compiles "
                "its steps, or Trace_ELBO"
            )
        steps = Leapfrogs(flow, self, self.target)
        joint = FlowDistribution(base(steps), steps)
        return FlowMarginal(joint, flow.dim, partial(_normal, self.steps))

    def forward(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        r"""The sizes h and the b, of shape ``(K,)``; :math:`\eta` and
        :math:`\sqrt{1 - \eta^2}`, of shape ``(1,)``."""
        free, rise, *memory = (QUICK * part for part in self.params())
        total = softplus(rise).cumsum(0)
        if memory:
            keep, fresh = torch.sigmoid(memory[0]), torch.sigmoid(-memory[0])  # their sum is one
        else:
            keep = free.new_tensor([self.persistence])
            fresh = 1 - keep
        renewed = (fresh * (1 + keep)).sqrt()
        return LONGEST * torch.sigmoid(free), total[:-1] / total[-1], keep, renewed


class Leapfrogs(Flow):
    r"""K leapfrog steps in the base coordinates of a flow f, then f: a bijection of all the noise.

    With :math:`\tilde p(e) = p(f(e)) |\det J_f(e)|`, from :math:`x = (e_0, \rho_1, \xi_2, ...,
    \xi_K)`, for :math:`k = 1, ..., K`:

    .. math::
        \rho'_1 = \rho_1, \qquad (\rho'_k, \zeta_k) =
        (\eta \rho_{k-1} + \sigma \xi_k,\; \sigma \rho_{k-1} - \eta \xi_k),
        \qquad \sigma = \sqrt{1 - \eta^2}

    .. math::
        \rho_{k-1/2} = \rho'_k + \tfrac{h_k}{2} G_k(e_{k-1}), \quad
        e_k = e_{k-1} + h_k \rho_{k-1/2}, \quad
        \rho_k = \rho_{k-1/2} + \tfrac{h_k}{2} G_k(e_k)

    .. math:: G_k(e) = b_k \nabla \log \tilde p(e) - (1 - b_k)\, e

    and :math:`y = (u, a)` is :math:`u = f(e_K)`, :math:`a = (\rho_K, \zeta_2, ..., \zeta_K)`. The
    momentum is renewed in part by a reflection, and leapfrog steps keep volumes, so that
    :math:`\log \det = \log |\det J_f(e_K)|`. With :math:`r(a | u) = N(a; 0, I)` this is uncorrected
    Hamiltonian annealing along :math:`N(e; 0, I)^{1-b} \tilde p(e)^b`: for :math:`\eta = 0`
    Langevin steps, for :math:`\eta = 1` plain leapfrogs.

    A gradient is cut at 100 for each number, and is zero where it is not one: with any G the map is
    the same bijection. A path fails that loses 1,000 nats of its weight on the way, as where steps
    are unstable; its density is what it is, but of its gradient no more is left than that longer
    steps make it worse.

    References:
        Markov Chain Monte Carlo and Variational Inference: Bridging the Gap (Salimans, Kingma and
        Welling, 2015) https://arxiv.org/abs/1410.6460

        MCMC Variational Inference via Uncorrected Hamiltonian Annealing (Geffner and Domke, 2021)
        https://arxiv.org/abs/2107.04150

        Differentiable Annealed Importance Sampling (Zhang, Hsu, Li, Finn and Grosse, 2021)
        https://arxiv.org/abs/2107.10211

    Arguments:
        flow: The flow f, from R^D to R^D.
        bridge: The numbers.
        log_density: :math:`\log p(u)` for u of shape ``(n, D)``, which has two derivatives.
    """

    def __init__(self, flow: Flow, bridge: Bridge, log_density: LogDensity) -> None:
        super().__init__(flow.dim * (bridge.steps + 1))
        self.flow, self.bridge, self.log_density = flow, bridge, log_density

    def forward_and_log_det(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        e, *noise = self._parts(x)
        sizes, b, keep, renewed = self.bridge()
        first, slope = self._scores(e)
        value, speed, left = first, noise[0], []
        for k in range(self.bridge.steps):
            if k:
                speed, rest = _reflected(speed, noise[k], keep, renewed)
                left.append(rest)
            speed = speed + sizes[k] / 2 * _pull(e, slope, b[k])
            e = e + sizes[k] * speed
            value, slope = self._scores(e)
            speed = speed + sizes[k] / 2 * _pull(e, slope, b[k])
        left = [speed, *left]
        u, log_det = self.flow.forward_and_log_det(e)
        failed = ~(value - first + (_squares(noise) - _squares(left)) / 2 > -FAILED)
        longer = FAILED * sizes.log().mean()
        y = torch.cat([u, *left], -1)
        y = torch.where(failed.unsqueeze(-1), y.detach(), y)
        log_det = torch.where(failed, log_det.detach() + longer.detach() - longer, log_det)
        return y.reshape(x.shape), log_det.reshape(x.shape[:-1])

    def inverse_and_log_det(
        self, y: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        u, speed, *left = self._parts(y)
        sizes, b, keep, renewed = self.bridge()
        e, log_det = self.flow.inverse_and_log_det(u)
        _, slope = self._scores(e)
        noise: list[Tensor] = []
        for k in reversed(range(self.bridge.steps)):
            speed = speed - sizes[k] / 2 * _pull(e, slope, b[k])
            e = e - sizes[k] * speed
            _, slope = self._scores(e)
            speed = speed - sizes[k] / 2 * _pull(e, slope, b[k])
            if k:
                speed, fresh = _reflected(speed, left[k - 1], keep, renewed)
                noise.insert(0, fresh)
        x = torch.cat([e, speed, *noise], -1)
        return x.reshape(y.shape), log_det.reshape(y.shape[:-1])

    def _parts(self, x: Tensor) -> list[Tensor]:
        """The vectors of D numbers of which x is made, each with shape ``(n, D)``."""
        return list(x.reshape(-1, self.bridge.steps + 1, self.flow.dim).unbind(-2))

    def _scores(self, e: Tensor) -> tuple[Tensor, Tensor]:
        """The log density of e at b = 1, and its gradient, which is cut."""
        value, slope = differentiable_scores(through(self.flow, self.log_density), e)
        return value, slope.nan_to_num(0.0).clamp(-STEEPEST, STEEPEST)


def why_not_followed(target: Target) -> str:
    """Why leapfrog steps cannot follow a model's density, in words; empty where they can."""
    if target.random:
        return (
            "it differs from run to run, as that of a subsample of the data, of a site that the "
            "guide lacks (a discrete one, or one of another guide in a list), or of numbers that "
            "the model draws outside of pyro.sample"
        )
    with poutine.block(), torch.no_grad():
        nodes = patiently(lambda: target.trace(target.start))[0].nodes.values()
    for node in nodes:
        if node["type"] == "sample" and site_is_subsample(node):
            rows, size = len(node["value"]), node["fn"].size
            if rows < size:
                return (
                    f"the plate {node['name']!r} has {rows} of its {size} rows, of which the "
                    "gradients are those of another posterior, however small the steps; let it "
                    "have all its rows"
                )
    noise = torch.Generator().manual_seed(0)
    aside = torch.randn(TRIED, target.dim, generator=noise).to(target.start)
    if not has_slopes(target, target.start + aside / 2):
        return "it has no gradients, or not those of its values; keep to functions of torch"
    return ""


def _normal(parts: int, u: Tensor) -> TorchDistribution:
    """A standard normal distribution of so many times the numbers of u."""
    zeros = u.new_zeros(*u.shape[:-1], parts * u.shape[-1])
    return dist.Normal(zeros, torch.ones_like(zeros), validate_args=False).to_event(1)


def _reflected(
    speed: Tensor, noise: Tensor, keep: Tensor, renewed: Tensor
) -> tuple[Tensor, Tensor]:
    """A momentum that is renewed in part, and what is left of the noise; its own inverse."""
    return keep * speed + renewed * noise, renewed * speed - keep * noise


def _pull(e: Tensor, slope: Tensor, b: Tensor) -> Tensor:
    """The gradient of the log density at the inverse temperature b."""
    return b * slope - (1 - b) * e


def _squares(parts: Sequence[Tensor]) -> Tensor:
    """The squared length of vectors as one, with shape ``(n,)``."""
    return torch.cat(list(parts), -1).square().sum(-1)
