"""What an ELBO of Pyro's estimates, a loss and a surrogate that has its gradient, and of what."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import is_identically_zero
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from pyro.infer.traceenum_elbo import _compute_dice_elbo
from pyro.infer.util import is_validation_enabled
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match
from torch import Tensor

from pyro_nf.engines import NothingLeavesTheGraph, enumerated_sum
from pyro_nf.guides import flow_parts
from pyro_nf.model import Given, Many, Result, Values, by_vmap, cause, patiently
from pyro_nf.randomness import kept_random_state

__all__ = [
    "Estimate",
    "ManyParticles",
    "PlainSum",
    "estimate",
    "late_of",
    "not_of",
    "parameters_of",
    "parameters_seen",
]

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
    if isinstance(elbo, ManyParticles):
        return elbo.estimate(model, guide, args, kwargs)
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


class PlainSum(Trace_ELBO):
    """``Trace_ELBO`` for models whose batches stand in no plate: their log densities are summed.

    Pyro refuses such a site, since its estimate for draws without a gradient needs to know what is
    independent. Where the guide has none, the sum is right with plates or without.
    """

    _scores = False  # whether the guide has draws without a gradient

    def _get_trace(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> tuple[poutine.Trace, poutine.Trace]:
        if self._scores:
            return super()._get_trace(model, guide, args, kwargs)
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        replayed = poutine.replay(model, trace=guide_trace)
        model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
        if is_validation_enabled():
            check_model_guide_match(model_trace, guide_trace)
        traces = prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)
        traces[0].compute_log_prob()
        traces[1].compute_score_parts()
        drawn = [site for site in traces[1].nodes.values() if site["type"] == "sample"]
        if not all(is_identically_zero(site["score_parts"].score_function) for site in drawn):
            self._scores = True  # so that no later step runs both twice
            return super()._get_trace(model, guide, args, kwargs)
        return traces


class ManyParticles(Trace_ELBO):
    """``Trace_ELBO`` whose particles run together, each as if alone: the user never broadcasts.

    Arguments:
        num_particles: How many.
    """

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The loss by one particle."""
        return float(PlainSum().loss(model, guide, *args, **kwargs))

    def estimate(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> tuple[Tensor, Tensor]:
        """The means of the particles' losses and surrogates."""
        one = _one_particle(model, guide, args, kwargs)
        losses, found = by_vmap(one, self.num_particles, {}, tolerant=False)
        return losses.mean(), found["surrogate"].mean()

    @staticmethod
    def refusal(
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> str:
        """Why particles of this model and guide cannot run together; empty if they can."""

        def run(values: Values) -> poutine.Trace:
            return poutine.trace(Given(values)(model)).get_trace(*args, **kwargs)

        def joint(values: Values) -> Result:
            return torch.as_tensor(run(values).log_prob_sum()), {}

        def drawn() -> Values:
            trace = poutine.trace(guide).get_trace(*args, **kwargs)
            latents = {name: trace.nodes[name]["value"].detach() for name in trace.stochastic_nodes}
            joint(latents)
            return {name: value.unsqueeze(0) for name, value in latents.items()}

        density = Many(joint, tolerant=True)
        loss = Many(_one_particle(model, guide, args, kwargs), random=True, tolerant=True)
        with poutine.block():
            values = patiently(drawn)
            if density.decide(1, values):
                loss.decide(1, {})
            else:
                with torch.no_grad():
                    one = {name: value[0] for name, value in values.items()}
                    first, second = (patiently(lambda: run(one)) for _ in range(2))
                if first.log_prob_sum().nan_to_num() != second.log_prob_sum().nan_to_num():
                    return cause(first, one)
        return density.reason or loss.reason


def _one_particle(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Callable[[Values], Result]:
    """What `Trace_ELBO` estimates by one particle."""

    def one(_: Values) -> Result:
        with NothingLeavesTheGraph():
            loss, surrogate = estimate(PlainSum(), model, guide, args, kwargs)
        assert surrogate is not None  # this ELBO has one
        return loss, {"surrogate": surrogate}

    return one


def parameters_of(
    elbo: ELBO,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> dict[str, Tensor]:
    """The unconstrained parameters that one run of model and guide uses, each under one name."""
    return parameters_seen(lambda: elbo.loss(model, guide, *args, **kwargs))


def parameters_seen(run: Callable[[], Any]) -> dict[str, Tensor]:
    """The unconstrained parameters that a run uses, each under one name."""
    with poutine.trace(param_only=True) as capture:
        run()
    leaves: dict[int, tuple[str, Tensor]] = {}
    for name, site in capture.trace.nodes.items():
        value = site["value"]
        leaf = value.unconstrained() if hasattr(value, "unconstrained") else value
        if leaf.requires_grad:
            leaves.setdefault(id(leaf), (name, leaf))
    return dict(leaves.values())


def not_of(
    guide: Callable[..., Any],
    data: tuple[Sequence[Any], Mapping[str, Any]],
    leaves: Sequence[Tensor],
) -> list[int]:
    """The places of the parameters that a run of the guide does not use, and are the model's."""
    args, kwargs = data
    with kept_random_state():
        found = patiently(lambda: parameters_seen(lambda: guide(*args, **kwargs)))
    known = {id(leaf) for leaf in found.values()}
    return [place for place, leaf in enumerate(leaves) if id(leaf) not in known]


def late_of(guide: Callable[..., Any], leaves: Sequence[Tensor]) -> list[int]:
    """The places of the parameters that a guide learns once its flow is trained."""
    late = {id(leaf) for part in flow_parts(guide) for leaf in part.late}
    return [place for place, leaf in enumerate(leaves) if id(leaf) in late]
