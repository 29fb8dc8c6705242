"""A model and a trained guide with their data, seen one draw at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.util import prune_subsample_sites, site_is_factor, site_is_subsample
from torch import Tensor
from torch.distributions.constraints import Constraint

from pyro_nf.guides import flow_parts
from pyro_nf.model import Given, Result, SummedOut, Values, summed

__all__ = ["Facts", "Joint", "Latent", "chunk_size", "is_latent", "log_prob_sum", "pointwise"]

MEMORY = 2**27  # bytes for the tensors of draws that run together, roughly
LAYERS = 8  # tensors of a site's size that are alive while it is drawn and scored, roughly


class Latent(NamedTuple):
    """A latent site: what its values look like, and where they may lie."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    support: Constraint


@dataclass(frozen=True)
class Facts:
    """What a run of a guide, and one of its model, tell of them.

    Attributes:
        latents: The latent sites of the guide.
        observed: The observed values by site.
        computed: The deterministic sites.
        dims: For each site names of its batch dimensions.
        from_prior: The latent sites that are drawn from their prior.
        partial: For each subsampled plate the number of its rows, and of all rows.
        chunk: How many draws may run together.
        parameters: The state of Pyro's parameter store, as far as model and guide use it.
        without_discrete: The model with discrete sites summed out, if there are any.
    """

    latents: dict[str, Latent]
    observed: Values
    computed: frozenset[str]
    dims: dict[str, list[str]]
    from_prior: frozenset[str]
    partial: dict[str, tuple[int, int]]
    chunk: int
    parameters: dict[str, Any]
    without_discrete: SummedOut | None = None


