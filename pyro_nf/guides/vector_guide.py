"""What a guide is once its flow is made: the distribution of one vector of latents."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import pyro.distributions as dist
import torch
from pyro.distributions.util import broadcast_shape
from pyro.infer.autoguide.guides import AutoContinuous
from torch import Tensor, nn
from torch.distributions import biject_to

from pyro_nf.flows import Flow, FlowDistribution, FlowSpec, OwnSample
from pyro_nf.guides.auxiliary import Auxiliary
from pyro_nf.guides.flow_guide import FlowGuide, Gradient
from pyro_nf.guides.hamiltonian import Bridge
from pyro_nf.guides.layers import Stack
from pyro_nf.guides.param_store import adopt
from pyro_nf.guides.points import Points
from pyro_nf.guides.supports import DependentSupports
from pyro_nf.model import Packing, Target, sites

__all__ = ["VectorGuide"]

G = TypeVar("G", bound="VectorGuide")


class VectorGuide(FlowGuide, AutoContinuous):
    """A guide that packs its latents into one vector u, and has a flow from noise to u.

    Whoever inherits makes the flow in ``_setup_prototype``, and points, if some latents have such.

    Arguments:
        model: A Pyro model.
        flow: What :func:`pyro_nf.make_flow` takes.
        init_loc_fn: Where the latents start, one of Pyro's ``init_to_...`` functions.
        init_scale: The standard deviation of the unconstrained latents at the start.
        gradient: ``"path"`` or ``"total"``.
        name: The prefix of the guide's entries in Pyro's parameter store.
    """

    flow: Stack
    noise: Auxiliary | Bridge  # if there is any
    points: Points
    _supports: DependentSupports | None = None  # where supports are not fixed

    def __init__(
        self,
        model: Callable[..., Any],
        flow: FlowSpec | None,
        init_loc_fn: Callable[..., Any],
        init_scale: float,
        gradient: Gradient,
        name: str | None,
    ) -> None:
        init_loc_fn = sites.starting(init_loc_fn)
        super().__init__(model, flow, init_scale, gradient, name, init_loc_fn=init_loc_fn)

    def setup(self: G, *args: Any, **kwargs: Any) -> G:
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
        elif args or kwargs:
            self._follow(args, kwargs)
        return self

    def _follow(self, args: Any, kwargs: Any) -> None:
        """Have leapfrog steps, if there are any, follow the density of these data."""
        if self._bridge is not None:
            self._bridge.follow(Target.of(self, args, kwargs))

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
        if self._points is not None:
            adopt(self._points, self._pyro_get_fullname("points"))
            drawn |= self.points.sample(self.plates)
        return drawn

    def _unpack_latent(self, latent: Tensor) -> Iterator[tuple[dict[str, Any], Tensor]]:
        found = self._nodes_of(latent)
        return found if self._supports is None else self._supports(latent, found)

    def _nodes_of(self, latent: Tensor) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """Pyro's nodes and their unconstrained values, for a vector of shape ``(*, D)``.

        As Pyro has it, but for ``torch.broadcast_shapes``: its first call imports SymPy, which
        takes half a second.
        """
        packing = Packing(self._unconstrained_shapes)
        for name, node in self.prototype_trace.iter_stochastic_nodes():
            shape = packing.shapes[name]
            event_dim = node["fn"].event_dim + len(shape) - node["value"].dim()
            ones = latent.shape[:-1] + (1,) * event_dim
            yield node, latent[..., packing.columns[name]].view(broadcast_shape(shape, ones))

    @property
    def dependent_sites(self) -> frozenset[str]:
        return frozenset() if self._supports is None else self._supports.names

    @property
    def _points(self) -> Points | None:
        return self._modules.get("points")  # where asking enters nothing into Pyro's store

    @property
    def point_sites(self) -> frozenset[str]:
        return frozenset(() if self._points is None else self._points.nodes)

    @property
    def _bridge(self) -> Bridge | None:
        noise = self._modules.get("noise")
        return noise if isinstance(noise, Bridge) else None

    @property
    def late(self) -> list[nn.Parameter]:
        return [] if self._bridge is None else list(self._bridge.parameters())

    def __deepcopy__(self, memo: dict[int, Any]) -> "FlowGuide":
        new = super().__deepcopy__(memo)
        if isinstance(new, VectorGuide) and new._bridge and self._bridge:
            new._bridge.target = self._bridge.target  # the same model, with the same data
        return new

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
        if not self.has_transform:
            raise NotImplementedError(
                "this guide has no transform of as many numbers as there are latents, which NeuTra "
                "and chains need: its flow is of the auxiliary variables, too; type "
                "AutoFlowGuide(model, flow)"
            )
        return self._made()

    def get_posterior(self, *args: Any, **kwargs: Any) -> OwnSample:
        """The distribution of the unconstrained latents, over vectors of shape ``(D,)``."""
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        noisy = "noise" in self._modules
        if self._pyro_context.active:
            for name in ["flow", "noise"] if noisy else ["flow"]:
                adopt(self._modules[name], self._pyro_get_fullname(name))
        flow = self._made()
        if noisy:
            return self.noise.distribution(flow, self._base_of, self.gradient == "path")
        path = self.gradient == "path" and flow.carries_score
        score = torch.neg if path else None
        return FlowDistribution(self._base_of(flow), flow, score)

    @property
    def loc(self) -> Tensor:
        """The mean of the unconstrained latents, with shape ``(D,)``; no parameter."""
        self._made()  # which says what to type where there is none
        return self.get_posterior().mean

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
        if self.prototype_trace is None:
            self.setup(*args, **kwargs)
        self._ask(args, kwargs)
        draws = self.get_posterior().fixed_draws()
        wanted = torch.as_tensor(quantiles).to(draws)
        if wanted.dim() != 1 or not bool(((wanted >= 0) & (wanted <= 1)).all()):
            raise ValueError(f"expected a list of numbers between 0 and 1, got {quantiles}")
        result: dict[str, list[Tensor]] = {}
        for latent in draws.quantile(wanted, 0):
            for site, value in self._unpack_latent(latent):
                support = biject_to(site["fn"].support)
                result.setdefault(site["name"], []).append(support(value))
        points = {} if self._points is None else self._points.values()
        return {name: torch.stack(values) for name, values in result.items()} | {
            name: point.expand(len(wanted), *point.shape) for name, point in points.items()
        }
