"""True values, data that follow from them, and the model of these data."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites, site_is_factor, site_is_subsample
from torch import Tensor

from pyro_nf.model import Given, Many, Result, Values, is_computed
from pyro_nf.posterior import chunk_size

__all__ = ["Simulation"]

Model = Callable[..., Any]


class Simulation:
    """A model as one that makes data.

    The data of its observed sites are drawn anew, and all else that it is given stays as it is:
    what it reads from its arguments (covariates, sizes, the values before of an autoregression) is
    part of the model.

    Arguments:
        model: A Pyro model.
        args: What it takes.
        kwargs: What it takes.
        values: For each latent site true values, of shape ``(n, *shape)``; None to draw them from
            the prior.
    """

    def __init__(
        self,
        model: Model,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        values: Values | None,
    ) -> None:
        self.model, self.args, self.kwargs, self.values = model, args, kwargs, values
        self.observed = self._observed()

    def _observed(self) -> dict[str, torch.Size]:
        """The shapes of the observed sites; what no data can be drawn of is refused."""
        try:
            with torch.no_grad(), Given(self._row(0)):
                trace = poutine.trace(self.model).get_trace(*self.args, **self.kwargs)
        except NotImplementedError as error:
            raise ValueError(
                f"the prior cannot be drawn from ({error}); type posterior=..., for draws of a "
                "posterior in place of those of the prior"
            ) from error
        own = sorted(name for name, node in trace.nodes.items() if node["type"] == "param")
        if own:
            raise ValueError(
                f"the model has parameters of its own, such as {own[0]!r}, which are fitted and "
                "have no prior to be drawn from; give them one, or let the model have them fixed"
            )
        nodes = {name: node for name, node in trace.nodes.items() if node["type"] == "sample"}
        for name, node in nodes.items():
            _refuse(name, node)
        observed = {n: v for n, v in nodes.items() if v["is_observed"] and not is_computed(v)}
        if not observed:
            raise ValueError("the model observes nothing, so there are no data to be drawn")
        return {name: node["value"].shape for name, node in observed.items()}

    def _row(self, index: int) -> Values:
        return {name: value[index] for name, value in (self.values or {}).items()}

    @torch.no_grad()
    def __call__(self, index: int) -> tuple[Values, Values]:
        """True values of the latent sites, and data of the observed ones."""
        with Given(self._row(index), unobserve=True):
            trace = poutine.trace(self.model).get_trace(*self.args, **self.kwargs)
        drawn = {
            name: node["value"]
            for name, node in prune_subsample_sites(trace).nodes.items()
            if node["type"] == "sample" and not is_computed(node)
        }
        data = {name: drawn.pop(name) for name in self.observed}
        for name, shape in self.observed.items():
            if data[name].shape != shape:
                raise ValueError(
                    f"the data of {name!r} come with shape {tuple(data[name].shape)}, and were "
                    f"given with shape {tuple(shape)}"
                )
        return drawn, data

    def model_of(self, data: Values) -> Model:
        """The model with these data in place of its own; or beside them, where the true values are
        those of a posterior, which has seen its own already."""
        if self.values is None:
            return poutine.condition(self.model, data)
        return Beside(data)(self.model)

    def log_likelihood(self, values: Values, data: Values) -> Tensor:
        """The log density of some data given each of n latent values, with shape ``(n,)``."""
        fitted = poutine.condition(self.model, data)

        def one(row: Values) -> Result:
            with Given(row):
                trace = poutine.trace(fitted).get_trace(*self.args, **self.kwargs)
            trace.compute_log_prob(lambda name, _: name in data)
            total = sum(trace.nodes[name]["log_prob"].double().sum() for name in data)
            return torch.as_tensor(total, dtype=torch.float64), {}

        chunk = chunk_size([*data.values(), *(value[0] for value in values.values())])
        with torch.no_grad():
            found, _ = Many(one, chunk, tolerant=True)(len(next(iter(values.values()))), values)
        return found.nan_to_num(nan=-torch.inf)


class Beside(Messenger):
    """Scores data beside those that are observed, as further observations of the same sites.

    Arguments:
        data: The data by site.
    """

    def __init__(self, data: Values) -> None:
        super().__init__()
        self.data = data

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.data:
            pyro.sample(f"{msg['name']}_replicated", msg["fn"], obs=self.data[msg["name"]])


def _refuse(name: str, node: Mapping[str, Any]) -> None:
    """Refuse a site by which the density is not that of drawn data."""
    if site_is_factor(node):
        raise ValueError(
            f"the factor {name!r} is part of the density, but nothing is drawn from it, so that "
            "data cannot follow from the model; write it as an observed site"
        )
    if site_is_subsample(node):
        if len(node["value"]) < node["fn"].size:
            raise ValueError(
                f"the plate {name!r} takes {len(node['value'])} of its {node['fn'].size} rows; let "
                "it have all of them"
            )
    elif bool((torch.as_tensor(node["scale"]) != 1).any()):
        raise ValueError(
            f"the density of {name!r} is scaled, so that it is not that of the data that are "
            "drawn; leave poutine.scale out"
        )