class Joint:
    r"""The joint density of a model, and the density of its guide, for one draw.

    Latent sites that the guide lacks are summed out if they can be enumerated, and else drawn
    from their prior. The parameters are those that model and guide had in Pyro's parameter
    store when the facts were found, so that clearing the store later does no harm.

    Arguments:
        model: A Pyro model.
        guide: A trained Pyro guide for it.
        args: What both take.
        kwargs: What both take.
        facts: What a first run has told of them, see :func:`~pyro_nf.posterior.first_run.look`;
            they are attributes here, too.

    Attributes:
        density: The model as one of the sites that are not summed out.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        facts: Facts,
    ) -> None:
        self.model, self.guide = model, guide
        self.args, self.kwargs = tuple(args), dict(kwargs)
        self.latents, self.observed, self.computed = facts.latents, facts.observed, facts.computed
        self.from_prior, self.dims, self.partial = facts.from_prior, facts.dims, facts.partial
        self.chunk, self.parameters = facts.chunk, facts.parameters
        self.without_discrete = facts.without_discrete
        self.density = facts.without_discrete or model

    @property
    def enumerated(self) -> frozenset[str]:
        """The discrete latent sites that are summed out."""
        return frozenset() if self.without_discrete is None else self.without_discrete.names

    @property
    def dtypes(self) -> set[torch.dtype]:
        """Those of the latent sites of real numbers."""
        return {latent.dtype for latent in self.latents.values() if latent.dtype.is_floating_point}

    @property
    def is_smooth(self) -> bool:
        """Whether the density is a function of real numbers alone."""
        discrete = any(latent.support.is_discrete for latent in self.latents.values())
        return not (discrete or self.from_prior)

    @property
    def point_sites(self) -> frozenset[str]:
        """The latent sites that the guide has at one point each."""
        return frozenset[str]().union(*(part.point_sites for part in flow_parts(self.guide)))

    @property
    def exact(self) -> bool:
        """Whether the guide's density is known, and not a bound and an estimate."""
        return all(part.exact for part in flow_parts(self.guide))

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Use the parameters as they were, without gradients; leave nothing in Pyro's store."""
        state = {key: dict(value) for key, value in self.parameters.items()}
        with torch.no_grad(), pyro.get_param_store().scope(state):
            yield

    # ---------------------------------------------------------------- one draw

    @staticmethod
    def trace_guide(
        guide: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        given: Given | None = None,
    ) -> poutine.Trace:
        """A run of the guide, or a part of it, in which sites may be given their values."""
        with given or nullcontext():
            if not isinstance(guide, GuideMessenger):
                return poutine.trace(guide).get_trace(*args, **kwargs)
            guide(*args, **kwargs)  # it runs the model, too, and keeps both traces
            return guide.get_traces()[1]

    def draw(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Result:
        """A draw of the guide: its log density, and the values by site."""
        trace = prune_subsample_sites(self.trace_guide(self.guide, args, kwargs))
        values = {name: trace.nodes[name]["value"] for name in self.latents if name in trace.nodes}
        return log_prob_sum(trace), values

    def trace_model(
        self, values: Values, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[poutine.Trace, poutine.Trace | None]:
        """A run of the model with a draw of the guide, of the sites whose densities count.

        Those of which densities depend on sites that are summed out are in a second trace.
        """
        tracer, apart = poutine.trace(), None
        with tracer, Given(values):
            if self.without_discrete is None:
                self.model(*args, **kwargs)
            else:
                apart = self.without_discrete.enumerated(args, kwargs)
        trace = prune_subsample_sites(tracer.trace)
        for name in self.from_prior & trace.nodes.keys():  # the draw and its density cancel
            trace.remove_node(name)
        return trace, apart

    def log_density(self, values: Values) -> Result:
        """The log density of a draw with the data, discrete sites summed out."""
        trace, apart = self.trace_model(values, self.args, self.kwargs)
        total = log_prob_sum(trace)
        if apart is None or self.without_discrete is None:
            return total, {}
        return total + summed(apart, self.without_discrete.nesting), {}

    def with_discrete(
        self, values: Values, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Values:
        """A draw of the guide with the discrete sites, drawn given it and the data."""
        if self.without_discrete is None:
            return values
        return values | self.without_discrete.drawn(values, args, kwargs)

    def detail(self, values: Values) -> Result:
        """Like :meth:`log_density`, with what else ArviZ has a group for, named ``group/site``."""
        trace = poutine.trace(Given(values)(self.model)).get_trace(*self.args, **self.kwargs)
        total = log_prob_sum(trace)
        found = {f"posterior/{n}": trace.nodes[n]["value"] for n in self.computed}
        if self.enumerated:  # given these, it is not the likelihood that was fitted
            return total, found
        parts = {f"log_likelihood/{name}": pointwise(trace.nodes[name]) for name in self.observed}
        return total, parts | found

    def predict(
        self,
        values: Values,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        left_out: Set[str] = frozenset(),
    ) -> tuple[Values, set[str]]:
        """A run of the model with observed sites sampled, and the sites whose value misfits.

        Discrete sites that the guide lacks come with them, drawn given the values and the data.
        """
        complete = self.enumerated <= values.keys()
        known = values if complete else self.with_discrete(values, args, kwargs)
        given = Given(known, unobserve=True, kept=left_out)
        trace = poutine.trace(given(self.model)).get_trace(*args, **kwargs)
        found = {
            name: torch.as_tensor(node["value"])
            for name, node in trace.nodes.items()
            if node["type"] == "sample"
            and not (site_is_subsample(node) or site_is_factor(node))
            and (name not in self.latents or name in given.misfits or name not in values)
            and name not in left_out
        }
        return found, given.misfits


def is_latent(node: Mapping[str, Any], auxiliary: bool = False) -> bool:
    """Whether a node of a trace is a latent site, or also one that only a guide has."""
    return (
        node["type"] == "sample"
        and not (node["is_observed"] or site_is_subsample(node))
        and (auxiliary or not node["infer"].get("is_auxiliary"))
    )


def chunk_size(tensors: Sequence[Tensor]) -> int:
    """How many draws of such tensors may run together."""
    size = LAYERS * sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return max(1, MEMORY // max(size, 1))


def log_prob_sum(trace: poutine.Trace) -> Tensor:
    """The log density of a trace, added up in double precision."""
    trace.compute_log_prob()
    terms = [n["log_prob"].double().sum() for n in trace.nodes.values() if n["type"] == "sample"]
    return torch.stack(terms).sum() if terms else torch.zeros((), dtype=torch.float64)


def pointwise(node: Mapping[str, Any]) -> Tensor:
    """The log density of each observation, zero where a mask hides it."""
    log_prob, mask = node["unscaled_log_prob"], node["mask"]
    if mask is None or mask is True:
        return log_prob
    return torch.where(torch.as_tensor(mask, device=log_prob.device), log_prob, 0.0)
