"""What a step estimates, and what must hold while it is traced."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from pyro.infer.traceenum_elbo import _compute_dice_elbo
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["NothingLeavesTheGraph", "estimate"]

# Functions that raise for a matrix without a factor, and those that tell of it instead.
CHECKED: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.linalg.cholesky: torch.linalg.cholesky_ex,
    torch.cholesky: torch.linalg.cholesky_ex,
    Tensor.cholesky: torch.linalg.cholesky_ex,
    torch.linalg.inv: torch.linalg.inv_ex,
    torch.inverse: torch.linalg.inv_ex,
    Tensor.inverse: torch.linalg.inv_ex,
    torch.linalg.solve: torch.linalg.solve_ex,
}


def estimate(
    elbo: ELBO,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> tuple[Tensor, Tensor | None]:
    """An ELBO's estimates of the loss and, for its gradient, the surrogate.

    The methods used are those that Pyro's own compiled ELBOs are made of. An ELBO that is not
    built on traces has its gradients accumulated, and None is returned for the surrogate.
    """
    if isinstance(elbo, TraceGraph_ELBO):
        value, surrogate = elbo._loss_and_surrogate_loss(model, guide, args, kwargs)
        return torch.as_tensor(-value), surrogate
    if isinstance(elbo, TraceEnum_ELBO):
        traces = list(elbo._get_traces(model, guide, args, kwargs))
        with enumerated_sum():
            loss = -sum(_compute_dice_elbo(*pair) for pair in traces) / elbo.num_particles
        return loss.detach(), loss
    if isinstance(elbo, Trace_ELBO):
        traces = elbo._get_traces(model, guide, args, kwargs)
        pairs = [elbo._differentiable_loss_particle(*pair) for pair in traces]
        loss, surrogate = (sum(part) / elbo.num_particles for part in zip(*pairs, strict=True))
        return torch.as_tensor(loss, dtype=surrogate.dtype).detach(), surrogate
    return torch.as_tensor(elbo.loss_and_grads(model, guide, *args, **kwargs)), None


class NothingLeavesTheGraph(TorchFunctionMode):
    """While a step is traced, losses stay tensors and nothing is validated.

    Pyro's ELBOs call ``loss.item()`` to add losses up. Distributions that were made while
    validation was on ask ``torch._is_all_true`` in spite of validation being off. The sum over
    enumerated sites would drop terms of no weight, if there were any; a graph cannot, and a step
    in which such a term is infinite is skipped. Factorizations that would raise for a matrix of
    no factor give NaN, and so the step is skipped, too.
    """

    summing = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.item:
            return args[0].detach()
        if func is torch._is_all_true:
            return torch.tensor(True)
        if func is Tensor.all and self.summing:
            return torch.tensor(True)
        if func in CHECKED:
            result, info = CHECKED[func](*args, **(kwargs or {}))
            sound = (info == 0).reshape(info.shape + (1,) * (result.dim() - info.dim()))
            return torch.where(sound, result, torch.nan)
        return func(*args, **(kwargs or {}))


@contextmanager
def enumerated_sum() -> Iterator[None]:
    """Tell the mode, if a step is traced, that no code of the model runs now."""
    NothingLeavesTheGraph.summing = True
    try:
        yield
    finally:
        NothingLeavesTheGraph.summing = False
