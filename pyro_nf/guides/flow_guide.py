"""What makes a guide an object of its own: its names in Pyro's store, its model, its copies."""

import copy
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Any, Literal

from pyro.infer.autoguide.guides import AutoGuide, AutoGuideList
from torch import nn

from pyro_nf.checks import runnable
from pyro_nf.flows import Flow, FlowSpec, flow_label
from pyro_nf.guides.param_store import unique_name

__all__ = ["FlowGuide", "Gradient", "flow_parts", "name_apart", "stack_label"]

Gradient = Literal["path", "total"]


class FlowGuide(AutoGuide):
    """A Pyro autoguide made of a flow, with names, parameters and copies of its own.

    Arguments:
        model: A Pyro model.
        flow: What :func:`pyro_nf.make_flow` takes.
        init_scale: The standard deviation of the unconstrained latents at the start.
        gradient: ``"path"`` or ``"total"``.
        name: The prefix of the guide's entries in Pyro's parameter store; None for one which no
            other guide in this process has.
        options: What the next class takes.
    """

    master: Any  # what Pyro's base class, which has no types, sets
    prototype_trace: Any
    _model: tuple[Callable[..., Any], ...] | None
    _bare_model: tuple[Callable[..., Any]] | None
    _flow_spec: tuple[FlowSpec | None]
    _init_scale: float
    gradient: Gradient
    _prefix: str

    def __init__(
        self,
        model: Callable[..., Any],
        flow: FlowSpec | None,
        init_scale: float,
        gradient: Gradient,
        name: str | None,
        **options: Any,
    ) -> None:
        runnable("model", model)
        if not (isinstance(init_scale, Real) and 0 < init_scale < math.inf):
            raise ValueError(f"init_scale must be a positive number, got {init_scale!r}")
        if gradient not in ("path", "total"):
            raise ValueError(f'gradient must be "path" or "total", got {gradient!r}')
        if not (name is None or (isinstance(name, str) and name and "$$$" not in name)):
            raise ValueError(f"name must be a non-empty string without $$$, got {name!r}")
        super().__init__(model, **options)
        self._bare_model = (model,)
        self._flow_spec = (flow,)  # in a tuple, or torch would list an instance as a submodule
        self._init_scale = float(init_scale)
        self.gradient = gradient
        self._prefix = type(self).__name__ if name is None else name
        unique = unique_name(self._prefix)
        self._rename(unique if name is None else name)

    def _rename(self, name: str) -> None:
        self._pyro_name = self._own_name = name

    def _pyro_set_supermodule(self, name: str, context: Any) -> None:
        # In an AutoGuideList Pyro would name the guide by its place there, and the guides of a
        # second list would train the parameters of the first.
        super()._pyro_set_supermodule(self._own_name, context)

    def _warn_of(self, flow: Sequence[Flow]) -> None:
        """Say what does not go with a flow: the path gradient, or the dimension."""
        strong = any(not (f.caveat or f.is_linear or f.elementwise) for f in flow)
        weak = [layer for layer in flow if layer.caveat and (layer.is_linear or not strong)]
        if weak:
            caveats = dict.fromkeys(layer.caveat for layer in weak)
            warnings.warn(
                f"{'; '.join(caveats)}, so that it serves badly here; type "
                'flow="affine_coupling*6" or, for a normal guide, flow="diag"',
                stacklevel=3,
            )
        if self.gradient == "path" and not all(layer.carries_score for layer in flow):
            without = [flow_label(layer) for layer in flow if not layer.carries_score]
            warnings.warn(
                f"{', '.join(dict.fromkeys(without))}: no forward_and_score, which the path "
                'gradient needs; the guide uses the total gradient. Type gradient="total" to '
                "say that this is meant",
                stacklevel=3,
            )

    @property
    def prefix(self) -> str:
        """What the guide's entries in Pyro's parameter store start with, but for a number."""
        return self._prefix

    @property
    def formula(self) -> str | None:
        """The formula that makes such a guide of the model; None if there is more to it."""
        return None

    @property
    def keywords(self) -> dict[str, Any]:
        """What such a guide is made with besides, by name; what has its default may be missing."""
        return {}

    @property
    def follows(self) -> bool:
        """Whether it draws by gradients of the model, with the data that it was set up with."""
        return False

    @property
    def has_transform(self) -> bool:
        """Whether a flow from as many numbers of noise as there are latents belongs to it."""
        return True

    @property
    def late(self) -> list[nn.Parameter]:
        """The parameters that are best trained once the flow is."""
        return []

    @property
    def exact(self) -> bool:
        """Whether its density is known, and not a bound and an estimate."""
        return True

    @property
    def point_sites(self) -> frozenset[str]:
        """The latent sites at one point each, given which the others have a posterior."""
        return frozenset()

    @property
    def row_plates(self) -> tuple[str, ...]:
        """The plates whose rows have posteriors of their own; none for a guide of all rows."""
        return ()

    @property
    def local_sites(self) -> frozenset[str]:
        """The latent sites which those rows have."""
        return frozenset()

    @property
    def dependent_sites(self) -> frozenset[str]:
        """The latent sites whose supports depend on other latents."""
        return frozenset()

    @property
    def model(self) -> Callable[..., Any]:
        """The model, which a guide that was unpickled has no more."""
        if self._model is None:
            raise RuntimeError(
                "this guide was unpickled, and a model is not pickled with it; to train on, make "
                f"it again, {type(self).__name__}(model, ...).setup(*args), and type "
                "load_state_dict(guide.state_dict())"
            )
        return self._model[0]

    def __getstate__(self) -> dict[str, Any]:
        model, master = self._model, self.master
        try:
            state = dict(super().__getstate__())
        finally:
            self._model, self.master = model, master  # the parent wipes them from the live guide
        state["_bare_model"] = None
        if self.prototype_trace is not None:
            state["_flow_spec"] = (None,)  # used up; it may be a lambda, which cannot be pickled
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._rename(unique_name(self._prefix))  # a copy has parameters of its own in the store

    def __deepcopy__(self, memo: dict[int, Any]) -> "FlowGuide":
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        new.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        new._model, new._bare_model = self._model, self._bare_model
        return new


