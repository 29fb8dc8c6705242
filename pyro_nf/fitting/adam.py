"""Adam over all parameters at once, in operations on tensors that can be traced."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Adam"]


class Adam:
    """Adam, which leaves everything as it is where a loss or a gradient is not finite.

    Written out, so that a whole step is one graph, of which the learning rate is an input.

    References:
        Adam: A Method for Stochastic Optimization (Kingma and Ba, 2015)
        https://arxiv.org/abs/1412.6980

    Arguments:
        leaves: The parameters.
        betas: What is kept at a step of the moving averages, of the gradients and their squares.
        epsilon: What keeps from dividing by zero.
        longest: The longest gradient, in root mean squares of those before.

    Attributes:
        mean: The moving average of the gradients, with shape ``(P,)``.
        square: That of their squares.
        count: The number of updates, a scalar.
        lr: The learning rate, a scalar to fill.
        rates: What it is times for each parameter, with shape ``(P,)``; None for one.
    """

    def __init__(
        self, leaves: Sequence[Tensor], betas: tuple[float, float], epsilon: float, longest: float
    ) -> None:
        self.leaves, self.betas, self.epsilon, self.longest = leaves, betas, epsilon, longest
        like = leaves[0]
        dtype = torch.result_type(torch.zeros((), dtype=torch.float32), like)
        size = sum(leaf.numel() for leaf in leaves)
        self.mean = torch.zeros(size, dtype=dtype, device=like.device)
        self.square = torch.zeros_like(self.mean)
        self.count = torch.zeros((), dtype=dtype, device=like.device)
        self.lr = torch.zeros_like(self.count)
        self.rates: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        """The state: mean, square and count."""
        return [self.mean, self.square, self.count]

    def state(self) -> list[Tensor]:
        """A copy of the state."""
        return [tensor.clone() for tensor in self.tensors()]

    def reset(self, state: Sequence[Tensor] | None = None) -> None:
        """Set the state, or forget it."""
        for tensor, value in zip(self.tensors(), state or [torch.zeros(())] * 3, strict=True):
            tensor.copy_(value.expand_as(tensor))

    def mean_after(self, gradient: Tensor) -> Tensor:
        """What :attr:`mean` would be after an update by a finite gradient."""
        kept = gradient * self._factor(torch.linalg.vector_norm(gradient))
        return self.mean + (1 - self.betas[0]) * (kept - self.mean)

    @torch.no_grad()
    def update(self, loss: Tensor, gradient: Tensor) -> Tensor:
        """Adam's update in place, and the loss; nothing and NaN where something is not finite.

        The memory of the gradient is used up.
        """
        size = torch.linalg.vector_norm(gradient)
        fine = (torch.isfinite(loss) & torch.isfinite(size)).to(self.mean.dtype)
        of_mean, of_square = self.betas
        count = self.count + 1
        rate = fine * self.lr / (1 - of_mean**count)
        root = (1 - of_square**count).rsqrt()
        # In place: with millions of parameters, memory that is asked for anew costs ten passes.
        gradient.nan_to_num_(0.0, 0.0, 0.0).mul_(self._factor(size))
        self.mean.lerp_(gradient, fine * (1 - of_mean))
        self.square.lerp_(gradient.mul_(gradient), fine * (1 - of_square))
        change = gradient.copy_(self.square).sqrt_().mul_(root).add_(self.epsilon)
        change.reciprocal_().mul_(self.mean).mul_(rate)
        if self.rates is not None:
            change.mul_(self.rates)
        for leaf, part in zip(
            self.leaves, change.split([leaf.numel() for leaf in self.leaves]), strict=True
        ):
            leaf.sub_(part.reshape(leaf.shape).to(leaf.dtype))
        self.count.add_(fine)
        return torch.where(fine > 0, loss, torch.nan).detach()

    def _factor(self, size: Tensor) -> Tensor:
        """How much of a gradient of some length is kept: one wild draw is one draw."""
        of_square = self.betas[1]
        usual = self.square.sum() / (1 - of_square**self.count)  # NaN before the first step
        factor = self.longest * usual.sqrt() / size
        return torch.where(factor < 1, factor, 1.0)
