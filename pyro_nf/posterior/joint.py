"""A model and a trained guide with their data, seen one draw at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide.guides import AutoGuide
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.util import prune_subsample_sites, site_is_factor, site_is_subsample
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from pyro_nf.model import Contraction, Given, Result, Values, is_computed
from pyro_nf.randomness import kept_random_state

__all__ = ["Joint", "Latent", "chunk_size", "is_latent", "log_prob_sum", "pointwise"]

MEMORY = 2**27  # bytes for the tensors of draws that run together, roughly
LAYERS = 8  # tensors of a site's size that are alive while it is drawn and scored, roughly


class Latent(NamedTuple):
    """A latent site: what its values look like, and where they may lie."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    support: Constraint


class Joint:
    r"""The joint density of a model, and the density of its guide, for one draw.

    Latent sites that the guide lacks are summed out if they can be enumerated, and else drawn
    from their prior. The parameters are those that model and guide have in Pyro's parameter
    store when this object is made, so that clearing the store later does no harm.

    Arguments:
        model: A Pyro model.
        guide: A trained Pyro guide for it.
        args: What both take.
        kwargs: What both take.

    Attributes:
        latents: The latent sites of the guide.
        observed: The observed values by site.
        computed: The deterministic sites.
        dims: For each site names of its batch dimensions.
        enumerated: The latent sites that are summed out.
        from_prior: The latent sites that are drawn from their prior.
        partial: For each subsampled plate the number of its rows, and of all rows.
        nesting: How many dimensions plates use.
        chunk: How many draws may run together.
        parameters: The state of Pyro's parameter store, as far as model and guide use it.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> None:
        self.model, self.guide = model, guide
        self.args, self.kwargs = tuple(args), dict(kwargs)
        if isinstance(guide, AutoGuide) and guide.prototype_trace is None:
            raise ValueError(
                f"this {type(guide).__name__} has never run, so it has nothing to draw from; train "
                "it first, by pyro_nf.fit(model, *args, guide=guide) or by Pyro's SVI"
            )
        store = pyro.get_param_store()
        self.parameters = store.get_state()
        before = set(self.parameters["params"])
        with torch.no_grad(), kept_random_state(), self.scope():
            known = _module_parameters(guide)
            drawn = self.trace_guide(guide, self.args, self.kwargs)
            latent = {name: node["value"] for name, node in drawn.nodes.items() if is_latent(node)}
            given = Given(latent)
            run = poutine.trace(given(model)).get_trace(*self.args, **self.kwargs)
            _check_shapes(latent, run, given.misfits)
            used = [n for trace in (drawn, run) for n in trace.nodes if n in store]
            fresh = [name for name in used if name not in before and _is_fresh(name)]
            _check_trained(fresh + sorted(_module_parameters(guide) - known))
            state = store.get_state()
            self.parameters = {k: {n: v[n] for n in used if n in v} for k, v in state.items()}
        self._contraction: Contraction | None = None
        self.chunk = 1
        self._look(latent, drawn, run)
        if self.enumerated:
            with torch.no_grad(), kept_random_state(), self.scope():
                factors = self.score({name: latent[name] for name in self.latents})[1]
            self.chunk = min(self.chunk, chunk_size(list(factors.values())))

    def _look(self, latent: Values, drawn: poutine.Trace, run: poutine.Trace) -> None:
        nodes = {name: node for name, node in run.nodes.items() if node["type"] == "sample"}
        free = {name: node for name, node in nodes.items() if is_latent(node)}
        self.latents = {
            name: Latent(value.shape, value.dtype, value.device, free[name]["fn"].support)
            for name, value in latent.items()
            if name in free
        }
        if not self.latents:
            raise ValueError(
                f"the guide and the model share no latent site: the guide has {sorted(latent)}, "
                f"the model {sorted(free)}; give the model that the guide was trained for"
            )
        rest = {name: node["fn"] for name, node in free.items() if name not in latent}
        self.enumerated = frozenset(
            name for name, fn in rest.items() if getattr(fn, "has_enumerate_support", False)
        )
        self.from_prior = frozenset(rest) - self.enumerated
        self.observed: Values = {
            name: node["value"]
            for name, node in nodes.items()
            if node["is_observed"] and not is_computed(node)
        }
        self.computed = frozenset(n for n in nodes if nodes[n]["infer"].get("_deterministic"))
        sites = {name: node for name, node in nodes.items() if not site_is_subsample(node)}
        self.dims = {name: _dims(name, node, frozenset(sites)) for name, node in sites.items()}
        self.partial = {
            name: (len(node["value"]), node["fn"].size)
            for name, node in nodes.items()
            if site_is_subsample(node) and len(node["value"]) < node["fn"].size
        }
        frames = [f for node in nodes.values() for f in node["cond_indep_stack"] if f.vectorized]
        self.nesting = max((-frame.dim for frame in frames), default=0)
        run.compute_log_prob()
        tensors = [node[key] for node in nodes.values() for key in ("value", "log_prob")]
        tensors += [node["value"] for node in drawn.nodes.values() if node["type"] == "sample"]
        self.chunk = chunk_size([tensor for tensor in tensors if isinstance(tensor, Tensor)])

    @property
    def is_smooth(self) -> bool:
        """Whether the density is a function of real numbers alone."""
        discrete = any(latent.support.is_discrete for latent in self.latents.values())
        return not (discrete or self.enumerated or self.from_prior)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Use the parameters as they were, without gradients; leave nothing in Pyro's store."""
        state = {key: dict(value) for key, value in self.parameters.items()}
        with torch.no_grad(), pyro.get_param_store().scope(state):
            yield

    # ---------------------------------------------------------------- one draw

    def trace_guide(
        self,
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
    ) -> poutine.Trace:
        """A run of the model with a draw of the guide, of the sites whose densities count."""
        model = self.model
        if self.enumerated:
            model = poutine.infer_config(model, self._way)
            model = poutine.enum(model, first_available_dim=-1 - self.nesting)
        # Outermost: poutine.enum must see sites of which the dimensions follow from others'.
        model = Given(values, enumerated=bool(self.enumerated))(model)
        trace = prune_subsample_sites(poutine.trace(model).get_trace(*args, **kwargs))
        for name in self.from_prior:  # the draw and its density cancel
            trace.remove_node(name)
        return trace

    def _way(self, site: Mapping[str, Any]) -> dict[str, str]:
        return {"enumerate": "parallel"} if site["name"] in self.enumerated else {}

    def score(self, values: Values) -> Result:
        """The log density of a draw with the data."""
        trace = self.trace_model(values, self.args, self.kwargs)
        if not self.enumerated:
            return log_prob_sum(trace), {}
        if self._contraction is None:
            self._contraction = Contraction(trace)
        return torch.zeros((), dtype=torch.float64), Contraction.factors(trace)

    def total(self, scored: Result) -> Result:
        """What :meth:`score` gives for n draws, with discrete sites summed out."""
        numbers, factors = scored
        if self._contraction is None or not factors:
            return numbers, {}
        total = self._contraction(factors)
        return numbers.to(total.device) + total, {}

    def detail(self, values: Values) -> Result:
        """Like :meth:`score`, with what else ArviZ has a group for, named ``group/site``."""
        if self.enumerated:  # every site may have dimensions of summed-out ones
            return torch.zeros((), dtype=torch.float64), {}
        trace = poutine.trace(Given(values)(self.model)).get_trace(*self.args, **self.kwargs)
        total = log_prob_sum(trace)
        found = {f"log_likelihood/{n}": pointwise(trace.nodes[n]) for n in self.observed}
        return total, found | {f"posterior/{n}": trace.nodes[n]["value"] for n in self.computed}

    def predict(
        self, values: Values, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Values, set[str]]:
        """A run of the model with observed sites sampled, and the sites whose value misfits."""
        given = Given(values, unobserve=True)
        trace = poutine.trace(given(self.model)).get_trace(*args, **kwargs)
        found = {
            name: torch.as_tensor(node["value"])
            for name, node in trace.nodes.items()
            if node["type"] == "sample"
            and not (site_is_subsample(node) or site_is_factor(node))
            and (name not in values or name in given.misfits)
        }
        return found, given.misfits