def stack_label(flows: Iterable[Flow]) -> str:
    """The formula of flows one after the other, with what repeats itself in brackets."""
    runs = [(label, len(list(run))) for label, run in itertools.groupby(map(flow_label, flows))]
    rest = [label if count == 1 else f"{label}*{count}" for label, count in runs]
    found = []
    while rest:
        size, times = _repeated(rest)
        group = " + ".join(rest[:size])
        found.append(group if times == 1 else f"({group})*{times}")
        rest = rest[size * times :]
    return " + ".join(found)


def _repeated(labels: Sequence[str]) -> tuple[int, int]:
    """How many labels at the start are repeated at once, and how often they come."""
    for size in range(2, len(labels) // 2 + 1):
        times = 1
        while labels[times * size : (times + 1) * size] == labels[:size]:
            times += 1
        if times > 1:
            return size, times
    return 1, 1


def flow_parts(guide: Callable[..., Any]) -> list[FlowGuide]:
    """The guides of this package in any guide: itself, or those in a list or a module."""
    parts = guide.modules() if isinstance(guide, nn.Module) else ()
    return [part for part in parts if isinstance(part, FlowGuide)]


def name_apart(guide: Callable[..., Any]) -> None:
    """Give an autoguide of Pyro's, if it is new, a name of its own in Pyro's parameter store.

    Pyro names them by their class, so that a second one trains the parameters of the first.
    """
    new = isinstance(guide, AutoGuide) and guide.prototype_trace is None
    if new and not isinstance(guide, FlowGuide | AutoGuideList):
        vars(guide)["_pyro_name"] = unique_name(type(guide).__name__)
