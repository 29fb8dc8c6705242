"""The guide: a Pyro autoguide whose posterior is a normalizing flow."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.infer.autoguide import init_to_median
from torch import Tensor

from pyro_nf.flows import Flow, FlowSpec, make_flow
from pyro_nf.guides.auxiliary import Auxiliary, over_modes
from pyro_nf.guides.default_flow import default_flow
from pyro_nf.guides.find_hierarchy import untied
from pyro_nf.guides.flow_guide import Gradient, stack_label
from pyro_nf.guides.hamiltonian import Bridge
from pyro_nf.guides.hierarchy import Hierarchy
from pyro_nf.guides.layers import Stack, layers_of
from pyro_nf.guides.noise import noise_of
from pyro_nf.guides.parts import Rest, parts_of
from pyro_nf.guides.points import Points
from pyro_nf.guides.supports import DependentSupports
from pyro_nf.guides.vector_guide import VectorGuide
from pyro_nf.model import Bijected, Packing, Target, explain_dtypes, sites, startable
from pyro_nf.sampling import find_coordinates, mean_field

__all__ = ["AutoFlowGuide"]


class AutoFlowGuide(VectorGuide):
    r"""A normalizing-flow posterior over all latent variables of a model.

    The latents are packed into one unconstrained vector :math:`u \in R^D`, which is

    .. math:: u = \mu + e^{s} f(\epsilon), \qquad \epsilon \sim N(0, I),

    with a flow f that starts near the identity: a new guide is Pyro's ``AutoDiagonalNormal``.
    Use it wherever Pyro takes an autoguide. The shapes of the latents must not change between
    calls, and the guide does not depend on the model's arguments.

    With ``hamiltonian=K`` the noise makes K leapfrog steps through the model's density before f
    takes it, :class:`~pyro_nf.guides.hamiltonian.Leapfrogs`: where a flow must learn a shape, these
    follow it, and the flow, the sizes of the steps, and the bridge that they go along are trained
    together. The guide's density is then a bound: a draw has the density of its path, so that ELBO,
    weights, k-hat and evidence are right as they are; the density of given values is an estimate.
    Such a guide needs gradients of the model, of all the data, and follows those of its `setup`,
    also where it is called with others, as in predictions. A step costs as much as K or so.

    With ``auxiliary=A`` f is a flow on D + A numbers, of which the last are noise,
    :class:`~pyro_nf.guides.auxiliary.Auxiliary`: so the posterior may have several modes, or a
    hole. Its density is a bound, too.

    Four things are not as in ``AutoMultivariateNormal``: `loc` is the mean of fixed draws, no
    parameter, and there is no `scale_tril`; a standard deviation is not half of the central 68 %; a
    new guide lies where `init_loc_fn` says but for a few hundredths of `init_scale`; and networks,
    as in the default flow, want 16 draws a step or more and a learning rate of some 0.01, where
    ``"tril"`` bears 0.05 with one draw: a step of Adam's moves all weights of a network at once.

    References:
        Variational Inference with Normalizing Flows (Rezende and Mohamed, 2015)
        https://arxiv.org/abs/1505.05770

    Arguments:
        model: A Pyro model.
        flow: What :func:`pyro_nf.make_flow` takes: a formula such as ``"planar*16"``, a flow
            class or instance, a Pyro or torch transform, a function from D to one, or a list. By
            default :func:`default_flow` of the dimension, as for :func:`~pyro_nf.fit`.
        sites: The latent sites that get the flow, by name or pattern, such as
            ``["tau", "theta*"]``; by default all. For models of many latents of which few are hard:
            a step's time, and the parameters, grow with D as for a mean-field guide.
        rest: What the others get: ``"normal"``, the default, each number a normal distribution of
            its own; or ``"delta"``, points, which are trained with the flow. What draws and
            verdict then say of the other sites is true given these points.
        init_loc_fn: Where the latents start, or near it, one of Pyro's ``init_to_...`` functions.
        init_scale: The standard deviation of the unconstrained latents at the start.
        gradient: ``"path"`` for the gradient along the samples' paths alone, whose noise vanishes
            as the guide comes near the posterior; ``"total"`` for all of it, which flows that do
            not carry the score have in any case, and which an objective needs that is not linear
            in the guide's log density, such as ``RenyiELBO``.
        hamiltonian: The number of leapfrog steps; 0 for none. Their gradient is the total one,
            whatever `gradient` says; :func:`~pyro_nf.fit` trains the flow along paths first.
        persistence: The share of the momentum that is kept between them, at the start, by default
            0.9; 0 for Langevin steps, and 1 for plain leapfrogs, stay as they are.
        auxiliary: The number A of auxiliary variables; 0 for none.
        name: The prefix of the guide's entries in Pyro's parameter store; by default its own.

    Example:
        >>> import pyro
        >>> import pyro.distributions as dist
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

    def __init__(
        self,
        model: Callable[..., Any],
        flow: FlowSpec | None = None,
        *,
        sites: str | Sequence[str] | None = None,
        rest: Rest | None = None,
        init_loc_fn: Callable[..., Any] = init_to_median,
        init_scale: float = 0.1,
        gradient: Gradient = "path",
        hamiltonian: int = 0,
        persistence: float | None = None,
        auxiliary: int = 0,
        name: str | None = None,
    ) -> None:
        parts = parts_of(sites, rest)
        noise = noise_of(hamiltonian, persistence, auxiliary, parts)
        super().__init__(model, flow, init_loc_fn, init_scale, gradient, name)
        self._parts, self._noise = parts, noise

    # ---------------------------------------------------------------- setting up

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
                columns = self._part(dependent)
                loc = self._init_loc()
            self._make(loc, columns)
            # Pyro's wrapper, which looks for a start, would do so at each run of the model.
            self._model = self._bare_model
            if dependent:
                self._supports = DependentSupports(self._unconstrained_shapes, dependent)
            self._follow(args, kwargs)
        except BaseException:
            self.prototype_trace, self._model = None, as_given  # half set up, it fails elsewhere
            raise

    def _make(self, loc: Tensor, columns: Sequence[int] | None) -> None:
        """Make the flow, and what the noise needs.

        Arguments:
            loc: Where the latents start, with shape ``(D,)``.
            columns: Those of them that get the flow; None for all.
        """
        steps, persistence, more = self._noise or (0, None, 0)
        given = self._flow_spec[0]
        dim = (len(loc) if columns is None else len(columns)) + more
        formula = default_flow(dim) if given is None else given
        flow = make_flow(formula, dim)
        self._flow_spec = (formula,)
        self.flow = Stack([] if more else layers_of(flow), loc, self._init_scale, columns)
        if more:
            self.noise = Auxiliary(flow, len(loc))
        elif persistence is not None:
            self.noise = Bridge(steps, persistence)
        if self._noise is not None:
            self.noise.to(device=loc.device, dtype=loc.dtype)
        if given is not None:
            self._warn_of(self._layers)

    @property
    def _layers(self) -> list[Flow]:
        """The flows that are learned, the first nearest to the noise."""
        noise = self._modules.get("noise")
        outside = layers_of(noise.flow) if isinstance(noise, Auxiliary) else []
        return [*outside, *self.flow.learned]

    def _part(self, dependent: Sequence[str]) -> list[int] | None:
        """Where in u the numbers are that get the flow, if not all; the others may become points.

        Arguments:
            dependent: The sites whose supports depend on other sites.
        """
        if self._parts is None:
            return None
        chosen = self._parts.chosen(self._unconstrained_shapes)
        if self._parts.rest == "normal":
            columns = Packing(self._unconstrained_shapes).columns
            return [i for name in chosen for i in range(columns[name].start, columns[name].stop)]
        if dependent:
            raise ValueError(
                f"the supports of {', '.join(map(repr, dependent))} depend on other latent sites, "
                'for which there cannot be points; type rest="normal"'
            )
        nodes = dict(self.prototype_trace.iter_stochastic_nodes())
        others = {name: node for name, node in nodes.items() if name not in chosen}
        for name in others:
            self.prototype_trace.remove_node(name)
            del self._unconstrained_shapes[name], self._cond_indep_stacks[name]
        self.latent_dim = Packing(self._unconstrained_shapes).dim
        self.points = Points(others)
        return None

    def warm_start(self, *args: Any, **kwargs: Any) -> "AutoFlowGuide":
        r"""Move the guide to coordinates in which the posterior is nearly standard normal.

        For a new guide, before training: a normal approximation :math:`N(m, L L^\top)` is found
        by the mode and the curvature there, or by natural gradients, and the guide becomes
        :math:`u = m + L (\mu + e^s f(\epsilon))` with :math:`\mu = s = 0`. Where the model's
        density is random, as with subsampled data, the guide stays as it is; in more than 500
        dimensions L is diagonal.

        Where normal latents have a scale that depends on other latents, as in a hierarchy, or a
        mean that is bent, u is made of such coordinates by
        :class:`~pyro_nf.guides.Hierarchy`, if that gives a better approximation: funnels and
        bananas are then gone.

        Flows at the end of the formula that move each coordinate by itself, such as ``tails``,
        then act on the model's own coordinates, shifted and scaled, but not rotated by L.

        Where the flow has some of the sites, L is dense for these and diagonal for the others.
        Where the others are points, which are not yet where they will be, the guide stays as it is.

        Arguments:
            args: What the model takes.
            kwargs: What the model takes.

        Returns:
            The guide itself.
        """
        self.setup(*args, **kwargs)
        if not self.point_sites:
            self.whiten(Target.of(self, args, kwargs))
        return self

    def whiten(self, target: Target) -> None:
        """The same, for a posterior whose density is at hand."""
        scale = torch.full_like(target.start, self._init_scale)
        if target.random:
            return
        looped = not target.vectorized
        found = find_coordinates(target, target.start, scale, looped)
        if found is None:
            self.flow.move(*mean_field(target, target.start, scale, looped))
        else:
            found = untied(target, self.hierarchy, found)
            self.flow.move(found.shift, found.scale_tril)
        if not self.has_transform:
            over_modes(self.flow, target)

    @property
    def formula(self) -> str | None:
        """The formula that makes such a guide of the model; None for a flow made otherwise."""
        (flow,) = self._flow_spec
        return flow if isinstance(flow, str) else None

    @property
    def keywords(self) -> dict[str, Any]:
        asked = [part for part in (self._parts, self._noise) if part is not None]
        return {name: value for part in asked for name, value in part._asdict().items()}

    @property
    def follows(self) -> bool:
        return self._noise is not None and self._noise.hamiltonian > 0

    @property
    def exact(self) -> bool:
        return self._noise is None

    @property
    def has_transform(self) -> bool:
        return self._noise is None or not self._noise.auxiliary

    @property
    def hierarchy(self) -> Hierarchy:
        """What makes u of coordinates in which latents do not depend on those above them."""
        return self.flow.hierarchy

    # ---------------------------------------------------------------- as an object

    def __repr__(self) -> str:
        name = type(self).__name__
        if self.prototype_trace is None:
            (given,) = self._flow_spec
            flow = "the default flow" if given is None else repr(given)
            return f"{name}({flow}, not set up: type guide.setup(*args))"
        count = sum(parameter.numel() for parameter in self.parameters())
        where = "" if self._parts is None else ", sites={}, rest={!r}".format(*self._parts)
        where += ", whitened" if self.flow.whitened else ""
        where += ", without ties" if self.hierarchy.generations else ""
        where += "" if self._noise is None else f", {self._noise}"
        label = stack_label(self._layers)
        return f"{name}({label}, D={self.latent_dim}, {count:,} parameters{where})"
