"""The contract of a flow as one function, for the tests of pyro_nf and of your own flows."""

import copy
import io
import math
import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from pyro_nf.checks import whole
from pyro_nf.flows import (
    CLAUSES,
    DEAD,
    POINTS,
    SAME,
    Adapted,
    Case,
    Flow,
    FlowSpec,
    Params,
    assemble,
    birth,
    shapes,
    walk,
)

__all__ = ["FlowReport", "check_flow"]


@dataclass(frozen=True)
class FlowReport:
    """What :func:`check_flow` found in a flow that keeps the contract.

    Attributes:
        name: The name of the flow's class, or of the transform's.
        dim: The dimension D.
        context_dim: The size of the context.
        parameters: The number of trained parameters.
        inverse: Whether the flow inverts any value.
        birth_gap: How far f(x) is from x at most, for standard normal points x and the flow as
            it was given; near zero for a flow that starts as the identity.
        density_gap: How far the log density of f(x) is from a standard normal's at most; near
            zero for a permutation and a rotation too.
        untrained: The parameters of which a part, or all if D = 1, gets no gradient.
        errors: For each comparison the largest error, relative to one plus the expected size.

    Example:
        >>> from pyro_nf.flows import Radial
        >>> report = check_flow(Radial(3))
        >>> report.parameters, report.inverse
        (5, True)
    """

    name: str
    dim: int
    context_dim: int
    parameters: int
    inverse: bool
    birth_gap: float
    density_gap: float
    untrained: tuple[str, ...]
    errors: dict[str, float]

    def __str__(self) -> str:
        rows = {
            "parameters": f"{self.parameters:,}",
            "inverse": "yes" if self.inverse else "no, so only its own fresh samples are scored",
            "at birth": f"|f(x) - x| up to {self.birth_gap:.2g}, log density off by up to "
            f"{self.density_gap:.2g}",
            "no gradient": ", ".join(self.untrained),
            **{what: f"{error:.1e}" for what, error in self.errors.items()},
        }
        lines = [f"  {what:34} {value}" for what, value in rows.items() if value]
        title = f"{_title(self.name, self.dim, self.context_dim)} keeps the contract"
        return "\n".join([title, *lines])


