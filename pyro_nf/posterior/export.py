"""Draws as ArviZ takes them."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pyro_nf.model import Many, Values
from pyro_nf.posterior.joint import Joint
from pyro_nf.posterior.labels import Labels
from pyro_nf.posterior.prediction import predict

__all__ = ["to_arviz"]

SINGLE = "observed_data"  # the one group that has no draws


def to_arviz(
    joint: Joint,
    values: Values,
    log_p: Tensor,
    log_q: Tensor,
    labels: Labels,
    chains: int | None = None,
) -> Any:
    """An ``InferenceData`` of ArviZ 0.x, or a ``DataTree`` of ArviZ 1.x.

    Arguments:
        joint: Model and guide.
        values: Draws of the guide, and of the discrete sites that it lacks.
        log_p: Their log densities under the model.
        log_q: Their log densities under the guide.
        labels: What dimensions are called, and what is where along them.
        chains: How many superchains they are of, one after the other; None for a guide's draws.
    """
    try:
        import arviz
    except ImportError as error:
        raise ImportError("to_arviz needs ArviZ: pip install arviz") from error
    arrays: dict[str, Any] = {
        group: {
            name: (value if group == SINGLE else value.unflatten(0, (chains or 1, -1)))
            .detach()
            .cpu()
            .numpy()
            for name, value in sites.items()
        }
        for group, sites in _groups(joint, values, log_p, log_q).items()
        if sites
    }
    named = _named(labels, arrays)
    if "posterior" in inspect.signature(arviz.from_dict).parameters:
        data = arviz.from_dict(**arrays, **named)
    else:  # from ArviZ 1.0 on
        data = arviz.from_dict(arrays, **named)
    guide = type(joint.guide).__name__
    method = f"variational: independent draws of {guide}, no Markov chain"
    if chains is not None:
        method = f"Hamiltonian Monte Carlo in the coordinates of {guide}; a superchain is a chain"
    about = {"inference_library": "pyro_nf", "sampling_method": method}
    data.attrs.update(about)
    data["posterior"].attrs.update(about)
    return data


def _groups(joint: Joint, values: Values, log_p: Tensor, log_q: Tensor) -> dict[str, Values]:
    """Values by group and site."""
    groups: dict[str, Values] = {"posterior": dict(values)}
    with joint.scope():
        runs = Many(joint.detail, joint.chunk, random=bool(joint.from_prior), tolerant=True)
        detail = runs(len(log_p), values)[1]
    for key, value in detail.items():
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = value
    predicted = predict(joint, len(log_p), values, joint.args, joint.kwargs)
    others = joint.computed | joint.enumerated
    groups["posterior_predictive"] = {n: v for n, v in predicted.items() if n not in others}
    groups["observed_data"] = joint.observed
    groups["sample_stats"] = {"lp": log_p, "lq": log_q}
    return groups


def _named(labels: Labels, groups: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Dimensions and their labels, of as many dimensions as a site has in all groups: in that of
    the likelihood it has none for events."""
    depths: dict[str, int] = {}
    for group, sites in groups.items():
        for name, value in sites.items():
            depth = value.ndim - (0 if group == SINGLE else 2)
            depths[name] = min(depth, depths.get(name, depth))
    dims = {name: list(labels.dims.get(name, ()))[:depth] for name, depth in depths.items()}
    used = {name for names in dims.values() for name in names}
    return {"dims": dims, "coords": {n: list(v) for n, v in labels.coords.items() if n in used}}
