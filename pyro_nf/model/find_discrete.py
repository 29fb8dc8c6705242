"""The discrete latent sites of a model, and the sentence where they cannot be summed out."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide.initialization import InitMessenger, init_to_sample
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import Independent, biject_to

from pyro_nf.model import sites
from pyro_nf.model.bijections import support_of
from pyro_nf.model.discrete import SummedOut
from pyro_nf.model.enumeration import factors, letters
from pyro_nf.model.failures import NUMERICS, in_a_line, patiently
from pyro_nf.model.handlers import Given, LastSite
from pyro_nf.randomness import kept_random_state

__all__ = ["discrete_latents", "enumerable", "find_discrete", "sum_out"]

Model = Callable[..., Any]
Nodes = Mapping[str, Any]


def find_discrete(
    model: Model,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    known: Callable[[], Collection[str]] = tuple,
) -> SummedOut | None:
    """The model without its discrete latent sites; None if there are none.

    Arguments:
        model: A Pyro model.
        args: What it takes.
        kwargs: What it takes.
        known: Gives the sites that a guide has, of which discrete ones are its affair.
    """
    run, names = discrete_latents(model, args, kwargs, known)
    if run is None or not names:
        return None
    given = frozenset(known()) or None
    out = sum_out(model, run, names, args, kwargs, given)
    for name in _idle(out, run.nodes, args, kwargs):
        _refuse_forgotten(name, model, args, kwargs)
    return out


def discrete_latents(
    model: Model,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    known: Callable[[], Collection[str]] = tuple,
) -> tuple[poutine.Trace | None, list[str]]:
    """A run of the model, and its discrete latent sites that a guide lacks.

    Those that cannot be summed out are refused, all by their names, and so is data that was
    forgotten: then the site that it belongs to is latent, and nothing depends on it.

    Arguments:
        model: A Pyro model.
        args: What it takes.
        kwargs: What it takes.
        known: Gives the sites that a guide has.
    """
    try:
        with torch.no_grad(), kept_random_state(), poutine.block():
            start = InitMessenger(sites.feasible(init_to_sample))(model)
            run = patiently(lambda: poutine.trace(start).get_trace(*args, **kwargs))
    except NUMERICS:  # whoever runs the model next says what is wrong
        return None, []
    nodes = {n: node for n, node in run.iter_stochastic_nodes() if _is_latent(node)}
    discrete = {name: node for name, node in nodes.items() if _is_discrete(node)}
    has = known() if discrete else ()
    discrete = {name: node for name, node in discrete.items() if name not in has}
    endless = [name for name in discrete if not enumerable(discrete[name])]
    if endless:
        if endless[-1] == _last(run):
            _refuse_forgotten(endless[-1], model, args, kwargs)
        _refuse_endless({name: discrete[name]["fn"] for name in endless})
    if discrete and len(discrete) == len(nodes) and not has:
        raise ValueError(
            f"all latent sites are discrete ({_listed(discrete)}), and a flow is continuous; their "
            "exact posterior comes of TraceEnum_ELBO().compute_marginals(model, guide, *args), or "
            "of pyro.infer.infer_discrete, without a fit"
        )
    return run, list(discrete)


def enumerable(node: Mapping[str, Any]) -> bool:
    """Whether a site can have all its values at once."""
    if not getattr(node["fn"], "has_enumerate_support", False):
        return False
    try:
        node["fn"].enumerate_support(expand=False)
    except NotImplementedError:  # such as a binomial one of several counts
        return False
    return True


def sum_out(
    model: Model,
    run: poutine.Trace,
    names: Collection[str],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    known: Collection[str] | None = None,
) -> SummedOut:
    """The model with some sites summed out, refused where that would be wrong or fails.

    Arguments:
        model: A Pyro model.
        run: A run of it.
        names: The sites.
        args: What it takes.
        kwargs: What it takes.
        known: The latent sites that are given their values, see :class:`SummedOut`.
    """
    nodes = {n: node for n, node in run.nodes.items() if node["type"] == "sample"}
    dims = [len(getattr(node["fn"], "batch_shape", ())) for node in nodes.values()]
    frames = [f for node in nodes.values() for f in node["cond_indep_stack"] if f.vectorized]
    for name in names:
        _check_plates(name, nodes[name])
    nesting = max([*dims, *(-frame.dim for frame in frames)])
    last = LastSite()
    try:
        trace, terms = _all_at_once(SummedOut(last(model), names, nesting), nodes, args, kwargs)
    except NUMERICS as error:
        raise ValueError(
            f"the discrete sites {_listed(names)} are summed out, for which the model runs with "
            f"all their values at once, in dimensions left of its plates'; {last.where} it raises "
            f"{type(error).__name__}: {in_a_line(error)}. Type torch.where for an if, "
            "pyro.ops.indexing.Vindex(x)[..., z] for an index among others, and write shapes "
            "that leave more dimensions on the left as they are"
        ) from error
    _check_terms(trace, terms)
    return SummedOut(model, names, nesting, known)


def _all_at_once(
    out: SummedOut, nodes: Nodes, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[poutine.Trace, Mapping[str, Tensor]]:
    """A run with all values of the discrete sites, and the others as they were; its densities."""
    sampled = {n: node for n, node in nodes.items() if node["type"] == "sample"}
    latent = {n: node["value"] for n, node in sampled.items() if _is_latent(node)}
    given = Given({name: value for name, value in latent.items() if name not in out.names})
    quiet = pyro.validation_enabled(False)
    with torch.no_grad(), kept_random_state(), poutine.block(), quiet, given:
        trace = out.enumerated(args, kwargs)
        return trace, factors(trace, out.nesting)


# -------------------------------------------------------------------- what is asked of them


def _is_latent(node: Mapping[str, Any]) -> bool:
    return not (node["is_observed"] or site_is_subsample(node))


def _is_discrete(node: Mapping[str, Any]) -> bool:
    if node["infer"].get("is_auxiliary"):
        return False
    fn = node["fn"]
    try:
        return bool(getattr(fn, "has_enumerate_support", False) or fn.support.is_discrete)
    except NotImplementedError:  # it tells nothing of its support
        return False


def _check_plates(name: str, node: Mapping[str, Any]) -> None:
    plates = {frame.dim for frame in node["cond_indep_stack"] if frame.vectorized}
    batch = node["fn"].batch_shape
    for dim in range(-len(batch), 0):
        if batch[dim] > 1 and dim not in plates:
            raise ValueError(
                f"the discrete site {name!r} has {batch[dim]} values, of shape {tuple(batch)}, and "
                "no plate says that they are independent; to have them summed out one by one, "
                f'type with pyro.plate("rows", {batch[dim]}): around it and what depends on it'
            )
    for frame in node["cond_indep_stack"]:
        if not frame.vectorized:
            raise ValueError(
                f"the discrete site {name!r} is inside the sequential plate {frame.name!r}; type "
                f"with pyro.plate(...): around one vectorized site, or for i in range(...):"
            )


def _check_terms(trace: poutine.Trace, terms: Mapping[str, Tensor]) -> None:
    """Refuse sums that are no product over the rows of plates, or of which rows count unequally."""
    frames = {
        name: {f.name for f in trace.nodes[name]["cond_indep_stack"] if f.vectorized}
        for name in terms
    }
    for name, node in trace.nodes.items():
        letter = node["infer"].get("_enumerate_symbol")
        if letter is None:
            _check_support(name, node)
            continue
        for other in (n for n, term in terms.items() if letter in letters(term)):
            missing = sorted(frames[name] - frames[other])
            if missing:
                raise ValueError(
                    f"the site {other!r} depends on {name!r} of all rows of the plate "
                    f"{missing[0]!r} together, so that they cannot be summed out row by row; type "
                    f'for i in range(...): with sites "{name}_0", "{name}_1", ... of their own, if '
                    "they are few"
                )
            scales = [float(trace.nodes[site]["scale"]) for site in (name, other)]
            if scales[0] != scales[1]:
                raise ValueError(
                    f"the discrete site {name!r} has the scale {scales[0]:g} and {other!r}, which "
                    f"depends on it, {scales[1]:g}, as of a plate that is subsampled; the sum over "
                    f"{name!r} is of all rows: give the plate all of them"
                )


def _check_support(name: str, node: Mapping[str, Any]) -> None:
    support = None if node["is_observed"] else support_of(node["fn"])
    if support is None or not sites.has_bijection(support):
        return
    to_support = biject_to(support)
    free = to_support.inv(node["value"])
    if to_support(free).shape != node["value"].shape:
        sites.refuse_dependent(name, support)


def _idle(
    out: SummedOut, nodes: Nodes, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[str]:
    """The discrete sites on which nothing else depends."""
    trace, terms = _all_at_once(out, nodes, args, kwargs)
    dims = {name: letters(term) for name, term in terms.items()}
    found = []
    for name in out.names:
        letter = trace.nodes[name]["infer"]["_enumerate_symbol"]
        if not any(letter in own for other, own in dims.items() if other != name):
            found.append(name)
    return [name for name in nodes if name in found]


# -------------------------------------------------------------------- sentences


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, names))


def _last(run: poutine.Trace) -> str:
    return [name for name, node in run.nodes.items() if node["type"] == "sample"][-1]


def _refuse_forgotten(
    name: str, model: Model, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """Refuse a site that nothing depends on, where the model lacks an argument."""
    run = model.forward if isinstance(model, nn.Module) else model
    try:
        bound = inspect.signature(run).bind(*args, **kwargs)
    except (TypeError, ValueError):  # it tells nothing of itself
        return
    bound.apply_defaults()
    missing = [key for key, value in bound.arguments.items() if value is None]
    if missing:
        raise ValueError(
            f"the discrete site {name!r} has no data, and nothing depends on it, while the "
            f"model's argument {missing[-1]!r} is None: type fit(model, ..., {missing[-1]}=data)"
        )


def _refuse_endless(fns: Mapping[str, Any]) -> NoReturn:
    """Say of which sites the values cannot be counted, and what to type instead."""
    kinds = []
    for name, fn in fns.items():
        kind = type(fn).__name__
        if isinstance(fn, Independent):
            kind = f"{type(fn.base_dist).__name__} with .to_event"
        kinds.append(f"{name!r} ({kind})")
    if all(isinstance(fn, Independent) and enumerable({"fn": fn.base_dist}) for fn in fns.values()):
        advice = "type with pyro.plate(...): in place of .to_event(...), so that each is a site"
    else:
        advice = (
            "give it an end, such as Categorical over 0 to 100 with the same probabilities; or "
            "write its sum down, as dist.GammaPoisson does for a Poisson count with a gamma rate "
            "and dist.ZeroInflatedPoisson for a count that may be zero by itself"
        )
    raise ValueError(
        f"the latent sites {', '.join(kinds)} are discrete, and cannot be summed out, since not "
        f"all their values can be tried; {advice}"
    )
