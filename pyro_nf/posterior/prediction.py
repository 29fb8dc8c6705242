"""Posterior predictive draws, also on new data of another size."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_nf.guides import flow_parts
from pyro_nf.model import Given, Many, Result, Values, is_computed
from pyro_nf.posterior.forecasting import forecast, is_forecast
from pyro_nf.posterior.joint import Joint, chunk_size, log_prob_sum
from pyro_nf.randomness import kept_random_state

__all__ = ["draws_for", "predict"]


def draws_for(joint: Joint, n: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Values:
    """Draws of the guide for other data, or for its own if it knows no others.

    What an encoder cannot take, such as None for no data, leaves the local latents to the prior.
    """
    dropped: frozenset[str] = frozenset()
    with joint.scope(), torch.no_grad():
        try:
            with kept_random_state():
                joint.draw(args, kwargs)
        except Exception:  # whatever a guide makes of data of another size
            args, kwargs, dropped = joint.args, joint.kwargs, _local_sites(joint)
        values = Many(lambda _: joint.draw(args, kwargs), joint.chunk, random=True)(n)[1]
    return {name: value for name, value in values.items() if name not in dropped}


def _local_sites(joint: Joint) -> frozenset[str]:
    """The latent sites of rows, which an encoder knows."""
    return frozenset[str]().union(*(part.local_sites for part in flow_parts(joint.guide)))


def predict(
    joint: Joint, n: int, values: Values, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Values:
    """For each draw of the latents a run of the model, with observed sites sampled.

    Arguments:
        joint: The model.
        n: The number of draws.
        values: For each latent site n draws.
        args: What the model takes.
        kwargs: What the model takes.
    """
    goes_on = is_forecast(joint.model, args, kwargs)
    left_out: set[str] = set()

    def predicted(row: Values) -> tuple[Values, set[str]]:
        if goes_on:
            return forecast(joint.model, row, args, kwargs), set()
        return joint.predict(row, args, kwargs, left_out)

    def one(row: Values) -> Result:
        return torch.zeros((), dtype=torch.float64), predicted(row)[0]

    with joint.scope(), torch.no_grad():
        row = {name: value[0] for name, value in values.items()}
        with kept_random_state():
            if not goes_on:
                trace = poutine.trace(Given(row)(joint.model)).get_trace(*args, **kwargs)
                _check_plates(joint, trace, row, args, kwargs)
                left_out |= _not_sampled(trace)
            example, misfits = predicted(row)
        if misfits:
            warnings.warn(
                f"the latent sites {', '.join(map(repr, sorted(misfits)))} have other shapes for "
                "these arguments, and are drawn from their prior",
                stacklevel=3,
            )
        if left_out:
            warnings.warn(
                f"the observed sites {', '.join(map(repr, sorted(left_out)))} have distributions "
                "that cannot be sampled, and are left out",
                stacklevel=3,
            )
        runs = Many(one, chunk_size([*example.values(), *row.values()]), random=True)
        return runs(n, values)[1]


def _not_sampled(trace: poutine.Trace) -> set[str]:
    """The observed sites of which the distributions cannot be sampled."""
    found = set()
    for name, node in trace.nodes.items():
        if node["type"] == "sample" and node["is_observed"] and not is_computed(node):
            try:
                node["fn"]()
            except NotImplementedError:
                found.add(name)
    return found


def _check_plates(
    joint: Joint,
    trace: poutine.Trace,
    row: Values,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> None:
    """Refuse a plate that takes some of the data's rows at random.

    A batch, of a plate that is larger, is rows in particular: the index that is drawn does not
    matter then.
    """
    for name, node in trace.nodes.items():
        if not site_is_subsample(node):
            continue
        size, rows = node["fn"].size, node["fn"].subsample_size or math.inf
        if rows < size:
            totals = []
            for index in (torch.arange(rows), torch.arange(size - rows, size)):
                pyro.set_rng_seed(0)
                run = poutine.trace(_Fixed(name, index)(Given(row)(joint.model)))
                totals.append(float(log_prob_sum(run.get_trace(*args, **kwargs))))
            if totals[0] != totals[1]:
                raise ValueError(
                    f"the plate {name!r} takes {rows} of its rows at random, other ones for each "
                    "draw, so predictions would be of no row in particular; let it have all "
                    "rows: pass its subsample_size as an argument of the model"
                )


class _Fixed(Messenger):
    """Gives a plate the index of its rows."""

    def __init__(self, plate: str, index: Tensor) -> None:
        super().__init__()
        self.plate, self.index = plate, index

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == self.plate and site_is_subsample(msg):
            msg["value"] = self.index
