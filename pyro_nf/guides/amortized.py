"""The guide for local latents: a flow posterior for each row, made by an inference network."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import init_to_median
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.infer.util import is_validation_enabled
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor, nn
from torch.distributions import biject_to
from torch.distributions.utils import _sum_rightmost

from pyro_nf.checks import whole
from pyro_nf.flows import Chain, Diag, FlowDistribution, FlowSpec, make_flow
from pyro_nf.guides.features import OfFeatures
from pyro_nf.guides.flow_guide import FlowGuide, Gradient, stack_label
from pyro_nf.guides.param_store import adopt
from pyro_nf.guides.plates import (
    Part,
    Plate,
    local_plates,
    misfit,
    not_finite,
    other_rows,
    parts_of,
    plates_of_model,
    positions,
)
from pyro_nf.model import Bijected, sites, startable

__all__ = ["AmortizedFlowGuide"]


class AmortizedFlowGuide(FlowGuide):
    r"""A normalizing-flow posterior for the latents of each row of a plate.

    The unconstrained latents :math:`u_i \in R^D` of row i, of one site or of several, depend on
    the features :math:`h_i` that an encoder gives for the row:

    .. math:: u_i = \mu(h_i) + e^{s(h_i)} f(\epsilon_i; h_i), \qquad \epsilon_i \sim N(0, I)

    Location, log-scale and the flow's parameters are affine functions of the features, whose
    weights start at zero: a new guide is the same normal distribution for all rows, but for what
    the flow's own small noise adds. A planar flow of the location-scale base, as in the paper,
    is one of the standard normal base with other parameters, so that this is the paper's family.

    The plate may be subsampled, its rows drawn or given by the model, and may have other rows at
    each call: the guide runs the model as far as its first local latent site to see which. The
    encoder is called inside the plate, so ``pyro.subsample(data, event_dim=1)`` there gives the
    rows' own data; of features for all rows of the plate the guide takes those rows.

    References:
        Variational Inference with Normalizing Flows (Rezende and Mohamed, 2015)
        https://arxiv.org/abs/1505.05770

    Arguments:
        model: A Pyro model, all of whose latent sites are in one plate; hide others from the
            guide by ``poutine.block``.
        encoder: A module from what the model takes to features, of shape ``(rows, F)``, or, where
            the sites share several plates, ``(*rows, F)``.
        flow: What :func:`pyro_nf.make_flow` takes: a formula such as ``"planar*10"``.
        context_dim: For flows with networks: the size of a linear function of the features that
            they take in place of the features themselves.
        init_loc_fn: Where the latents start, one of Pyro's ``init_to_...`` functions; the mean
            over the rows counts.
        init_scale: The standard deviation of the unconstrained latents at the start.
        gradient: ``"path"`` or ``"total"``, as for :class:`~pyro_nf.AutoFlowGuide`.
        name: The prefix of the guide's entries in Pyro's parameter store; by default one which
            no other guide in this process has.

    Example:
        >>> from pyro.infer import SVI, Trace_ELBO
        >>> from pyro.optim import Adam
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...         pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x)
        >>> guide = AmortizedFlowGuide(model, nn.Linear(1, 8), "planar*4")
        >>> svi = SVI(model, guide, Adam({"lr": 1e-3}), Trace_ELBO())
        >>> loss = svi.step(torch.randn(100, 1))
        >>> guide(torch.randn(20, 1))["z"].shape
        torch.Size([20, 2])
    """

    _context_dim: int | None
    _rows: Sequence[CondIndepStackFrame] = ()  # of no plate before it is set up
    _parts: Sequence[Part] = ()

    def __init__(
        self,
        model: Callable[..., Any],
        encoder: nn.Module,
        flow: FlowSpec = "planar*10",
        *,
        context_dim: int | None = None,
        init_loc_fn: Callable[..., Any] = init_to_median,
        init_scale: float = 0.1,
        gradient: Gradient = "path",
        name: str | None = None,
    ) -> None:
        if not isinstance(encoder, nn.Module):
            raise TypeError(
                "encoder must be a torch.nn.Module from what the model takes to features of shape "
                f"(rows, F), got {encoder!r}; type AmortizedFlowGuide(model, encoder)"
            )
        if context_dim is not None:
            whole("context_dim", context_dim)
        super().__init__(model, flow, init_scale, gradient, name)
        self._model = (model, sites.starting(init_loc_fn))  # neither is pickled
        self._context_dim = context_dim
        self.encoder = encoder

    # ---------------------------------------------------------------- setting up

    def setup(self, *args: Any, **kwargs: Any) -> "AmortizedFlowGuide":
        """Run the model once and make all parameters; the first call does so otherwise.

        Arguments:
            args: What the model takes.
            kwargs: What the model takes.

        Returns:
            The guide itself.
        """
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        return self

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        model = self.model
        assert self._model is not None  # or the line above has raised
        model = Bijected()(startable(InitMessenger(self._model[1])(model), args, kwargs))
        with torch.no_grad(), poutine.block():
            hidden = poutine.block(model, self._prototype_hide_fn)
            trace = poutine.trace(hidden).get_trace(*args, **kwargs)
            self._check_sites(model, trace, args, kwargs)
            rows = local_plates(trace)
            names = [frame.name for frame in rows]
            for name in sites.check(model, trace, args, kwargs, names):
                sites.refuse_dependent(name, trace.nodes[name]["fn"].support)
            self._rows = rows
            self._parts, loc = parts_of(trace, rows)
            if self.master is not None:
                self._check_master(self.master(), trace, args, kwargs)
            with ExitStack() as stack:
                features = self._features(self._enter(stack, args, kwargs), args, kwargs)
            flow = self._stack_of_flows(len(loc), features.size(-1)).to(loc)
            log_scale = torch.full_like(loc, self._init_scale).log()
            flow.flows[-1].params.theta.copy_(torch.cat([loc, log_scale]))
        self._warn_of(flow)
        sites.prune(trace)
        self.flow = flow
        self.prototype_trace = trace

    def _check_sites(self, model: Any, trace: Any, args: Any, kwargs: Any) -> None:
        """What Pyro's set-up of a global autoguide would find, in the same words."""
        for _, site in trace.iter_stochastic_nodes():
            whole = all(frame.vectorized for frame in site["cond_indep_stack"])
            support = site["fn"].support
            if not whole or support.is_discrete or not sites.has_bijection(support):
                sites.explain(trace, NotImplementedError())
        if not any(site["value"].numel() for _, site in trace.iter_stochastic_nodes()):
            sites.explain(trace, RuntimeError())

    def _check_master(self, master: Any, trace: Any, args: Any, kwargs: Any) -> None:
        master._check_prototype(trace)
        _, explicit = plates_of_model(master.model, self.sites, args, kwargs)
        given = [frame.name for frame in self._rows if frame.name in explicit]
        if given and master.create_plates is None:
            raise ValueError(other_rows(given[0]))

    def _stack_of_flows(self, dim: int, features: int) -> Chain:
        (formula,) = self._flow_spec
        assert formula is not None  # this guide's flow has a default
        flow = make_flow(formula, dim, self._context_dim or features)
        if self._context_dim and flow.context_dim:
            flow = OfFeatures(flow, features)
        return Chain([*(flow if isinstance(flow, Chain) else [flow]), Diag(dim, features)])

    @property
    def sites(self) -> frozenset[str]:
        """The names of the latent sites, once the guide is set up."""
        return frozenset(part.name for part in self._parts)

    @property
    def row_plates(self) -> tuple[str, ...]:
        """The plates whose rows have posteriors of their own, once the guide is set up."""
        return tuple(frame.name for frame in self._rows)

    @property
    def local_sites(self) -> frozenset[str]:
        """The same as :attr:`sites`: this guide has no others."""
        return self.sites

    # ---------------------------------------------------------------- the posterior

    def _enter(self, stack: ExitStack, args: Any, kwargs: Any) -> list[pyro.plate]:
        """The plates of the rows, entered, with the rows that the model has."""
        if self.master is not None:
            plates = [self.master().plates[frame.name] for frame in self._rows]
        else:
            found, _ = plates_of_model(self.model, self.sites, args, kwargs)
            plates = [_made(frame.name, found[frame.name]) for frame in self._rows]
        for plate in plates:
            stack.enter_context(plate)
        return plates

    def _features(self, plates: Sequence[pyro.plate], args: Any, kwargs: Any) -> Tensor:
        """The features of the rows, of shape ``(*batch, F)``."""
        features = self.encoder(*args, **kwargs)
        if not (isinstance(features, Tensor) and features.is_floating_point()):
            raise TypeError(f"the encoder must give a tensor of features, got {features!r}")
        rows = tuple(plate.subsample_size for plate in plates)
        given = features.shape[:-1]
        if given != rows and given == tuple(plate.size for plate in plates):
            for axis, plate in enumerate(plates):
                if plate.subsample_size < plate.size:
                    features = features.index_select(axis, plate.indices.to(features.device))
        elif given != rows or not features.dim():
            raise ValueError(misfit(self._parts, features, plates, self.master is not None))
        if is_validation_enabled() and not torch._C._get_tracing_state():
            bad = ~features.detach().isfinite().reshape(-1, features.size(-1)).all(-1)
            if bool(bad.any()):
                raise ValueError(not_finite(self._parts, features, bad))
        batch = [1] * -plates[0].dim
        for plate in plates:
            batch[plate.dim] = plate.subsample_size
        return features.reshape(*batch, features.size(-1))

    def get_posterior(self, *args: Any, **kwargs: Any) -> FlowDistribution:
        """The distribution of each row's unconstrained latents, vectors of shape ``(D,)``."""
        self.setup(*args, **kwargs)
        with ExitStack() as stack:
            return self._posterior(self._enter(stack, args, kwargs), args, kwargs)

    def _posterior(self, plates: Sequence[pyro.plate], args: Any, kwargs: Any) -> FlowDistribution:
        if self._pyro_context.active:
            for name in ("encoder", "flow"):
                adopt(self._modules[name], self._pyro_get_fullname(name))
        flow = self.flow  # once a call: each look-up visits the whole parameter store
        theta = flow.flows[-1].params.theta
        features = self._features(plates, args, kwargs).to(theta.dtype)
        zeros = features.new_zeros(*features.shape[:-1], flow.dim)
        base = dist.Normal(zeros, torch.ones_like(zeros), validate_args=False).to_event(1)
        path = self.gradient == "path" and flow.carries_score
        return FlowDistribution(base, flow.condition(features), torch.neg if path else None)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """A draw of the latents, for each site of shape ``(*plates, *event)``."""
        self.setup(*args, **kwargs)
        result = {}
        with ExitStack() as stack:
            plates = self._enter(stack, args, kwargs)
            posterior = self._posterior(plates, args, kwargs)
            name = f"_{self._pyro_name}_latent"
            latent = pyro.sample(name, posterior, infer={"is_auxiliary": True})
            inner = self._inner_plates()
            for part, place in positions(self._parts):
                free = part.cut(latent[..., place])
                to_support = biject_to(part.support)
                value = to_support(free)
                stretch = to_support.inv.log_abs_det_jacobian(value, free)
                excess = stretch.dim() - value.dim() + part.event_dim
                density = _sum_rightmost(stretch, excess)
                fn = dist.Delta(value, log_density=density, event_dim=part.event_dim)
                with ExitStack() as own:
                    for frame in part.own:
                        own.enter_context(inner[frame.name])
                    result[part.name] = pyro.sample(part.name, fn)
        return result

    def _inner_plates(self) -> dict[str, pyro.plate]:
        """The plates within a row."""
        frames = {frame.name: frame for part in self._parts for frame in part.own}
        if self.master is not None:
            made: dict[str, pyro.plate] = self.master().plates
            return made
        return {name: pyro.plate(name, f.size, dim=f.dim) for name, f in frames.items()}

    def __repr__(self) -> str:
        name = type(self).__name__
        if self.prototype_trace is None:
            return f"{name}({self._flow_spec[0]!r}, not set up: type guide.setup(*args))"
        count = sum(parameter.numel() for parameter in self.parameters())
        *inner, last = self.flow
        if isinstance(inner[0], OfFeatures):
            inner = list(inner[0].flow) if isinstance(inner[0].flow, Chain) else [inner[0].flow]
        shape = f"D={last.dim}, {last.context_dim} features"
        return f"{name}({stack_label([*inner, last])}, {shape}, {count:,} parameters)"


def _made(name: str, plate: Plate) -> pyro.plate:
    rows = None if plate.indices is None else plate.rows
    return pyro.plate(name, plate.size, rows, plate.indices, dim=plate.dim)
