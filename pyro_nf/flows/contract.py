"""What the numbers of a flow promise, one function a clause."""

import copy
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from pyro_nf.flows.flow import Flow

__all__ = ["CLAUSES", "DEAD", "POINTS", "SAME", "Case", "birth", "shapes"]

POINTS = 128  # enough to meet every bin of a spline and every unit of a network
FEW = 16  # of them, where each costs calls of its own
SAME = 1e-12  # the same operations on the same numbers; memory alignment may reorder a sum
ROUNDING = 1e-6  # float64's 1e-16, magnified, and constants of 1e-8 that guard a logarithm
GRADIENT = 1e-5  # the same, divided by a Jacobian
SINGLE = 1e-3  # float32's 1e-7, magnified up to ten thousand times
DEAD = 1e-12  # gradients are of size one here; one that should cancel to zero leaves 1e-16

NUMBERS = re.compile(r"[\d, ]+")  # in which the complaints about two batches differ


class Case:
    """A flow on trial, in float64, and what has been found.

    Arguments:
        build: Makes the flow, anew each time where that is possible.
    """

    def __init__(self, build: Callable[[], Flow]) -> None:
        self.build = build
        self.flow = build().double()
        self.problems: dict[str, str] = {}
        self.errors: dict[str, float] = {}
        self.untrained: list[str] = []
        self.birth_gap = self.density_gap = math.nan
        self.generator = torch.Generator("cpu").manual_seed(0)
        self.device = next(self.flow.parameters(), torch.empty(0)).device
        # Points near the centre and far out, with a context for each.
        spread = torch.linspace(0.5, 2, POINTS, dtype=torch.float64, device=self.device)
        self.x = self.normal(POINTS, self.flow.dim) * spread.unsqueeze(-1)
        self.context = self.contexts(POINTS)
        self.inverts = True
        try:
            self.at(self.x, self.context, inverse=True)
        except Exception as error:  # any other is met again, and told
            self.inverts = not isinstance(error, NotImplementedError)

    def attempt(self, what: str, clause: Callable[..., None], *args: Any) -> None:
        """Run a clause on this case; whatever it raises is a problem, and told once."""
        try:
            clause(self, *args)
        except Exception as error:
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            why = (kind + str(error)).strip().partition("\n")[0]
            if not any(NUMBERS.sub("", why) == NUMBERS.sub("", x) for x in self.problems.values()):
                self.problems[what] = why

    def compare(
        self, what: str, got: Iterable[Tensor], expected: Iterable[Tensor], most: float
    ) -> None:
        """Note the largest error, relative to one plus the size; above `most` it is a problem."""
        for one, other in zip(got, expected, strict=True):
            error = ((one - other).abs() / (1 + other.abs())).detach().nan_to_num(math.inf)
            worst = float(error.max()) if error.numel() else 0.0
            self.errors[what] = max(worst, self.errors.get(what, 0.0))
        if self.errors[what] > most:
            self.problems[what] = f"off by {self.errors[what]:.1g} relative, allowed is {most:.0e}"

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, the same on every device."""
        noise = torch.randn(shape, generator=self.generator, dtype=torch.float64, device="cpu")
        return noise.to(self.device)

    def contexts(self, *batch: int) -> Tensor | None:
        """Random contexts for a batch, None for a flow that takes none."""
        return self.normal(*batch, self.flow.context_dim) if self.flow.context_dim else None

    def at(
        self, x: Tensor, context: Tensor | None, inverse: bool = False, flow: Flow | None = None
    ) -> tuple[Tensor, Tensor]:
        """The value and log-determinant of the flow, of its inverse, or of another flow."""
        flow = self.flow if flow is None else flow
        return (flow.inverse_and_log_det if inverse else flow.forward_and_log_det)(x, context)

    def runs(self) -> Iterator[tuple[Tensor, Tensor | None, bool]]:
        """A few arguments for `at`, for each direction that the flow has."""
        x, context = self.x[:: POINTS // FEW], self.context
        context = None if context is None else context[:: POINTS // FEW]
        yield x, context, False
        if self.inverts:
            yield self.at(x, context)[0].detach(), context, True


def shapes(case: Case, batch: tuple[int, ...], inverse: bool) -> None:
    """Values of shape (*, D), log-determinants of shape (*,), in the input's dtype."""
    for flow in case.flow, copy.deepcopy(case.flow).float():
        dtype = torch.float64 if flow is case.flow else torch.float32
        x, context = case.normal(*batch, flow.dim).to(dtype), case.contexts(*batch)
        before = x.clone()
        got = case.at(x, None if context is None else context.to(dtype), inverse, flow)
        for what, tensor, shape in zip(("value", "log-det"), got, (x.shape, batch), strict=True):
            if (tensor.shape, tensor.dtype) != (shape, dtype):
                raise ValueError(
                    f"for {dtype} the {what} has shape {tuple(tensor.shape)} and {tensor.dtype}, "
                    f"expected {tuple(shape)}" + (", one a vector" if what == "log-det" else "")
                )
        if not torch.equal(x, before):
            raise ValueError("the input is changed in place")


def birth(case: Case) -> None:
    """How far the flow is from the identity, and from keeping a standard normal as it is."""
    x = case.normal(POINTS, case.flow.dim)
    with torch.no_grad():
        y, log_det = case.at(x, case.context)
    case.birth_gap = float((y - x).abs().max())
    case.density_gap = float(((y * y - x * x).sum(-1) / 2 - log_det).abs().max())
    case.at(case.x, case.context)  # for `cache` to ask for again


