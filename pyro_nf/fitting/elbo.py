"""What an ELBO of Pyro's estimates, a loss and a surrogate that has its gradient, and of what."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from pyro.infer.traceenum_elbo import _compute_dice_elbo
from torch import Tensor

from pyro_nf.engines import enumerated_sum

__all__ = ["Estimate", "estimate", "parameters_of"]

Estimate = tuple[Tensor, Tensor | None]  # a loss, and what has its gradient


def estimate(
    elbo: ELBO,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Estimate:
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


def parameters_of(
    elbo: ELBO,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> dict[str, Tensor]:
    """The unconstrained parameters that one run of model and guide uses, each under one name."""
    with poutine.trace(param_only=True) as capture:
        elbo.loss(model, guide, *args, **kwargs)
    leaves: dict[int, tuple[str, Tensor]] = {}
    for name, site in capture.trace.nodes.items():
        value = site["value"]
        leaf = value.unconstrained() if hasattr(value, "unconstrained") else value
        if leaf.requires_grad:
            leaves.setdefault(id(leaf), (name, leaf))
    return dict(leaves.values())
