"""What is wrong with a model's data, found before anything is fitted to them."""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide.initialization import InitMessenger, init_to_sample
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyro_nf.model import sites
from pyro_nf.model.failures import NUMERICS, where
from pyro_nf.model.handlers import LastSite, is_computed
from pyro_nf.randomness import kept_random_state

__all__ = ["look_at_data"]

Model = Callable[..., Any]


def look_at_data(model: Model, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse NaN among the data, by site, and warn of data that seem to have been forgotten.

    Arguments:
        model: A Pyro model.
        args: What it takes.
        kwargs: What it takes.
    """
    run, last = InitMessenger(sites.feasible(init_to_sample))(model), LastSite()
    try:
        with kept_random_state(), torch.no_grad(), poutine.block(), last:
            trace = poutine.trace(run).get_trace(*args, **kwargs)
    except ZeroDivisionError as error:
        if str(error) != "size cannot be zero":
            return
        raise ValueError(
            f"the plate {last.name!r} has no rows, which Pyro does not take; where there are no "
            "data leave the plate out: if len(data): ..."
        ) from error
    except Exception:  # said where the guide is set up, with what to do
        return
    nodes = {
        name: node
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and not site_is_subsample(node)
    }
    for name, node in nodes.items():
        if node["is_observed"] and not is_computed(node):
            _refuse_nan(name, node)
    _warn_of_forgotten(nodes, _left_none(model, args, kwargs))


def _refuse_nan(name: str, node: Mapping[str, Any]) -> None:
    value = node["value"]
    if isinstance(value, Tensor) and bool(value.isnan().any()) and _minds(node):
        raise ValueError(
            f"the data of the site {name!r} are NaN {where(value.isnan())}. Leave them out, or "
            "mask them: poutine.mask(mask=~missing) around the site, and torch.nan_to_num(...) of "
            "its data, since the gradient of what is masked must be finite, too"
        )


def _minds(node: Mapping[str, Any]) -> bool:
    """Whether a site's distribution has no density at NaN, as one for missing values might."""
    try:
        return bool(node["fn"].log_prob(node["value"]).isnan().any())
    except NUMERICS:
        return True


def _left_none(model: Model, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """The arguments of a model that are None."""
    try:
        bound = inspect.signature(model.forward if isinstance(model, nn.Module) else model).bind(
            *args, **kwargs
        )
    except (TypeError, ValueError):  # it tells nothing of itself
        return []
    bound.apply_defaults()
    return [name for name, value in bound.arguments.items() if value is None]


def _warn_of_forgotten(nodes: Mapping[str, Any], none: Sequence[str]) -> None:
    """Say which site is latent since its data are None; a discrete one is refused elsewhere."""
    latent = [
        name
        for name, node in nodes.items()
        if not node["is_observed"] and not node["fn"].support.is_discrete
    ]
    for name in latent:
        if name in none:
            warnings.warn(
                f"the site {name!r} is latent, since the argument {name!r} is None; if data were "
                f"meant, type fit(model, ..., {name}=...)",
                stacklevel=5,
            )
            return
    if none and latent and not any(node["is_observed"] for node in nodes.values()):
        warnings.warn(
            f"no site of the model is observed, and its argument {none[0]!r} is None; if data were "
            f"meant, type fit(model, ..., {none[0]}=...), or what comes out is the prior",
            stacklevel=5,
        )
