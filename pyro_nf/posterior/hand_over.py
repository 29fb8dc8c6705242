"""Draws as other samplers start from."""

import torch
from pyro import poutine
from torch.distributions import biject_to

from pyro_nf.model import Given, Many, Result, Values
from pyro_nf.posterior.joint import Joint

__all__ = ["initial_params"]


def initial_params(joint: Joint, values: Values) -> Values:
    """Draws in the unconstrained coordinates of Pyro's samplers, by ``biject_to`` of each support.

    Arguments:
        joint: The model.
        values: For each latent site that is not summed out n values, of shape ``(n, *shape)``.

    Returns:
        For each of them a tensor of shape ``(n, *unconstrained_shape)``.
    """

    def one(row: Values) -> Result:
        with Given(row), poutine.trace() as tracer:
            joint.model(*joint.args, **joint.kwargs)
        nodes = tracer.trace.nodes
        free = {name: biject_to(nodes[name]["fn"].support).inv(row[name]) for name in row}
        return torch.zeros(()), free

    known = {name: values[name] for name in joint.latents}
    with joint.scope():
        return Many(one, joint.chunk)(len(next(iter(known.values()))), known)[1]
