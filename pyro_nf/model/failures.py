"""Where a model's numerics fail, such as a Cholesky factor's: what it raises, and which site."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import pyro
from pyro import poutine
from torch import Tensor

from pyro_nf.model.handlers import LastSite

__all__ = [
    "FIX",
    "NUMERICS",
    "NoStartError",
    "blame",
    "in_a_line",
    "not_finite",
    "patiently",
    "where",
]

NUMERICS = (RuntimeError, ValueError, ArithmeticError)
FEW = 3  # values that a message shows
RUNS = 5  # first runs of a model whose numerics may fail now and then

T = TypeVar("T")


class NoStartError(ValueError):
    """There is no value from which a guide could start; the message names a site."""


def patiently(run: Callable[[], T]) -> T:
    """What a run returns that draws anew each time, tried a few times where numerics fail."""
    for _ in range(RUNS - 1):
        try:
            return run()
        except NUMERICS:
            continue
    return run()


def blame(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    tries: int = 20,
) -> str:
    """Run guide and model until something fails, and say what and where.

    Arguments:
        model: A Pyro model.
        guide: A guide.
        args: What both take.
        kwargs: What both take.
        tries: How often to run.
    """
    for _ in range(tries):
        for name, run in (("guide", guide), ("model", None)):
            tracer, last = poutine.trace(), LastSite()
            try:
                with poutine.block(), pyro.validation_enabled(True), tracer, last:
                    if run is not None:
                        guide(*args, **kwargs)
                        latents = tracer.trace
                    else:
                        poutine.replay(model, trace=latents)(*args, **kwargs)
            except NUMERICS as error:
                kind = type(error).__name__
                return f"the {name} fails {last.where} with {kind}: {in_a_line(error)}. {FIX}"
            found = not_finite(tracer.trace)
            if found:
                return f"the {name}'s site {found}. {FIX}"
    return f"the gradient is not finite, though the densities of {tries} draws are. {FIX}"


FIX = (
    "Look at the priors there and at the data for NaN; try init_loc_fn=init_to_value(...), a "
    "smaller lr, or float64"
)


def not_finite(trace: poutine.Trace) -> str:
    """The first site of a run whose log density is not finite, in words; empty if there is none."""
    for name, node in trace.nodes.items():
        if node["type"] != "sample":
            continue
        try:
            log_prob = node["fn"].log_prob(node["value"])
        except NUMERICS as error:
            return f"{name!r} has no density at its value: {in_a_line(error)}"
        wrong = ~log_prob.isfinite()
        if bool(wrong.any()):
            value = node["value"]
            said = f"{name!r} has a log density that is not finite"
            if wrong.dim():
                said += f" {where(wrong)}"
                value = value[wrong][0] if value.shape[: wrong.dim()] == wrong.shape else value
            return said + (f", at the value {_few(value)}" if value.numel() else "")
    return ""


def where(wrong: Tensor) -> str:
    """Where some of a site's values are wrong, in words."""
    if not wrong.dim():
        return "throughout"
    rows = wrong.reshape(len(wrong), -1).any(-1)
    first = int(rows.nonzero()[0])
    return f"in {int(rows.sum()):,} of {len(rows):,} rows, the first at row {first}"


def _few(value: Tensor) -> str:
    """A tensor's first values."""
    numbers = ", ".join(f"{number:.4g}" for number in value.reshape(-1)[:FEW].tolist())
    return numbers + (f", ... of shape {tuple(value.shape)}" if value.numel() > FEW else "")


def in_a_line(error: Exception) -> str:
    """The first line of what an error says."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
