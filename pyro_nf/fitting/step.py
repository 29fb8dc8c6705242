"""One step of SVI as one function: traced from the unchanged model and guide, then compiled."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_nf import engines
from pyro_nf.engines import NothingLeavesTheGraph, UntraceableError, record
from pyro_nf.fitting.adam import Adam
from pyro_nf.fitting.annealing import Anneal, annealed
from pyro_nf.fitting.elbo import Estimate, estimate, late_of, not_of, parameters_of
from pyro_nf.fitting.fixed_data import constants_of, tensors_of
from pyro_nf.fitting.recipe import RECIPE, Recipe
from pyro_nf.model import NUMERICS
from pyro_nf.randomness import kept_random_state

__all__ = ["Step", "Tier"]

Tier = Literal["eager", "quick", "full"]


class Step:
    r"""One step of Adam on the negative ELBO, over all parameters of a model and a guide.

    A step is a function of the parameters, the state of Adam, a learning rate and the tensors
    among the data, all of which but the last two it changes in place. ``eager`` runs the model
    and the guide; ``quick`` and ``full`` run what tracing them once has recorded, after it has
    been compared with an eager step.

    A step whose loss or gradient is not finite, or in which the model's numerics fail, changes
    nothing and returns NaN.

    Arguments:
        elbo: Any of Pyro's ELBOs; those that are not built on traces run eagerly.
        model: A Pyro model.
        guide: A Pyro guide, whose parameters exist or are made by its first run.
        args: What model and guide take.
        kwargs: What model and guide take.
        anneal: What the weight weights, see :func:`~pyro_nf.fitting.annealed`.
        recipe: The numbers of Adam and of the comparison.
        streams: Whether other data will be fed.

    Attributes:
        adam: What moves the parameters.
        weight: The weight of annealing, one at first.
        fastest: The tier for data of the shapes that the step was compiled for.
        names: The names of the parameters in Pyro's parameter store.
        leaves: The unconstrained parameters, in the order of the names.
        of_model: The places there of those that the model has for itself.
        late: The places there of those that a guide learns once its flow is trained.
        reason: Why a faster tier was refused, or an empty string.
        nodes: The number of operations in the traced step.
        objective: What is trained, made of the ELBO's estimates; at first these.
        failure: What the model's numerics have raised last; None where they have not failed.
    """

    def __init__(
        self,
        elbo: ELBO,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        anneal: Anneal | None = None,
        recipe: Recipe = RECIPE,
        streams: bool = False,
    ) -> None:
        self.elbo, self.model, self.guide = elbo, model, guide
        self.data = (tuple(args), dict(kwargs or {}))
        self.fastest: Tier = "eager"
        self.reason = ""
        found = parameters_of(elbo, model, guide, *self.data)
        self.names, self.leaves = list(found), list(found.values())
        if not found:
            raise ValueError("neither the model nor the guide has a parameter to train")
        self.adam = Adam(self.leaves, recipe.betas, recipe.epsilon, recipe.longest_gradient)
        self.of_model = not_of(guide, self.data, self.leaves)
        self.late = late_of(guide, self.leaves)
        if self.of_model or self.late:
            self.adam.rates = torch.ones_like(self.adam.mean)
        self.recipe = recipe
        self.failure: Exception | None = None
        self.nodes = 0
        self.objective: Callable[[], Estimate] = self.estimate
        self._streams = streams
        self._pinned: list[Tensor] = []  # data on whose values the traced step depends
        self._graph: engines.Recorded | None = None
        self._engine: engines.Engine | None = None
        self.weight = torch.ones_like(self.adam.count)
        self.model, self.guide = annealed(model, guide, anneal, self.weight)
        state = [*self.adam.tensors(), self.adam.lr, self.weight]
        state += [rates for rates in [self.adam.rates] if rates is not None]
        # Those of the parameters share their memory.
        self._bound = [leaf.detach() for leaf in self.leaves] + state
        self._inputs = self._bound + tensors_of(self.data)
        self._recorded, self._fits = self._shapes(), True

    @property
    def tier(self) -> Tier:
        """What runs: ``"eager"``, ``"quick"`` or ``"full"``."""
        return self.fastest if self._fits else "eager"

    def _shapes(self) -> tuple[Any, ...]:
        """What a graph takes for constant in the data."""
        return constants_of(self.data, bool(self._pinned))

    def parameters(self) -> Tensor:
        """A copy of all parameters, with shape ``(P,)``."""
        return torch.cat(
            [leaf.detach().reshape(-1).to(self.adam.mean.dtype) for leaf in self.leaves]
        )

    @torch.no_grad()
    def set_parameters(self, values: Tensor) -> None:
        """Set all parameters from a vector of shape ``(P,)``."""
        parts = values.split([leaf.numel() for leaf in self.leaves])
        for leaf, part in zip(self.leaves, parts, strict=True):
            leaf.copy_(part.reshape(leaf.shape))

    def use_objective(self, objective: Callable[[], Estimate]) -> bool:
        """Use another objective from the next step on, unless that would end a compiled tier.

        Arguments:
            objective: Gives a loss and its surrogate; may ask for those of the ELBO.

        Returns:
            Whether it is used; if not, :attr:`reason` says why.
        """
        before = self.objective, self._graph, self._engine, self.fastest
        self.objective, self._graph, self._engine = objective, None, None
        if self.fastest != "eager" and not self.compile("quick"):
            self.objective, self._graph, self._engine, self.fastest = before
            return False
        return True

    # ---------------------------------------------------------------- running

    def __call__(self, lr: float) -> Tensor:
        """Take one step.

        Arguments:
            lr: The learning rate.

        Returns:
            The loss before the step, a scalar; NaN where nothing was changed.
        """
        self.adam.lr.fill_(lr)
        try:
            if self._engine is None or not self._fits:
                return self.adam.update(*self.gradient())
            return self._engine(self._inputs)
        except NUMERICS as error:
            self.failure = error
            return torch.full_like(self.adam.count, math.nan)

    def feed(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> None:
        """Use other data from the next step on; of other shapes, eagerly."""
        self.data = (tuple(args), dict(kwargs or {}))
        self._inputs = self._bound + tensors_of(self.data)
        self._fits = self._shapes() == self._recorded

    def estimate(self) -> Estimate:
        """The loss and the surrogate whose gradient is the ELBO's, by running model and guide."""
        return estimate(self.elbo, self.model, self.guide, *self.data)

    def gradients(self) -> tuple[Tensor, Sequence[Tensor | None]]:
        """The loss and the gradient of its surrogate in each leaf, by running model and guide.

        None where the surrogate does not depend on a leaf.
        """
        loss, surrogate = self.objective()
        found: Sequence[Tensor | None]
        if surrogate is None:  # the ELBO has called backward itself
            found = [leaf.grad for leaf in self.leaves]
            for leaf in self.leaves:
                leaf.grad = None
        else:
            found = torch.autograd.grad(surrogate, self.leaves, allow_unused=True)
        return loss, found

    def gradient(self) -> tuple[Tensor, Tensor]:
        """The loss and the gradient of its surrogate, flat."""
        loss, found = self.gradients()
        parts = [
            torch.zeros_like(leaf) if part is None else part
            for leaf, part in zip(self.leaves, found, strict=True)
        ]
        return loss, torch.cat([part.reshape(-1).to(self.adam.mean.dtype) for part in parts])

    def silent(self) -> list[str]:
        """The names of the parameters that no gradient reaches; none where the numerics fail."""
        with kept_random_state():
            try:
                _, found = self.gradients()
            except NUMERICS:  # the run meets it, and counts it
                return []
        silent = (place for place, part in enumerate(found) if part is None)
        return [self.names[place] for place in silent if place not in self.late]

    # ---------------------------------------------------------------- compiling

    def compile(self, tier: Tier) -> bool:
        """Move to a tier; stay where it is, with a :attr:`reason`, where that cannot be done."""
        try:
            if self._graph is None and tier != "eager":
                self._graph, self._recorded, self._fits = self._trace(), self._shapes(), True
                self.nodes = len(self._graph.calls)
            if tier == "eager":
                engine = None
            else:
                assert self._graph is not None  # made above
                make = {"quick": engines.quick, "full": engines.full}[tier]
                with kept_random_state():
                    with warnings.catch_warnings():
                        # What torch's compilers deprecate of torch is not the user's affair.
                        warnings.simplefilter("ignore")
                        engine = make(self._graph, self._inputs)
                    self._compare(engine)
        except Exception as error:  # tracing runs a user's code: anything may be raised
            self.reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            return False
        self._engine, self.fastest, self.reason = engine, tier, ""
        return True

    def _trace(self) -> engines.Recorded:
        """The step as a graph, recorded while the unchanged model and guide run once.

        Tracing knows tensors by their identity: parameters, state and data are inputs of the
        graph although model and guide reach them through closures, modules and the store.
        """

        def step(*inputs: Tensor) -> Tensor:
            return self.adam.update(*self.gradient())

        inputs, data = [*self.leaves, *self._bound[len(self.leaves) :]], tensors_of(self.data)
        with self._kept(), pyro.validation_enabled(False), NothingLeavesTheGraph():
            try:
                graph = record(step, [*inputs, *data])
            except UntraceableError:  # perhaps by values of the data, which stay what they are
                if self._streams:
                    raise
                graph, self._pinned = record(step, inputs, fixed=data), data
        if graph.changes_constants:
            raise NotImplementedError("a buffer of the model or the guide changes in place")
        return engines.tidy(graph)

    def _compare(self, engine: engines.Engine) -> None:
        """Refuse an engine whose step differs from an eager one with the same random state.

        The random state differs from that of the trace, so that a value which the trace has
        taken for a constant shows.
        """
        for attempt in range(self.recipe.comparisons):
            pyro.set_rng_seed(self.recipe.comparison_seed + attempt)
            try:
                with pyro.validation_enabled(False):
                    loss, gradient = self.gradient()
            except NUMERICS:  # numerics, for these numbers
                continue
            if not bool(torch.isfinite(loss) & torch.isfinite(gradient).all()):
                continue
            expected = self.adam.mean_after(gradient)
            pyro.set_rng_seed(self.recipe.comparison_seed + attempt)
            inputs = [tensor.clone() for tensor in self._inputs]
            traced = engine(inputs)
            mean = inputs[len(self.leaves)]
            # Of rounding, which nearly singular models magnify; a value that was taken for a
            # constant is off by far more.
            tolerance = torch.finfo(mean.dtype).eps ** 0.4
            gap = (mean - expected).norm() / expected.norm().clamp_min(1e-30)
            off = (traced - loss).abs() / (1 + loss.abs())
            if not bool((gap <= tolerance) & (off <= tolerance)):
                raise RuntimeError(
                    "the traced step differs from the eager one, as it does when the model takes "
                    f"values out of tensors: loss {float(traced)} instead of {float(loss)}, "
                    f"gradient off by {float(gap):.1e}"
                )
            return
        tries = self.recipe.comparisons
        raise RuntimeError(f"no finite loss and gradient in {tries} steps to compare with")

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Leave parameters, state and random state as they were before."""
        tensors = [*self.leaves, *self.adam.tensors()]
        before = [tensor.detach().clone() for tensor in tensors]
        try:
            with kept_random_state():
                yield
        finally:
            with torch.no_grad():
                for tensor, value in zip(tensors, before, strict=True):
                    tensor.copy_(value)
