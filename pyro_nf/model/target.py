"""A model seen as one log density over one unconstrained vector."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide.guides import AutoContinuous
from torch import Tensor
from torch.distributions import biject_to

__all__ = ["Target", "plate_nesting", "takes_particles"]

PLATE = "_pyro_nf_target"


class Target:
    r"""The log density :math:`\log p(u, \mathrm{data})` of the latents that a guide packs into u.

    The Jacobians of the supports are included. Points are evaluated together, under a plate left
    of the model's own; for a model that this would change, one by one.

    Arguments:
        guide: An autoguide that has been set up.
        args: What the model takes.
        kwargs: What the model takes.

    Attributes:
        dim: The dimension D of u.
        start: A point of positive density, where the guide starts.
        vectorized: Whether points are evaluated together.
        random: Whether the density is: of a subsample of the data, or of discrete latents that
            the guide does not know.
    """

    def __init__(
        self,
        guide: AutoContinuous,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.guide, self.args, self.kwargs = guide, tuple(args), dict(kwargs or {})
        self.dim: int = guide.latent_dim
        self.vectorized = False
        start = self.start = guide._init_loc().detach()
        self.nesting = _nesting(self.trace(start))
        with torch.no_grad():
            self.random = bool(self(start) != self(start))
        self.vectorized = not self.random and self._can_vectorize(start)

    def __call__(self, u: Tensor) -> Tensor:
        """The log density at the points u.

        Arguments:
            u: With shape ``(D,)`` or ``(n, D)``.

        Returns:
            With shape ``()`` or ``(n,)``.
        """
        if u.dim() == 1:
            return self._log_joint(u, 1)[0]
        if not self.vectorized:
            return torch.stack([self._log_joint(row, 1)[0] for row in u])
        return self._log_joint(u.reshape(len(u), *(1,) * self.nesting, self.dim), len(u))

    def _log_joint(self, u: Tensor, count: int) -> Tensor:
        """The log density of each of `count` points, with shape ``(count,)``."""
        trace = self.trace(u)
        trace.compute_log_prob()
        total = u.new_zeros(count)
        for site, free in self.guide._unpack_latent(u):
            support = biject_to(site["fn"].support)
            log_det = support.log_abs_det_jacobian(free, support(free))
            total = total + log_det.reshape(count, -1).sum(-1)
        for node in trace.nodes.values():
            if node["type"] == "sample":
                log_prob = node["log_prob"]
                shared = log_prob.dim() <= self.nesting or count == 1
                total = total + (log_prob.sum() if shared else log_prob.reshape(count, -1).sum(-1))
        return total

    def trace(self, u: Tensor) -> poutine.Trace:
        """A run of the model with these latents, or of as many as u has rows.

        Arguments:
            u: With shape ``(D,)`` or ``(n, 1, ..., 1, D)``, a one for each plate.
        """
        values = {
            site["name"]: biject_to(site["fn"].support)(free)
            for site, free in self.guide._unpack_latent(u)
        }
        # Together under a plate as Pyro's ELBOs have one for particles, so that a model which it
        # changes is found out; inside the block, which hides what is outside.
        together = u.dim() > 1
        plate = pyro.plate(PLATE, len(u), dim=-1 - self.nesting) if together else nullcontext()
        with poutine.block(), plate:
            model = poutine.condition(self.guide.model, values)
            return poutine.trace(model).get_trace(*self.args, **self.kwargs)

    @torch.no_grad()
    def _can_vectorize(self, start: Tensor) -> bool:
        """Whether points evaluated together come out as they do one by one."""
        points = torch.stack([start, start + 0.01 * (1 + start.abs())])
        singly = torch.stack([self(point) for point in points])
        try:
            self.vectorized = True
            together = self(points)
        except Exception:  # a user's code under a plate that it did not foresee
            return False
        return together.shape == singly.shape and torch.allclose(together, singly, rtol=1e-4)


def plate_nesting(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> int:
    """The number of batch dimensions that the plates of a model and a guide use."""
    return max(map(_nesting, _both(model, guide, args, kwargs)))


@torch.no_grad()
def takes_particles(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    nesting: int,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> bool:
    """Whether a model under a plate of two particles has the density of the two one by one."""
    try:
        _, together = _both(model, guide, args, kwargs, pyro.plate(PLATE, 2, dim=-1 - nesting))
        total = together.log_prob_sum()
        singly = 0.0
        for particle in range(2):
            alone = _particle(together, particle, nesting)
            with poutine.block():
                trace = poutine.trace(poutine.replay(model, trace=alone)).get_trace(*args, **kwargs)
            singly = singly + trace.log_prob_sum()
    except Exception:  # a user's code under a plate that it did not foresee
        return False
    return bool(torch.isclose(torch.as_tensor(total), torch.as_tensor(singly), rtol=1e-4))


def _both(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    plate: AbstractContextManager[Any] | None = None,
) -> tuple[poutine.Trace, poutine.Trace]:
    """One run of a guide, and of the model with its values, under a plate perhaps."""
    with poutine.block():
        with plate or nullcontext():
            guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        with plate or nullcontext():
            replayed = poutine.replay(model, trace=guide_trace)
            return guide_trace, poutine.trace(replayed).get_trace(*args, **kwargs)


def _particle(trace: poutine.Trace, particle: int, nesting: int) -> poutine.Trace:
    """What was drawn in a run under a plate of particles, of one of these."""
    alone = poutine.Trace()
    for name, node in trace.nodes.items():
        if node["type"] != "sample" or node["is_observed"]:
            continue
        value = node["value"]
        dim = -1 - nesting - getattr(node["fn"], "event_dim", 0)  # a plate's subsample has none
        if value.dim() >= -dim:
            value = value.select(dim, particle % value.shape[dim])
        alone.add_node(name, **(node | {"value": value}))
    return alone


def _nesting(trace: poutine.Trace) -> int:
    frames = [f for node in trace.nodes.values() for f in node.get("cond_indep_stack", ())]
    return max((-frame.dim for frame in frames if frame.vectorized), default=0)
