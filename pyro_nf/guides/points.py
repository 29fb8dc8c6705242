"""Latent sites at one point each, which is trained."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import pyro
import torch
from pyro.distributions import Delta
from torch import Tensor, nn
from torch.distributions import biject_to

from pyro_nf.model import Packing, Values

__all__ = ["Points"]


class Points(nn.Module):
    """The points of some latent sites of a model, as ``AutoDelta`` has them.

    What is trained are their unconstrained values; the density counts at the values themselves,
    so that trained points are the most probable ones of the model's own coordinates.

    Arguments:
        nodes: The sites' nodes in a run of the model, which have the points to start from.
    """

    def __init__(self, nodes: Mapping[str, dict[str, Any]]) -> None:
        super().__init__()
        self.nodes = dict(nodes)
        free = {
            name: biject_to(node["fn"].support).inv(node["value"].detach())
            for name, node in nodes.items()
        }
        self.packing = Packing({name: value.shape for name, value in free.items()})
        self.train()
        self.free = nn.Parameter(torch.cat([value.reshape(-1) for value in free.values()]))

    def train(self, mode: bool = True) -> "Points":
        """As for any module, but that Pyro does not warn of parameters that are frozen."""
        self.training = False
        return self

    def values(self) -> Values:
        """The points by site."""
        return {
            name: biject_to(node["fn"].support)(self.packing.free(self.free, name))
            for name, node in self.nodes.items()
        }

    def sample(self, plates: Mapping[str, Callable[..., Any]]) -> dict[str, Tensor]:
        """The sites of a guide's run, each at its point.

        Arguments:
            plates: The plates of the run, by name.
        """
        drawn = {}
        for name, value in self.values().items():
            node = self.nodes[name]
            with ExitStack() as stack:
                for frame in node["cond_indep_stack"]:
                    stack.enter_context(plates[frame.name])  # type: ignore[arg-type]
                drawn[name] = pyro.sample(name, Delta(value, event_dim=node["fn"].event_dim))
        return drawn
