"""Runs of Pyro's forecasting models beyond the end of the data."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyro import poutine
from pyro.contrib.forecast import ForecastingModel
from pyro.contrib.forecast.util import PrefixConditionMessenger, PrefixReplayMessenger
from pyro.poutine.util import site_is_factor, site_is_subsample

from pyro_nf.model import Values

__all__ = ["forecast", "is_forecast"]

FORECAST = "forecast"  # the model's return value among the predictions


def is_forecast(model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a model is a ``ForecastingModel``, whose covariates go on where its data end."""
    if not isinstance(model, ForecastingModel):
        return False
    given = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    return bool(given["data"].size(-2) < given["covariates"].size(-2))


def forecast(
    model: ForecastingModel, values: Values, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Values:
    """What a draw of the latents says of the time after the data, as Pyro's ``Forecaster`` does.

    Latents over time keep their values as far as they go, and go on by their prior; the residual
    goes on given the residuals of the data.

    Arguments:
        model: The model.
        values: A draw of the guide, of which the time is that of the data.
        args: What the model takes, with longer covariates.
        kwargs: What the model takes.

    Returns:
        ``"forecast"``, the model's return value, with shape ``(*batch, horizon, obs_dim)``; the
        sites that are not in `values`, such as ``"residual"``, and those that went on, of the
        whole time.
    """
    past = poutine.Trace()
    for name, value in values.items():
        past.add_node(name, name=name, type="sample", value=value, is_observed=False, infer={})
    residuals = PrefixConditionMessenger(model._prefix_condition_data)
    with PrefixReplayMessenger(past), residuals:
        trace = poutine.trace(model).get_trace(*args, **kwargs)
    found = {
        name: node["value"]
        for name, node in trace.nodes.items()
        if node["type"] == "sample"
        and not (site_is_subsample(node) or site_is_factor(node))
        and (name not in values or values[name].shape != node["value"].shape)
    }
    return found | {FORECAST: trace.nodes["_RETURN"]["value"]}
