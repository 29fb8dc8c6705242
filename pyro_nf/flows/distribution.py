"""The distribution of a flow's output, which samples and scores in one pass."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_nf.flows.fixed_noise import fixed_noise
from pyro_nf.flows.flow import Conditioned, Flow

__all__ = ["FlowDistribution", "OwnSample"]


class OwnSample(TorchDistribution):
    """A distribution over vectors that scores a sample in the pass that makes it.

    The log density of the last sample waits here for the call of :meth:`log_prob` with that very
    tensor.

    Arguments:
        base: A normal distribution, from which samples are made.
        dim: The size of a sample.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, base: TorchDistribution, dim: int) -> None:
        self.base = base
        self._sample: tuple[Tensor, Tensor, bool] | None = None
        super().__init__(base.batch_shape, torch.Size([dim]), validate_args=False)

    @abstractmethod
    def _drawn(self, sample_shape: torch.Size) -> tuple[Tensor, Tensor]:
        """A reparametrised sample, and its log density."""

    @abstractmethod
    def _scored(self, value: Tensor) -> Tensor:
        """The log density at a value that is not the last sample."""

    @abstractmethod
    def fixed_draws(self) -> Tensor:
        """The same draws at each call, with shape ``(n, *batch_shape, D)``."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """A reparametrised sample, with shape ``(*sample_shape, *batch_shape, D)``."""
        y, log_prob = self._drawn(torch.Size(sample_shape))
        y = y.contiguous()  # Pyro's autoguides cut sites out of it with Tensor.view
        self._sample = y, log_prob, torch.is_grad_enabled()
        return y

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density at a value of shape ``(*, D)``, with shape ``(*,)``."""
        if self._sample is not None:
            sample, log_prob, with_grad = self._sample
            if value is sample and (with_grad or not torch.is_grad_enabled()):
                return log_prob
        return self._scored(value)

    @property
    def mean(self) -> Tensor:
        """The mean of :meth:`fixed_draws`, with shape ``(*batch_shape, D)``."""
        return self.fixed_draws().mean(0)

    @property
    def variance(self) -> Tensor:
        """The variance of :meth:`fixed_draws`; of tails so heavy that there is none, a number."""
        return self.fixed_draws().var(0, correction=0)


class FlowDistribution(OwnSample):
    r"""The distribution of :math:`y = f(x)`, with :math:`x` from a base distribution.

    .. math:: \log q(y) = \log p(x) - \log |\det \partial f / \partial x|

    A sample is scored in the pass that makes it: its log density waits here, in the
    distribution, for the call of :meth:`log_prob` with that very tensor. Other values are
    scored through the flow's inverse.

    With the base's score the gradient of that log density is the path's alone: the part of it
    through y. The rest has the expectation zero and its noise does not vanish when q is exact.

    References:
        Sticking the Landing (Roeder, Wu and Duvenaud, 2017)
        https://arxiv.org/abs/1703.09194

        Gradients should stay on Path (Vaitl, Nicoli, Nakajima and Kessel, 2022), in one pass
        https://arxiv.org/abs/2207.08219

    Arguments:
        base: A normal distribution over vectors, of independent coordinates.
        flow: The flow, its context fixed.
        score: The gradient of the base's log density, a function of x; None for the total
            gradient.

    Example:
        >>> import pyro.distributions as dist
        >>> from pyro_nf import make_flow
        >>> base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> q = FlowDistribution(base, make_flow("radial*4", 2))
        >>> q.log_prob(q.rsample((5,))).shape
        torch.Size([5])
    """

    def __init__(
        self,
        base: TorchDistribution,
        flow: Flow,
        score: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(base, base.event_shape[-1])
        self.flow = flow
        self.score = score

    def expand(self, batch_shape: Any, _instance: Any = None) -> "FlowDistribution":
        """The same distribution with a larger batch shape."""
        base = self.base.expand(torch.Size(batch_shape))
        return FlowDistribution(base, self.flow, self.score)

    def _drawn(self, sample_shape: torch.Size) -> tuple[Tensor, Tensor]:
        x = self.base.rsample(sample_shape)
        shape = x.shape
        if not isinstance(self.flow, Conditioned):  # products of matrices are quicker flat
            x = x.reshape(-1, shape[-1])
        score = None
        if self.score is None or not torch.is_grad_enabled():
            y, log_det = self.flow.forward_and_log_det(x)
        else:
            y, log_det, score = self.flow.forward_and_score(x, self.score(x))
        log_prob = self.base.log_prob(x.reshape(shape)) - log_det.reshape(shape[:-1])
        if score is not None:
            # Adds zero, whose gradient in y is the score.
            path = ((y - y.detach()) * score.detach()).sum(-1)
            log_prob = log_prob.detach() + path.reshape(shape[:-1])
        return y.reshape(shape), log_prob

    def fixed_draws(self) -> Tensor:
        """The same draws at each call, with shape ``(n, *batch_shape, D)``.

        They are quasi-random, 8,192 (1,024 in more than 4,096 dimensions), and take nothing from
        the caller's random state.
        """
        noise = fixed_noise(self.event_shape[-1]).to(self.base.mean)
        noise = noise.reshape(len(noise), *(1 for _ in self.batch_shape), -1)
        return self.flow.forward_and_log_det(self.base.mean + self.base.stddev * noise)[0]

    def _scored(self, value: Tensor) -> Tensor:
        x, log_det = self.flow.inverse_and_log_det(value)
        return self.base.log_prob(x) + log_det