def cache(case: Case) -> None:
    """When the parameters have moved, the same tensor gives another value."""
    fresh = case.at(case.x.clone(), case.context, flow=copy.deepcopy(case.flow))
    case.compare("nothing cached", case.at(case.x, case.context), fresh, SAME)


def rows(case: Case) -> None:
    """A batch is its rows."""
    for x, context, inverse in case.runs():
        contexts = [None] * FEW if context is None else context
        single = [case.at(*row, inverse) for row in zip(x, contexts, strict=True)]
        stacked = map(torch.stack, zip(*single, strict=True))
        case.compare("batch against rows", case.at(x, context, inverse), stacked, ROUNDING)


def conditions(case: Case) -> None:
    """A context matters, one serves a whole batch, and fixing it changes nothing."""
    for x, context, inverse in case.runs():
        if context is None:
            return
        got = case.at(x, context, inverse)
        fixed = case.at(x, None, inverse, case.flow.condition(context))
        case.compare("flow.condition(context)", fixed, got, SAME)
        one, many = context[0], context[:1].expand_as(context)
        same = case.at(x, one, inverse), case.at(x, many, inverse)
        case.compare("one context for a batch", *same, ROUNDING)
        same = case.at(x[0], context, inverse), case.at(x[:1].expand_as(x), context, inverse)
        case.compare("one point, many contexts", *same, ROUNDING)
        if case.flow.dim > 1 and not any(bool((t != t[:1]).any()) for t in same[1]):
            raise ValueError("the context changes nothing")


def jacobian(case: Case) -> None:
    """The log-determinant is that of the Jacobian."""
    for x, context, inverse in case.runs():
        x = x.clone().requires_grad_()
        y, log_det = case.at(x, context, inverse)
        name = "log-det of the inverse" if inverse else "log-det"
        case.compare(name, [log_det], [torch.linalg.slogdet(derivative(y, x))[1]], ROUNDING)


def inverse(case: Case) -> None:
    """f(g(y)) = y and g(f(x)) = x, and the derivatives of g are those of the implicit function.

    For L = r . g(y) + s . log|dg/dy| and x = g(y), with J = df/dx and log-det l(x):
    dL/dy = p with J^T p = r - s dl/dx, and dL/dtheta = -(p . df/dtheta) - s dl/dtheta.
    """
    if not case.inverts:
        return
    x, context, _ = next(case.runs())
    x = x.clone().requires_grad_()
    inner = [p for p in case.flow.parameters() if p.requires_grad]
    if context is not None:
        context = context.clone().requires_grad_()
        inner.append(context)
    y, log_det = case.at(x, context)
    r, s = case.normal(*y.shape), case.normal(FEW)
    (slope,) = derivatives((s * log_det).sum(), [x])
    p = torch.linalg.solve(derivative(y, x).mT, r - slope)
    expected = [p, *derivatives(-(p.detach() * y).sum() - (s * log_det).sum(), inner)]

    start = y.detach().requires_grad_()
    back, back_log_det = case.at(start, context, inverse=True)
    got = derivatives((r * back).sum() + (s * back_log_det).sum(), [start, *inner])
    case.compare("inverse of the flow", [back], [x], ROUNDING)
    case.compare("flow of the inverse", case.at(back, context)[:1], [y], ROUNDING)
    case.compare("log-dets of both", [back_log_det], [-log_det], ROUNDING)
    case.compare("gradients of the inverse", got, expected, GRADIENT)


def score(case: Case) -> None:
    """The score is carried by the inverse of the transposed Jacobian; see Flow."""
    if not case.flow.carries_score:
        return
    x, context, _ = next(case.runs())
    x = x.clone().requires_grad_()
    before = case.normal(*x.shape)
    y, log_det = case.at(x, context)
    (slope,) = derivatives(log_det.sum(), [x])
    expected = torch.linalg.solve(derivative(y, x).mT, before - slope)
    *same, got = case.flow.forward_and_score(x, before, context)
    case.compare("forward_and_score", same, (y, log_det), SAME)
    case.compare("score", [got], [expected], GRADIENT)


def precision(case: Case) -> None:
    """float32 agrees with float64."""
    single = copy.deepcopy(case.flow).float()
    double = copy.deepcopy(single).double()
    x, context, _ = next(case.runs())
    x, context = x.float(), None if context is None else context.float()
    low = case.at(x, context, flow=single)
    high = case.at(x.double(), None if context is None else context.double(), flow=double)
    case.compare("float32", [t.double() for t in low], high, SINGLE)


CLAUSES = cache, rows, conditions, jacobian, inverse, score, precision  # with random parameters


def derivatives(value: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """The derivatives of a number, zero where it depends on nothing."""
    if not value.requires_grad or not inputs:
        return [torch.zeros_like(one) for one in inputs]
    return list(torch.autograd.grad(value, inputs, retain_graph=True, materialize_grads=True))


def derivative(y: Tensor, x: Tensor) -> Tensor:
    """dy/dx for each row of a batch, which does not mix its rows."""
    return torch.stack([derivatives(column.sum(), [x])[0] for column in y.unbind(-1)], -2)
