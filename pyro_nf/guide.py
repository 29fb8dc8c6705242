"""The guide: a Pyro autoguide whose posterior is a normalizing flow."""

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import init_to_median
from pyro.infer.autoguide.guides import AutoContinuous
from torch import Tensor
from torch.distributions import biject_to, transform_to
from torch.distributions.constraints import Constraint

from pyro_nf.flow import Chain, Flow, FlowDistribution
from pyro_nf.flows.linear import Diag
from pyro_nf.registry import FlowSpec, flow_label, make_flow

__all__ = ["AutoFlowGuide"]

QUANTILE_DRAWS = 8192

_instances = itertools.count()


class AutoFlowGuide(AutoContinuous):
    r"""A normalizing-flow posterior over all latent variables of a model.

    The latents are packed into one unconstrained vector :math:`u \in R^D`, which is

    .. math:: u = \mu + e^{s} f(\epsilon), \qquad \epsilon \sim N(0, I),

    with a flow f that starts near the identity: a new guide is Pyro's ``AutoDiagonalNormal``.
    Use it wherever Pyro takes an autoguide. The shapes of the latents must not change between
    calls, and the guide does not depend on the model's arguments.

    References:
        Variational Inference with Normalizing Flows (Rezende and Mohamed, 2015)
        https://arxiv.org/abs/1505.05770

    Arguments:
        model: A Pyro model.
        flow: What :func:`pyro_nf.make_flow` takes: a formula such as ``"planar*16"``, a flow
            class or instance, a Pyro or torch transform, a function from D to one, or a list.
        init_loc_fn: Where the latents start, one of Pyro's ``init_to_...`` functions.
        init_scale: The standard deviation of the unconstrained latents at the start.
        name: The prefix of the guide's entries in Pyro's parameter store; by default one
            which no other guide in this process has, so that each trains its own parameters.

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

    master: Any  # what Pyro's base class, which has no types, sets
    prototype_trace: Any
    _model: tuple[Callable[..., Any]] | None

    def __init__(
        self,
        model: Callable[..., Any],
        flow: FlowSpec = "planar*8",
        *,
        init_loc_fn: Callable[..., Any] = init_to_median,
        init_scale: float = 0.1,
        name: str | None = None,
    ) -> None:
        if not callable(model):
            raise TypeError(f"expected a Pyro model, a callable, got {model!r}")
        if not (isinstance(init_scale, int | float) and 0 < init_scale < math.inf):
            raise ValueError(f"init_scale must be a positive number, got {init_scale!r}")
        super().__init__(model, init_loc_fn=_without_sampling(init_loc_fn))
        self._flow_spec = flow
        self._init_scale = float(init_scale)
        self._auto_name = name is None
        self._set_name(name)

    def _set_name(self, name: str | None) -> None:
        if name is None:
            number = next(_instances)
            name = type(self).__name__ + (f"_{number}" if number else "")
        self._pyro_name = name
        self._own_name = name

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
        try:
            # Without gradients: what is kept of this run must not hold a graph of the model's
            # parameters, or the guide could not be copied.
            with torch.no_grad():
                try:
                    super()._setup_prototype(*args, **kwargs)
                except (NotImplementedError, RuntimeError, ValueError) as error:
                    self._explain(error)
                    raise
                self._check_sites(*args, **kwargs)
                loc = self._init_loc()
            flow = make_flow(self._flow_spec, self.latent_dim)
            affine = Diag(self.latent_dim)
            flows = [*flow, affine] if isinstance(flow, Chain) else [flow, affine]
            self.flow = Chain(flows).to(device=loc.device, dtype=loc.dtype)
            with torch.no_grad():
                log_scale = torch.full_like(loc, math.log(self._init_scale))
                affine.params.theta.copy_(torch.cat([loc, log_scale]))
        except BaseException:
            self.prototype_trace = None  # a guide half set up would fail elsewhere, without a word
            raise

    def _explain(self, error: Exception) -> None:
        """Say what to type about the sites for which Pyro's set-up has just failed."""
        trace = self.prototype_trace
        if trace is None:  # the model itself has raised
            return
        sites = list(trace.iter_stochastic_nodes())
        if not any(site["value"].numel() for _, site in sites):
            raise ValueError(
                "the model has no latent variable, so there is nothing to infer; an empty guide, "
                "lambda *args, **kwargs: None, fits it"
            ) from error
        for name, site in sites:
            for frame in site["cond_indep_stack"]:
                if not frame.vectorized:
                    raise ValueError(
                        f"the latent site {name!r} is inside the sequential plate {frame.name!r}, "
                        "for i in pyro.plate(...); type with pyro.plate(...): around one "
                        "vectorized site, or for i in range(...): with a name for each site"
                    ) from error
            if site["fn"].support.is_discrete:
                raise ValueError(
                    f"the latent site {name!r} is discrete, and a flow is continuous; type "
                    f'AutoFlowGuide(poutine.block(model, hide=["{name}"])) and sum it out with '
                    "TraceEnum_ELBO, see https://pyro.ai/examples/enumeration.html"
                ) from error

    def _check_sites(self, *args: Any, **kwargs: Any) -> None:
        """Refuse what would be wrong without a word."""
        sites = dict(self.prototype_trace.iter_stochastic_nodes())
        free = {}
        for name, site in sites.items():
            for frame in site["cond_indep_stack"]:
                if frame.full_size is not None and frame.size < frame.full_size:
                    raise ValueError(
                        f"the latent site {name!r} is local to the plate {frame.name!r}, of which "
                        f"{frame.size} of {frame.full_size} rows are subsampled: one global guide "
                        "would use the same rows for every minibatch. Use the whole plate, or type "
                        "AmortizedFlowGuide(model, encoder) for local latents"
                    )
            free[name] = biject_to(site["fn"].support).inv(site["value"])
            if not bool(free[name].isfinite().all()):
                raise ValueError(
                    f"the latent site {name!r} starts at a value that is not finite in "
                    f"unconstrained space: {site['value']}; look for NaN in the data and in the "
                    "prior's parameters, or type init_loc_fn=init_to_value(values=...)"
                )
        moved = {
            name: biject_to(site["fn"].support)(free[name] + 1e-3 * (1 + free[name].abs()))
            for name, site in sites.items()
        }
        rerun = poutine.trace(poutine.condition(self.model, moved)).get_trace
        again = poutine.block(rerun)(*args, **kwargs)
        for name, site in sites.items():
            if not _same_support(site["fn"].support, again.nodes[name]["fn"].support):
                raise ValueError(
                    f"the support of the latent site {name!r}, {site['fn'].support}, depends on "
                    "another latent site, and a guide needs a fixed one; sample the site on a "
                    "fixed support, such as the unit interval, and compute its value with "
                    "pyro.deterministic"
                )

    # ---------------------------------------------------------------- the posterior

    def get_base_dist(self) -> dist.TorchDistribution:
        """The standard normal distribution over R^D."""
        return self._base_of(self.flow)

    def _base_of(self, flow: Flow) -> dist.TorchDistribution:
        zeros = next(flow.parameters()).new_zeros(flow.dim)
        return dist.Normal(zeros, torch.ones_like(zeros), validate_args=False).to_event(1)

    def get_transform(self, *args: Any, **kwargs: Any) -> Flow:
        """The flow from noise to the unconstrained latents, location and scale included."""
        return self.flow

    def get_posterior(self, *args: Any, **kwargs: Any) -> FlowDistribution:
        """The distribution of the unconstrained latents, over vectors of shape ``(D,)``."""
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        flow = self.flow  # once: each look-up visits the whole parameter store
        return FlowDistribution(self._base_of(flow), flow)

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
        quasi-random draws, and mapped to the support: the same at each call, and without a
        draw from the caller's random state.

        Arguments:
            quantiles: Numbers between 0 and 1.
            args: What the model takes.
            kwargs: What the model takes.

        Returns:
            For each site a tensor of shape ``(len(quantiles), *shape)``.
        """
        self.setup(*args, **kwargs)
        like = next(self.flow.parameters())
        wanted = torch.as_tensor(quantiles, dtype=like.dtype, device=like.device)
        if wanted.dim() != 1 or not bool(((wanted >= 0) & (wanted <= 1)).all()):
            raise ValueError(f"expected a list of numbers between 0 and 1, got {quantiles}")
        sobol = torch.quasirandom.SobolEngine(self.latent_dim, scramble=True, seed=0)
        uniform = sobol.draw(QUANTILE_DRAWS, dtype=torch.float64).clamp(1e-10, 1 - 1e-10)
        noise = torch.special.ndtri(uniform).to(like)
        latents = self.flow(noise).quantile(wanted, 0)
        result: dict[str, list[Tensor]] = {}
        for latent in latents:
            for site, value in self._unpack_latent(latent):
                support = biject_to(site["fn"].support)
                result.setdefault(site["name"], []).append(support(value))
        return {name: torch.stack(values) for name, values in result.items()}

    # ---------------------------------------------------------------- as an object

    @property
    def model(self) -> Callable[..., Any]:
        """The model, which a guide that was unpickled has no more."""
        if self._model is None:
            raise RuntimeError(
                "this guide was unpickled, and a model is not pickled with it; to train on, type "
                "AutoFlowGuide(model, flow).setup(*args) and load_state_dict(guide.state_dict())"
            )
        return self._model[0]

    def __getstate__(self) -> dict[str, Any]:
        model, master = self._model, self.master
        try:
            return dict(super().__getstate__())
        finally:
            self._model, self.master = model, master  # the parent wipes them from the live guide

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # A copy must not share the entries of the original in the parameter store.
        if self._auto_name and self._pyro_name == self._own_name:
            self._set_name(None)

    def __deepcopy__(self, memo: dict[int, Any]) -> "AutoFlowGuide":
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        new.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        new._model = self._model
        return new

    def __repr__(self) -> str:
        name = type(self).__name__
        if self.prototype_trace is None:
            return f"{name}({self._flow_spec!r}, not set up: type guide.setup(*args))"
        layers = [
            (label, len(list(run))) for label, run in itertools.groupby(map(flow_label, self.flow))
        ]
        stack = " + ".join(label if count == 1 else f"{label}*{count}" for label, count in layers)
        count = sum(parameter.numel() for parameter in self.parameters())
        return f"{name}({stack}, D={self.latent_dim}, {count:,} parameters)"


def _without_sampling(init_loc_fn: Callable[..., Any]) -> Callable[..., Any]:
    """`init_loc_fn`, with a feasible point for a prior that cannot be sampled."""

    def init(site: dict[str, Any]) -> Tensor:
        try:
            return init_loc_fn(site)
        except NotImplementedError:  # such as ImproperUniform
            fn = site["fn"]
            transform = transform_to(fn.support)
            free = transform.inverse_shape(fn.batch_shape + fn.event_shape)
            return transform(torch.zeros(free))

    return init


def _same_support(one: Any, other: Any) -> bool:
    """Whether two constraints have the same type and the same bounds."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.shape == other.shape and bool((one == other).all())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same_support, one, other))
    if isinstance(one, Constraint):
        shared = vars(one).keys() & vars(other).keys()
        return all(_same_support(vars(one)[key], vars(other)[key]) for key in shared)
    return bool(one == other)
