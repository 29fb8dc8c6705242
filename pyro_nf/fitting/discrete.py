"""What a fit makes of discrete latents: the model without them, or a sentence."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO, TraceEnum_ELBO, TraceTMC_ELBO

from pyro_nf.model import discrete_latents, find_discrete

__all__ = ["summed_out"]

Model = Callable[..., Any]


def summed_out(
    model: Model,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    guide: Model | None,
    elbo: ELBO | None,
) -> tuple[Model, list[str]]:
    """The model that is fitted, and the discrete sites of which its guide has nothing.

    Without an ELBO they are summed out of the model; with one that sums them out they are marked
    for it.

    Arguments:
        model: A Pyro model.
        args: What it takes.
        kwargs: What it takes.
        guide: A guide, which may have discrete sites of its own; None for one that is to be made.
        elbo: One of Pyro's ELBOs; None for the default.
    """

    def known() -> Collection[str]:
        if guide is None:
            return ()
        with torch.no_grad(), poutine.block():
            return set(poutine.trace(guide).get_trace(*args, **kwargs).stochastic_nodes)

    if elbo is None:
        found = find_discrete(model, args, kwargs, known)
        return (model, []) if found is None else (found, sorted(found.names))
    _, names = discrete_latents(model, args, kwargs, known)
    if not names:
        return model, []
    if isinstance(elbo, TraceEnum_ELBO | TraceTMC_ELBO):
        return poutine.infer_config(model, _Marks(names)), names
    raise ValueError(
        f"the guide has no {', '.join(map(repr, names))}, which in the model is discrete, and "
        f"{type(elbo).__name__} does not sum it out; leave elbo= out, which sums it out, or type "
        "elbo=TraceEnum_ELBO(max_plate_nesting=...)"
    )


class _Marks:
    """Marks sites for enumeration that are not marked already."""

    def __init__(self, names: Collection[str]) -> None:
        self.names = frozenset(names)

    def __call__(self, site: Mapping[str, Any]) -> dict[str, str]:
        marked = site["name"] not in self.names or "enumerate" in site["infer"]
        return {} if marked else {"enumerate": "parallel"}
