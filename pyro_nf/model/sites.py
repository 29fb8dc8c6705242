"""What a guide asks of a model's latent sites, and the sentence where it is not so."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from pyro import poutine
from pyro.distributions import Delta, ImproperUniform
from torch import Tensor
from torch.distributions import biject_to, transform_to
from torch.distributions.constraints import Constraint

from pyro_nf.model.bijections import base_of, support_of
from pyro_nf.model.failures import NoStartError
from pyro_nf.model.masks import refuse_masked

__all__ = ["check", "explain", "feasible", "has_bijection", "prune", "refuse_dependent", "starting"]

Model = Callable[..., Any]


def starting(init_loc_fn: Callable[..., Any]) -> Callable[..., Any]:
    """`init_loc_fn`, where it gives each site a value of its shape."""
    if not callable(init_loc_fn):
        raise TypeError(
            "init_loc_fn must be a function of a site, such as pyro.infer.autoguide."
            f"init_to_median, got {init_loc_fn!r}"
        )
    find = feasible(init_loc_fn)

    def init(site: dict[str, Any]) -> Tensor:
        value, fn = find(site), site["fn"]
        if not isinstance(value, Tensor) or value.shape != fn.shape():
            raise NoStartError(
                f"the latent site {site['name']!r} needs a tensor of shape {tuple(fn.shape())} to "
                f"start at, and init_loc_fn gives {value!r}"
            )
        return value

    return init


def feasible(init_loc_fn: Callable[..., Any]) -> Callable[..., Any]:
    """`init_loc_fn`, with a feasible point for a prior that cannot be sampled."""

    def init(site: dict[str, Any]) -> Tensor:
        try:
            return init_loc_fn(site)
        except NotImplementedError:  # such as ImproperUniform
            fn = site["fn"]
            transform = transform_to(fn.support)
            free = transform.inverse_shape(fn.batch_shape + fn.event_shape)
            return transform(torch.zeros(free))

    return init


def prune(trace: Any) -> None:
    """Keep of a model's run only the supports and shapes of the latent sites.

    A guide is copied and pickled with it. The rest is the data, which may be large, and the
    model's parameters, which are not the guide's and cannot be copied.
    """
    latent = dict(trace.iter_stochastic_nodes())
    for name in [name for name in trace.nodes if name not in latent]:
        trace.remove_node(name)
    for site in latent.values():
        fn = site["fn"]
        site["fn"] = ImproperUniform(fn.support, fn.batch_shape, fn.event_shape)


def explain(trace: Any, error: Exception) -> None:
    """Say what to type about the sites for which Pyro's set-up has just failed."""
    sites = list(trace.iter_stochastic_nodes())
    if not any(site["value"].numel() for _, site in sites):
        raise ValueError(
            "the model has no latent variable, so there is nothing to infer; an empty guide, "
            "lambda *args, **kwargs: None, fits it"
        ) from error
    for name, site in sites:
        support = site["fn"].support
        for frame in site["cond_indep_stack"]:
            if not frame.vectorized:
                raise ValueError(
                    f"the latent site {name!r} is inside the sequential plate {frame.name!r}, "
                    "for i in pyro.plate(...); type with pyro.plate(...): around one "
                    "vectorized site, or for i in range(...): with a name for each site"
                ) from error
        if support.is_discrete:
            discrete = [n for n, other in sites if other["fn"].support.is_discrete]
            names = ", ".join(f'"{n}"' for n in discrete)
            which = f"site {name!r} is" if len(discrete) == 1 else f"sites {names} are"
            raise ValueError(
                f"the latent {which} discrete, and a flow is continuous; fit(model, ...) sums "
                f"what can be enumerated out by itself. With SVI, type "
                f"AutoFlowGuide(poutine.block(model, hide=[{names}])) and TraceEnum_ELBO, see "
                "https://pyro.ai/examples/enumeration.html"
            ) from error
        if isinstance(error, NotImplementedError) and not has_bijection(support):
            raise ValueError(
                f"the support of the latent site {name!r}, {support}, has no bijection from a "
                "space R^n; try pyro.infer.reparam, or give the site a guide of its own in an "
                f'AutoGuideList beside AutoFlowGuide(poutine.block(model, hide=["{name}"]))'
            ) from error


def check(
    model: Model,
    trace: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    rows: Sequence[str] = (),
) -> list[str]:
    """Refuse what would be wrong without a word.

    Arguments:
        model: The model.
        trace: A run of it.
        args: What the model takes.
        kwargs: What the model takes.
        rows: The plates whose rows have posteriors of their own, and may be subsampled.

    Returns:
        The sites whose supports depend on other latent sites.
    """
    sites = dict(trace.iter_stochastic_nodes())
    moved = {}
    for name, site in sites.items():
        for frame in site["cond_indep_stack"]:
            if frame.name not in rows and frame.size < (frame.full_size or 0):
                raise ValueError(
                    f"the latent site {name!r} is local to the plate {frame.name!r}, of which "
                    f"{frame.size} of {frame.full_size} rows are subsampled: one global guide "
                    "would use the same rows for every minibatch. Use the whole plate, or type "
                    "AmortizedFlowGuide(model, encoder) for local latents"
                )
        if isinstance(base_of(site["fn"]), Delta):
            raise ValueError(
                f"the latent site {name!r} is a point mass, which no density fits; type "
                f"pyro.deterministic({name!r}, value) for a computed value"
            )
        to_support = biject_to(support_of(site["fn"]))
        free = to_support.inv(site["value"])
        moved[name] = to_support(free + 1e-3 * (1 + free.abs()))
    if not rows:  # of rows a mask may take some away with all that they have
        refuse_masked(model, sites, moved, args, kwargs)
    rerun = poutine.trace(poutine.condition(model, moved)).get_trace
    again = poutine.block(rerun)(*args, **kwargs).nodes
    dependent = []
    for name, site in sites.items():
        support = support_of(site["fn"])
        there = support_of(again[name]["fn"]) if name in again else None
        if type(support) is not type(there):
            refuse_dependent(name, support)
        if not _same_support(support, there):
            dependent.append(name)
    return dependent


def refuse_dependent(name: str, support: Constraint) -> NoReturn:
    """Say what to type in place of a support that depends on another latent site."""
    raise ValueError(
        f"the support of the latent site {name!r}, {support}, depends on another latent site, and "
        "the guide needs a fixed one; sample the site on a fixed support, such as the unit "
        "interval, and compute its value with pyro.deterministic"
    )


def has_bijection(support: Constraint) -> bool:
    """Whether a support has a bijection from unconstrained space."""
    try:
        biject_to(support)
    except NotImplementedError:
        return False
    return True


def _same_support(one: Any, other: Any) -> bool:
    """Whether two constraints have the same type and the same bounds."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.shape == other.shape and bool((one == other).all())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same_support, one, other))
    if isinstance(one, Constraint):
        shared = vars(one).keys() & vars(other).keys()
        return all(_same_support(vars(one)[key], vars(other)[key]) for key in shared)
    return bool(one == other)
