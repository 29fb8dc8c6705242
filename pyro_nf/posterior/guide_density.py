"""The log density of a guide at any values, not only at those that it has just drawn."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.infer.autoguide import AutoGuideList, AutoNormal
from pyro.infer.autoguide.guides import AutoContinuous
from torch import Tensor
from torch.distributions import biject_to

from pyro_nf.guides import FlowGuide, flow_parts
from pyro_nf.model import Given, Latents, Many, Packing, Result, Values, packed
from pyro_nf.posterior.joint import Joint, is_latent, log_prob_sum

__all__ = ["as_batch", "at_points", "check_width", "log_density"]


def as_batch(joint: Joint, values: Mapping[str, Tensor]) -> tuple[Values, bool]:
    """The values of all latent sites as a batch, and whether they were a single draw."""
    shapes = {name: latent.shape for name, latent in joint.latents.items()}
    missing = [name for name in shapes if name not in values]
    if missing:
        raise ValueError(
            f"expected a value for each of the sites {', '.join(shapes)}; "
            f"{', '.join(map(repr, missing))} is missing"
        )
    batch = {
        name: torch.as_tensor(values[name], dtype=latent.dtype, device=latent.device)
        for name, latent in joint.latents.items()
    }
    single = all(batch[name].shape == shape for name, shape in shapes.items())
    if single:
        return {name: value.unsqueeze(0) for name, value in batch.items()}, True
    counts = {len(value) for value in batch.values() if value.dim()}
    for name, shape in shapes.items():
        if batch[name].dim() == 0 or batch[name].shape[1:] != shape or len(counts) != 1:
            raise ValueError(
                f"expected {name!r} of shape {tuple(shape)}, or {('n', *shape)} with the same n "
                f"for all sites; got {tuple(batch[name].shape)}"
            )
    return batch, False


def at_points(joint: Joint, values: Values) -> list[str]:
    """The sites of which all draws of a guide are the same, where it has no density.

    But for those that a flow guide has at points on purpose, and speaks of as such.
    """
    return [
        name
        for name in sorted(values.keys() - joint.point_sites)
        if values[name].is_floating_point()
        and values[name].numel()
        and bool((values[name] == values[name][0]).all())
    ]


def check_width(joint: Joint, values: Values) -> None:
    """Refuse draws of a guide that has no density."""
    for name in at_points(joint, values):
        raise ValueError(
            f"the guide puts the site {name!r} at one point, as AutoDelta does, so it has no "
            "density there, and its draws no importance weights; use a guide of some width, "
            "such as AutoNormal or AutoFlowGuide"
        )


@torch.no_grad()
def log_density(joint: Joint, values: Values) -> Tensor:
    """The log density of a guide.

    Arguments:
        joint: The model and the guide.
        values: For each latent site of the guide n values, of shape ``(n, *shape)``.

    Returns:
        With shape ``(n,)``; minus infinity outside the support.
    """
    asked = frozenset().union(*(part.dependent_sites for part in flow_parts(joint.guide)))
    checks = [
        latent.support.check(values[name]).reshape(len(values[name]), -1).all(-1)
        for name, latent in joint.latents.items()
        if name not in asked  # of which the run of the model tells, below
    ]
    if joint.point_sites:  # the density is of the other sites, and where these are at the points
        points = joint.draw(joint.args, joint.kwargs)[1]
        checks += [
            torch.isclose(value, points[name].to(value)).reshape(len(value), -1).all(-1)
            for name, value in values.items()
            if name in joint.point_sites
        ]
    inside = torch.stack(checks).all(0)
    density = torch.full(inside.shape, -torch.inf, dtype=torch.float64, device=inside.device)
    if bool(inside.any()):
        rows = {name: values[name][inside] for name in joint.latents}
        density[inside] = _of_part(joint, rows, joint.guide)
    return density


def _of_part(joint: Joint, values: Values, guide: Callable[..., Any]) -> Tensor:
    """The log density of a guide, or of one in a list."""
    if isinstance(guide, AutoGuideList):
        return torch.stack([_of_part(joint, values, part) for part in guide]).sum(0)
    if isinstance(guide, AutoContinuous):
        return _of_vector(joint, values, guide)
    given = values
    if isinstance(guide, AutoNormal):  # its sites are computed from unconstrained ones
        nodes = dict(guide.prototype_trace.iter_stochastic_nodes())
        given = {
            f"{name}_unconstrained": biject_to(site["fn"].support).inv(values[name])
            for name, site in nodes.items()
        }

    def one(row: Values) -> Result:
        trace = joint.trace_guide(guide, joint.args, joint.kwargs, Given(row))
        computed = set(values) if given is not values else set()
        free = [name for name, node in trace.nodes.items() if is_latent(node, auxiliary=True)]
        unknown = sorted(set(free) - set(row) - computed)
        if unknown:
            raise ValueError(
                f"the log density of given values cannot be computed for this guide: its sites "
                f"{', '.join(map(repr, unknown))} would have to be integrated out; log_weights(n) "
                "and diagnose() score the guide's own draws"
            )
        return log_prob_sum(trace), {}

    count = len(next(iter(values.values())))
    return Many(one, joint.chunk)(count, given)[0]


def _of_vector(joint: Joint, values: Values, guide: AutoContinuous) -> Tensor:
    """The log density of a guide that packs all sites into one unconstrained vector."""
    posterior = guide.get_posterior(*joint.args, **joint.kwargs)
    if isinstance(guide, FlowGuide) and guide.dependent_sites:
        packing = Packing(guide._unconstrained_shapes)
        latents = Latents(guide.model, packing, joint.args, joint.kwargs, joint.chunk)
        u, log_det = latents.pack(values)
        inside = u.isfinite().all(-1)
        u = torch.where(inside.unsqueeze(-1), u, 0.0)
        return torch.where(inside, posterior.log_prob(u).double() - log_det, -torch.inf)
    nodes = dict(guide.prototype_trace.iter_stochastic_nodes())
    u, log_det = packed(values, {name: node["fn"].support for name, node in nodes.items()})
    density: Tensor = posterior.log_prob(u).double() - log_det
    return density
