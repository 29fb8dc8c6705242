"""From the draws of which guides Markov chains can go on, and in what coordinates."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyro.infer.autoguide.guides import AutoContinuous

from pyro_nf.flows import Flow, adapt
from pyro_nf.guides import flow_parts

__all__ = ["base_flow", "refinable", "why_not_refined"]


def refinable(guide: Callable[..., Any]) -> AutoContinuous:
    """The guide, if it packs all latents into one vector; or what to type in place of it."""
    if reason := why_not_refined(guide):
        raise ValueError(reason)
    assert isinstance(guide, AutoContinuous)
    return guide


def why_not_refined(guide: Callable[..., Any]) -> str:
    """Why chains cannot go on from a guide's draws, and what to type; empty where they can."""
    name = type(guide).__name__
    points = sorted(frozenset[str]().union(*(part.point_sites for part in flow_parts(guide))))
    instead = "type fit(model, ...), or a guide such as AutoFlowGuide or AutoMultivariateNormal"
    if any(part.row_plates for part in flow_parts(guide)):
        return (
            f"{name} has a posterior for each row of its data, which chains would have to know "
            "anew for other rows; resample(n) and log_evidence(...) correct its draws"
        )
    if points:
        return (
            f"{name} has the sites {', '.join(points)} at points, of which "
            f'chains would know nothing; type rest="normal", or {instead}'
        )
    if not all(part.has_transform for part in flow_parts(guide)):
        return (
            f"{name} has a flow of latents and auxiliary variables together, and chains need one "
            f"of the latents alone; {instead}"
        )
    base = AutoContinuous.get_transform  # which says that there is none
    if not isinstance(guide, AutoContinuous) or type(guide).get_transform is base:
        return (
            f"refine needs a guide that makes one vector of all latents from standard normal "
            f"numbers, and got {name}; {instead}"
        )
    return ""


def base_flow(guide: AutoContinuous, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Flow:
    """The flow from standard normal numbers to the guide's one vector."""
    transform = guide.get_transform(*args, **kwargs)
    return adapt(transform, guide.latent_dim)
