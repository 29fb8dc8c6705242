"""The guide: a Pyro autoguide whose posterior is a normalizing flow."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.infer.autoguide import init_to_median
from pyro.infer.autoguide.guides import AutoContinuous
from torch import Tensor
from torch.distributions import biject_to

from pyro_nf.flows import Chain, Flow, FlowDistribution, FlowSpec, make_flow
from pyro_nf.guides.default_flow import default_flow
from pyro_nf.guides.find_hierarchy import untied
from pyro_nf.guides.flow_guide import FlowGuide, Gradient, stack_label
from pyro_nf.guides.hierarchy import Hierarchy
from pyro_nf.guides.layers import Stack
from pyro_nf.guides.param_store import adopt
from pyro_nf.guides.supports import DependentSupports
from pyro_nf.model import Bijected, Target, explain_dtypes, sites, startable
from pyro_nf.sampling import find_coordinates

__all__ = ["AutoFlowGuide"]


class AutoFlowGuide(FlowGuide, AutoContinuous):
    r"""A normalizing-flow posterior over all latent variables of a model.

    The latents are packed into one unconstrained vector :math:`u \in R^D`, which is

    .. math:: u = \mu + e^{s} f(\epsilon), \qquad \epsilon \sim N(0, I),

    with a flow f that starts near the identity: a new guide is Pyro's ``AutoDiagonalNormal``.
    Use it wherever Pyro takes an autoguide. The shapes of the latents must not change between
    calls, and the guide does not depend on the model's arguments.

    Four things are not as in ``AutoMultivariateNormal``: `loc` is the mean of fixed draws, no
    parameter, and there is no `scale_tril`; a standard deviation is not half of the central 68 %; a
    new guide lies where `init_loc_fn` says but for a few hundredths of `init_scale`; and networks,
    as in the default flow, want a learning rate of some 0.01, where ``"tril"`` bears 0.05.

    References:
        Variational Inference with Normalizing Flows (Rezende and Mohamed, 2015)
        https://arxiv.org/abs/1505.05770

    Arguments:
        model: A Pyro model.
        flow: What :func:`pyro_nf.make_flow` takes: a formula such as ``"planar*16"``, a flow
            class or instance, a Pyro or torch transform, a function from D to one, or a list. By
            default :func:`default_flow` of the dimension, as for :func:`~pyro_nf.fit`.
        init_loc_fn: Where the latents start, or near it, one of Pyro's ``init_to_...`` functions.
        init_scale: The standard deviation of the unconstrained latents at the start.
        gradient: ``"path"`` for the gradient along the samples' paths alone, whose noise vanishes
            as the guide comes near the posterior; ``"total"`` for all of it, which flows that do
            not carry the score have in any case, and which an objective needs that is not linear
            in the guide's log density, such as ``RenyiELBO``.
        name: The prefix of the guide's entries in Pyro's parameter store; by default its own.

    Example:
        >>> import pyro
        >>> from pyro.infer import SVI, Trace_ELBO
        >>> from pyro.optim import Adam
        >>> def model(data):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        ...     scale = pyro.sample("scale", dist.HalfNormal(1.0))
        ...     with pyro.plate("data", len(data)):
        ...         pyro.sample("x", dist.Normal(mean, scale), obs=data)
        >>> data = torch.tensor([1.0, 2.0, 3.0])
        >>> guide = AutoFlowGuide(model, "planar*4").setup(data)
        >>> guide
        AutoFlowGuide(planar*4 + diag, D=2, 24 parameters)
        >>> svi = SVI(model, guide, Adam({"lr": 1e-2}), Trace_ELBO())
        >>> loss = svi.step(data)
        >>> sorted(guide(data))
        ['mean', 'scale']
    """

    flow: Stack
    _supports: DependentSupports | None = None  # where supports are not fixed

    def __init__(
        self,
        model: Callable[..., Any],
        flow: FlowSpec | None = None,
        *,
        init_loc_fn: Callable[..., Any] = init_to_median,
        init_scale: float = 0.1,
        gradient: Gradient = "path",
        name: str | None = None,
    ) -> None:
        options = {"init_loc_fn": sites.starting(init_loc_fn)}
        super().__init__(model, flow, init_scale, gradient, name, **options)

    # ---------------------------------------------------------------- setting up

    def setup(self, *args: Any, **kwargs: Any) -> "AutoFlowGuide":
        """Run the model once and make all parameters; the first call does so otherwise.

        Arguments:
            args: What the model takes.
            kwargs: What the model takes.

        Returns:
            The guide itself.
        """
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
            if self.master is None:
                self._create_plates(*args, **kwargs)  # NeuTra reads them, also before a first call
        return self

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        as_given = self._model
        try:
            # Without gradients: a guide that kept a graph of parameters could not be copied.
            with torch.no_grad():
                try:
                    self._model = (Bijected()(startable(self.model, args, kwargs)),)
                    super()._setup_prototype(*args, **kwargs)
                except (IndexError, NotImplementedError, RuntimeError, ValueError) as error:
                    if self.prototype_trace is not None:  # None: the model itself has raised
                        sites.explain(self.prototype_trace, error)
                    explain_dtypes(error, (self._bare_model or (self.model,))[0], args, kwargs)
                    raise
                dependent = sites.check(self.model, self.prototype_trace, args, kwargs)
                sites.prune(self.prototype_trace)
                loc = self._init_loc()
            given = self._flow_spec[0]
            formula = default_flow(self.latent_dim) if given is None else given
            flow = make_flow(formula, self.latent_dim)
            self._flow_spec = (formula,)
            layers = list(flow) if isinstance(flow, Chain) else [flow]
            stack = self.flow = Stack(layers, loc, self._init_scale)
            if given is not None:
                self._warn_of(Chain(stack.learned))
            # Pyro's wrapper, which looks for a start, would do so at each run of the model.
            self._model = self._bare_model
            if dependent:
                self._supports = DependentSupports(self._unconstrained_shapes, dependent)
        except BaseException:
            self.prototype_trace, self._model = None, as_given  # half set up, it fails elsewhere
            raise

    def _ask(self, args: Any, kwargs: Any) -> None:
        """Ask the model for the supports that depend on other latents, with these arguments."""
        if self._supports is not None:
            self._supports.ask(self.model, args, kwargs, self._init_loc())

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """A draw of the latents, by site."""
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        self._ask(args, kwargs)
        drawn: dict[str, Tensor] = super().forward(*args, **kwargs)
        return drawn

    def _unpack_latent(self, latent: Tensor) -> Iterator[tuple[dict[str, Any], Tensor]]:
        found = super()._unpack_latent(latent)
        return found if self._supports is None else self._supports(latent, found)

    def warm_start(self, *args: Any, **kwargs: Any) -> "AutoFlowGuide":
        r"""Move the guide to coordinates in which the posterior is nearly standard normal.

        For a new guide, before training: a normal approximation :math:`N(m, L L^\top)` is found
        by the mode and the curvature there, or by natural gradients, and the guide becomes
        :math:`u = m + L (\mu + e^s f(\epsilon))` with :math:`\mu = s = 0`. Where the model's
        density is random, as with subsampled data, or no approximation is found, the guide stays
        as it is.

        Where normal latents have a scale that depends on other latents, as in a hierarchy, or a
        mean that is bent, u is made of such coordinates by
        :class:`~pyro_nf.guides.Hierarchy`, if that gives a better approximation: funnels and
        bananas are then gone.

        Flows at the end of the formula that move each coordinate by itself, such as ``tails``,
        then act on the model's own coordinates, shifted and scaled, but not rotated by L.

        Arguments:
            args: What the model takes.
            kwargs: What the model takes.

        Returns:
            The guide itself.
        """
        self.setup(*args, **kwargs)
        self.whiten(Target.of(self, args, kwargs))
        return self

    def whiten(self, target: Target) -> None:
        """The same, for a posterior whose density is at hand."""
        scale = torch.full_like(target.start, self._init_scale)
        found = None if target.random else find_coordinates(target, target.start, scale)
        if found is not None:
            found = untied(target, self.hierarchy, found)
            self.flow.move(found.shift, found.scale_tril)

    @property
    def formula(self) -> str | None:
        """The formula that makes such a guide of the model; None for a flow made otherwise."""
        (flow,) = self._flow_spec
        return flow if isinstance(flow, str) else None

    @property
    def dependent_sites(self) -> frozenset[str]:
        return frozenset() if self._supports is None else self._supports.names

    @property
    def hierarchy(self) -> Hierarchy:
        """What makes u of coordinates in which latents do not depend on those above them."""
        return self.flow.hierarchy

    # ---------------------------------------------------------------- the posterior

    def get_base_dist(self) -> dist.TorchDistribution:
        """The standard normal distribution over R^D."""
        return self._base_of(self._made())

    def _made(self) -> Flow:
        if self.prototype_trace is None:
            raise RuntimeError("the guide has no flow yet: type guide.setup(*args) first")
        return self.flow  # once a call: each look-up visits the whole parameter store

    def _base_of(self, flow: Flow) -> dist.TorchDistribution:
        zeros = next(flow.parameters()).new_zeros(flow.dim)
        return dist.Normal(zeros, torch.ones_like(zeros), validate_args=False).to_event(1)

    def get_transform(self, *args: Any, **kwargs: Any) -> Flow:
        """The flow from noise to the unconstrained latents, location and scale included."""
        return self._made()

    def get_posterior(self, *args: Any, **kwargs: Any) -> FlowDistribution:
        """The distribution of the unconstrained latents, over vectors of shape ``(D,)``."""
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        if self._pyro_context.active:
            adopt(self._modules["flow"], self._pyro_get_fullname("flow"))
        flow = self._made()
        path = self.gradient == "path" and flow.carries_score
        score = torch.neg if path else None
        return FlowDistribution(self._base_of(flow), flow, score)

    @property
    def loc(self) -> Tensor:
        """The mean of the unconstrained latents, with shape ``(D,)``; no parameter."""
        return FlowDistribution(self.get_base_dist(), self._made()).mean

    def _loc_scale(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the unconstrained latents, as Pyro's guides give them."""
        draws = self.get_posterior(*args, **kwargs).fixed_draws()
        return draws.mean(0), draws.std(0, correction=0)

    @torch.no_grad()
    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The posterior median of each latent variable, see :meth:`quantiles`."""
        return {name: value[0] for name, value in self.quantiles([0.5], *args, **kwargs).items()}

    @torch.no_grad()
    def quantiles(
        self, quantiles: Sequence[float] | Tensor, *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Posterior quantiles of each latent variable.

        They are taken coordinate by coordinate in unconstrained space, from 8,192 fixed
        quasi-random draws (1,024 in more than 4,096 dimensions), and mapped to the support: the
        same at each call, and without a draw from the caller's random state.

        Arguments:
            quantiles: Numbers between 0 and 1.
            args: What the model takes.
            kwargs: What the model takes.

        Returns:
            For each site a tensor of shape ``(len(quantiles), *shape)``.
        """
        self.setup(*args, **kwargs)
        self._ask(args, kwargs)
        draws = self.get_posterior().fixed_draws()
        wanted = torch.as_tensor(quantiles).to(draws)
        if wanted.dim() != 1 or not bool(((wanted >= 0) & (wanted <= 1)).all()):
            raise ValueError(f"expected a list of numbers between 0 and 1, got {quantiles}")
        result: dict[str, list[Tensor]] = {}
        for latent in draws.quantile(wanted, 0):
            for site, value in self._unpack_latent(latent):
                result.setdefault(site["name"], []).append(biject_to(site["fn"].support)(value))
        return {name: torch.stack(values) for name, values in result.items()}

    # ---------------------------------------------------------------- as an object

    def __repr__(self) -> str:
        name = type(self).__name__
        if self.prototype_trace is None:
            (given,) = self._flow_spec
            flow = "the default flow" if given is None else repr(given)
            return f"{name}({flow}, not set up: type guide.setup(*args))"
        count = sum(parameter.numel() for parameter in self.parameters())
        where = ", whitened" if self.flow.whitened else ""
        where += ", without ties" if self.hierarchy.generations else ""
        label = stack_label(self.flow.learned)
        return f"{name}({label}, D={self.latent_dim}, {count:,} parameters{where})"