def check_flow(flow: FlowSpec, dim: int | None = None, *, context_dim: int = 0) -> FlowReport:
    """Check that a flow keeps the contract of :class:`~pyro_nf.Flow`.

    Checked are, with random parameters: the shapes, for any batch; the log-determinant against
    the Jacobian by autograd; a batch against its rows; the inverse and the gradients through it,
    against the implicit function theorem; that gradients reach every parameter, and that the
    context matters; that a copy, a pickle and a second instance with the same state_dict agree;
    that nothing is cached; float32 and float64; the event dimension.

    A missing inverse, a start away from the identity, and parameters with a part that is not
    trained, as masks have, are no faults, and reported. For D = 1 nor are a whole parameter or
    a context without effect: a rotation and a coupling have nothing to act on there.

    Neither the flow nor the global random state is changed.

    Arguments:
        flow: A flow, a flow class, or anything else that :func:`~pyro_nf.make_flow` takes.
        dim: The dimension; may be left out for a flow, which knows its own.
        context_dim: The size of the context; a flow knows its own.

    Returns:
        A report, to be printed.

    Raises:
        ValueError: With a line for each part of the contract that is broken, and by how much.

    Example:
        >>> report = check_flow("planar*2", 3)
        >>> report.inverse, report.parameters, report.untrained
        (True, 14, ())
        >>> print(check_flow(torch.distributions.transforms.AffineTransform(1.0, 2.0), 3))
        AffineTransform with dim=3 keeps the contract
          parameters                         0
          inverse                            yes
          ...
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # the CPU's, which the fork gives back
        case = Case(_builder(flow, dim, context_dim))
        _run(case)
    tried, kind = case.flow, _kind(case.flow)
    if case.problems:
        lines = "".join(f"\n- {what}: {why}" for what, why in case.problems.items())
        title = _title(kind, tried.dim, tried.context_dim)
        raise ValueError(f"{title} breaks the contract of a flow:{lines}")
    return FlowReport(
        name=kind,
        dim=tried.dim,
        context_dim=tried.context_dim,
        parameters=sum(p.numel() for p in tried.parameters() if p.requires_grad),
        inverse=case.inverts,
        birth_gap=case.birth_gap,
        density_gap=case.density_gap,
        untrained=tuple(case.untrained),
        errors=case.errors,
    )


def _kind(flow: Flow) -> str:
    return type(flow.transform if isinstance(flow, Adapted) else flow).__name__


def _title(name: str, dim: int, context_dim: int) -> str:
    return f"{name} with dim={dim}" + (f" and context_dim={context_dim}" if context_dim else "")


def _builder(flow: FlowSpec, dim: int | None, context_dim: int) -> Callable[[], Flow]:
    """A function that makes the flow, anew each time where that is possible."""
    if dim is not None:
        whole("dim", dim)
    whole("context_dim", context_dim, least=0)
    if isinstance(flow, Flow):
        given = cast(Flow, flow)
        sizes = ("dim", given.dim, dim), ("context_dim", given.context_dim, context_dim)
        for name, own, asked in sizes:
            if asked and asked != own:
                raise ValueError(f"the flow was made with {name}={own}, not {name}={asked}")
        return lambda: _copied(given)
    if dim is None:
        raise ValueError(f"{flow!r} has no dimension yet; type check_flow(..., dim=3)")
    return lambda: _copied(assemble(flow, dim, context_dim))


def _copied(flow: Flow) -> Flow:
    try:
        return copy.deepcopy(flow)
    except Exception as error:
        raise ValueError(
            f"{_kind(flow)} cannot be copied: {type(error).__name__}: {error}; keep "
            "nothing computed in a flow"
        ) from error


def _run(case: Case) -> None:
    """Try every clause: first on the flow as it was given, then with random parameters."""
    for batch in (POINTS,), (), (2, 3), (0,):
        case.attempt(f"batch {batch}", shapes, batch, False)
        if case.inverts:
            case.attempt(f"inverse of batch {batch}", shapes, batch, True)
    # Nothing can be compared where the shapes of a plain batch are wrong already.
    sound = f"batch {(POINTS,)}" not in case.problems
    case.inverts &= f"inverse of batch {(POINTS,)}" not in case.problems
    if sound:
        case.attempt("birth", birth)
    with torch.no_grad():
        for parameter in case.flow.parameters():
            parameter += case.normal(*parameter.shape) / (2 * math.sqrt(case.flow.dim))
    for clause in (*(CLAUSES if sound else ()), gradients, copies, interface):
        case.attempt(clause.__name__, clause)


def gradients(case: Case) -> None:
    """A gradient reaches every parameter, and whatever asks for one is a parameter."""
    values = case.at(case.x, case.context)
    case.flow.zero_grad()
    total = torch.stack([(case.normal(*value.shape) * value).sum() for value in values]).sum()
    if total.requires_grad:
        total.backward()
    for name, grad in pieces(case.flow):
        dead = int((grad.abs() <= DEAD).sum())
        if not bool(grad.isfinite().all()):
            case.problems[f"gradient of {name}"] = "not finite"
        elif 0 < dead < grad.numel() or (dead and case.flow.dim == 1):
            case.untrained.append(f"{name} ({dead} of {grad.numel()} elements)")
        elif dead:
            case.problems[f"gradient of {name}"] = "zero, so it would never be trained"
    known = {id(parameter) for parameter in case.flow.parameters()}
    for part in [*case.flow.modules(), *walk(case.flow)]:
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and value.requires_grad and id(value) not in known:
                case.problems[f"{type(part).__name__}.{name}"] = (
                    "asks for a gradient but is no nn.Parameter, so it would never be trained"
                )


def copies(case: Case) -> None:
    """A copy, a pickle, and a new flow with the same state_dict compute the same."""
    expected = case.at(case.x, case.context)

    def agrees(case: Case, what: str, make: Callable[[], Flow]) -> None:
        case.compare(what, case.at(case.x, case.context, flow=make()), expected, SAME)

    def reloaded() -> Flow:
        flow = case.build().double()
        flow.load_state_dict(case.flow.state_dict())
        return flow

    case.attempt("deepcopy", agrees, "deepcopy", lambda: copy.deepcopy(case.flow))
    case.attempt("pickle", agrees, "pickle", lambda: unpickled(case.flow))
    case.attempt("state_dict", agrees, "state_dict", reloaded)


def interface(case: Case) -> None:
    """What Pyro and torch ask of a transform of vectors agrees with the flow's own methods."""
    flow = case.flow if case.context is None else case.flow.condition(case.context)
    if not flow.bijective or (flow.domain.event_dim, flow.codomain.event_dim) != (1, 1):
        raise ValueError(
            f"bijective is {flow.bijective}, domain has event_dim={flow.domain.event_dim} and "
            f"codomain {flow.codomain.event_dim}, expected True, 1 and 1, as Flow declares them"
        )
    y, log_det = flow.forward_and_log_det(case.x)
    got = [flow(case.x), flow.log_abs_det_jacobian(case.x, y)]
    case.compare("as a transform", got, [y, log_det], SAME)
    if case.inverts:
        case.compare("flow.inv", [flow.inv(y)], flow.inverse_and_log_det(y)[:1], SAME)


def pieces(flow: Flow) -> Iterator[tuple[str, Tensor]]:
    """The names and gradients of all parameters, those of `Params` cut into its named tensors."""
    for path, module in flow.named_modules():
        for name, parameter in module.named_parameters(path, recurse=False):
            if not parameter.requires_grad:
                continue
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            if isinstance(module, Params):
                of_context = " (of the context)" if name.endswith("weight") else ""
                for key, part in zip(module.shapes, grad.split(module.sizes), strict=True):
                    yield f"{path}.{key}{of_context}", part
            else:
                yield name, grad


def unpickled(flow: Flow) -> Flow:
    """The flow after a round trip through pickle.

    A class that pickle would not find by its name, as one made in a function or a doctest, is
    handed over as it is: that says nothing about the flow.
    """
    local: list[type] = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing: Any) -> int | None:
            if not isinstance(thing, type):
                return None
            found: Any = sys.modules.get(thing.__module__)
            for name in thing.__qualname__.split("."):
                found = getattr(found, name, None)
            if found is thing:
                return None
            local.append(thing)
            return len(local) - 1

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, index: int) -> type:
            return local[index]

    stream = io.BytesIO()
    Pickler(stream).dump(flow)
    stream.seek(0)
    return Unpickler(stream).load()
