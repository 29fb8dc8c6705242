"""What is found out of a model and a guide before anything else: by one run of each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide.guides import AutoGuide
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyro_nf.model import (
    Given,
    Values,
    enumerable,
    factors,
    is_computed,
    sum_out,
    support_of,
)
from pyro_nf.posterior.joint import Facts, Joint, Latent, chunk_size, is_latent
from pyro_nf.randomness import kept_random_state

__all__ = ["look"]


def look(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Facts:
    """Run a guide, and its model with that draw, and see what they are.

    A guide that has never been trained is refused, as is one of another model. Nothing is left in
    Pyro's parameter store.

    Arguments:
        model: A Pyro model.
        guide: A trained Pyro guide for it.
        args: What both take.
        kwargs: What both take.
    """
    if isinstance(guide, AutoGuide) and guide.prototype_trace is None:
        raise ValueError(
            f"this {type(guide).__name__} has never run, so it has nothing to draw from; train "
            "it first, by pyro_nf.fit(model, *args, guide=guide) or by Pyro's SVI"
        )
    store = pyro.get_param_store()
    before = store.get_state()
    scope = store.scope({key: dict(value) for key, value in before.items()})
    with torch.no_grad(), kept_random_state(), scope:
        known = _module_parameters(guide)
        drawn = Joint.trace_guide(guide, args, kwargs)
        latent = {name: node["value"] for name, node in drawn.nodes.items() if is_latent(node)}
        given = Given(latent)
        run = poutine.trace(given(model)).get_trace(*args, **kwargs)
        _check_shapes(latent, run, given.misfits)
        used = [n for trace in (drawn, run) for n in trace.nodes if n in store]
        fresh = [name for name in used if name not in before["params"] and _is_fresh(name)]
        _check_trained(fresh + sorted(_module_parameters(guide) - known))
        state = store.get_state()
        parameters = {k: {n: v[n] for n in used if n in v} for k, v in state.items()}
        facts = _facts(latent, drawn, run, parameters)
        discrete = [name for name in facts.from_prior if enumerable(run.nodes[name])]
        if discrete:
            out = sum_out(model, run, sorted(discrete), args, kwargs, facts.latents)
            from_prior = facts.from_prior - out.names
            facts = replace(facts, from_prior=from_prior, without_discrete=out)
            apart = Joint(model, guide, args, kwargs, facts).trace_model(latent, args, kwargs)[1]
            assert apart is not None  # there are discrete sites
            room = chunk_size(list(factors(apart, out.nesting).values()))
            facts = replace(facts, chunk=min(facts.chunk, room))
    return facts


def _facts(
    latent: Values, drawn: poutine.Trace, run: poutine.Trace, parameters: dict[str, Any]
) -> Facts:
    """What the traces of a guide and its model tell."""
    nodes = {name: node for name, node in run.nodes.items() if node["type"] == "sample"}
    free = {name: node for name, node in nodes.items() if is_latent(node)}
    sites = {name: node for name, node in nodes.items() if not site_is_subsample(node)}
    plates = {name: node for name, node in nodes.items() if site_is_subsample(node)}
    return Facts(
        latents=_latents(latent, free),
        observed={
            name: node["value"]
            for name, node in nodes.items()
            if node["is_observed"] and not is_computed(node)
        },
        computed=frozenset(n for n in nodes if nodes[n]["infer"].get("_deterministic")),
        dims={name: _dims(name, node, frozenset(sites)) for name, node in sites.items()},
        from_prior=frozenset(free) - frozenset(latent),
        partial={
            name: (len(node["value"]), node["fn"].size)
            for name, node in plates.items()
            if len(node["value"]) < node["fn"].size
        },
        chunk=_chunk(drawn, run),
        parameters=parameters,
    )


def _latents(latent: Values, free: Mapping[str, Any]) -> dict[str, Latent]:
    """The latent sites that guide and model share."""
    shared = {
        name: Latent(value.shape, value.dtype, value.device, support_of(free[name]["fn"]))
        for name, value in latent.items()
        if name in free
    }
    if not shared:
        raise ValueError(
            f"the guide and the model share no latent site: the guide has {sorted(latent)}, "
            f"the model {sorted(free)}; give the model that the guide was trained for"
        )
    return shared


def _chunk(drawn: poutine.Trace, run: poutine.Trace) -> int:
    """How many draws may run together, by what the traces of one hold."""
    run.compute_log_prob()
    nodes = [node for node in run.nodes.values() if node["type"] == "sample"]
    tensors = [node[key] for node in nodes for key in ("value", "log_prob")]
    tensors += [node["value"] for node in drawn.nodes.values() if node["type"] == "sample"]
    return chunk_size([tensor for tensor in tensors if isinstance(tensor, Tensor)])


def _dims(name: str, node: Mapping[str, Any], sites: frozenset[str]) -> list[str]:
    """Names for the batch dimensions of a site: its plates', where no site has such a name."""
    count = len(getattr(node["fn"], "batch_shape", ()))
    plates = {frame.dim: frame.name for frame in node["cond_indep_stack"] if frame.vectorized}
    names = [plates.get(dim, name) for dim in range(-count, 0)]
    return [f"{name}_dim_{place}" if plate in sites else plate for place, plate in enumerate(names)]


def _module_parameters(guide: Callable[..., Any]) -> set[str]:
    return {n for n, _ in guide.named_parameters()} if isinstance(guide, nn.Module) else set()


def _check_shapes(latent: Values, run: poutine.Trace, misfits: set[str]) -> None:
    for name in sorted(misfits):
        here, there = tuple(latent[name].shape), tuple(run.nodes[name]["fn"].shape())
        raise ValueError(
            f"the guide draws {name!r} with shape {here}, but in the model it has shape {there}; "
            "give the guide the same plates and shapes as the model"
        )


def _is_fresh(name: str) -> bool:
    """Whether a new entry of the store was made there; a module's parameter only enters it."""
    return not isinstance(pyro.get_param_store()[name].unconstrained(), nn.Parameter)


def _check_trained(fresh: Sequence[str]) -> None:
    if fresh:
        raise ValueError(
            f"there were no parameters {', '.join(map(repr, fresh))} before this run, so guide or "
            "model have never run, or Pyro's parameter store has been cleared since; train them "
            "first, or type Posterior.load(path, model, *args, guide=guide)"
        )