def is_latent(node: Mapping[str, Any], auxiliary: bool = False) -> bool:
    """Whether a node of a trace is a latent site, or also one that only a guide has."""
    return (
        node["type"] == "sample"
        and not (node["is_observed"] or site_is_subsample(node))
        and (auxiliary or not node["infer"].get("is_auxiliary"))
    )


def _dims(name: str, node: Mapping[str, Any], sites: frozenset[str]) -> list[str]:
    """Names for the batch dimensions of a site: its plates', where no site has such a name."""
    count = len(getattr(node["fn"], "batch_shape", ()))
    plates = {frame.dim: frame.name for frame in node["cond_indep_stack"] if frame.vectorized}
    names = [plates.get(dim, name) for dim in range(-count, 0)]
    return [f"{name}_dim_{place}" if plate in sites else plate for place, plate in enumerate(names)]


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


def _module_parameters(guide: Callable[..., Any]) -> set[str]:
    return {n for n, _ in guide.named_parameters()} if isinstance(guide, nn.Module) else set()


def _check_shapes(latent: Values, run: poutine.Trace, misfits: set[str]) -> None:
    for name in sorted(misfits):
        here, there = tuple(latent[name].shape), tuple(run.nodes[name]["fn"].shape())
        raise ValueError(
            f"the guide draws {name!r} with shape {here}, but in the model it has shape {there}; "
            "give the guide the same plates and shapes as the model"
        )


def _is_fresh(name: str) -> bool:
    """Whether a new entry of the store was made there; a module's parameter only enters it."""
    return not isinstance(pyro.get_param_store()[name].unconstrained(), nn.Parameter)


def _check_trained(fresh: Sequence[str]) -> None:
    if fresh:
        raise ValueError(
            f"there were no parameters {', '.join(map(repr, fresh))} before this run, so guide or "
            "model have never run, or Pyro's parameter store has been cleared since; train them "
            "first, or type Posterior.load(path, model, *args, guide=guide)"
        )
