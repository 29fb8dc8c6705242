"""A function of one draw at many draws, each as if it were alone."""

import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext

import pyro
import torch
from torch import Tensor
from torch.func import vmap

from pyro_nf.engines import FailuresAreNaN
from pyro_nf.model.failures import NUMERICS, in_a_line
from pyro_nf.model.handlers import Blanks, LastSite, Unchecked
from pyro_nf.randomness import kept_random_state

__all__ = ["Many", "Result", "Values"]

Values = dict[str, Tensor]
Result = tuple[Tensor, Values]  # a number, and values by name
Backend = Callable[[Callable[[Values], Result], int, Values, bool], Result]

FEW = 8  # draws of a loop that is not worth halving again, and of a look at what is random
RTOL = 1e-4  # batched and single matrix products round differently; a wrong sum is far off


class Many:
    """A function of one draw, at many draws.

    They run together, by the first of `BACKENDS` that gives what a loop gives: to the function each
    draw looks as if it were alone, so that models need no plate and no broadcasting for it, and no
    phantom dimension remains. What cannot run so (control flow that depends on values, ``.item()``,
    NumPy), or gives other numbers then, runs in a loop.

    Arguments:
        function: From the values of one draw to a number and values by name.
        chunk: How many draws may run together, for the memory that they take; None for all.
        random: Whether the function draws random numbers.
        tolerant: Whether a draw on which the function's numerics fail (a Cholesky factor, say)
            gives NaN instead of an error.
        finish: What to make of the results of draws that have run together.

    Attributes:
        vectorized: Whether draws run together; None before the first.
        reason: Why they do not, in words.
    """

    def __init__(
        self,
        function: Callable[[Values], Result],
        chunk: int | None = None,
        *,
        random: bool = False,
        tolerant: bool = False,
        finish: Callable[[Result], Result] = lambda result: result,
    ) -> None:
        self.function, self.chunk, self.finish = function, chunk, finish
        self.random, self.tolerant = random, tolerant
        self.vectorized: bool | None = None
        self.reason = ""
        self._backend: Backend | None = None

    def __call__(self, count: int, values: Mapping[str, Tensor] | None = None) -> Result:
        """The function at `count` draws.

        Arguments:
            count: The number of draws.
            values: The values of all draws, each of shape ``(count, *shape)``.

        Returns:
            Numbers of shape ``(count,)``, and values of shape ``(count, *shape)``.
        """
        values = dict(values or {})
        if self.vectorized is None:
            self.decide(count, values)
        results: list[Result] = []
        for start in range(0, count, self.chunk or count):
            stop = min(start + (self.chunk or count), count)
            results += map(self.finish, self._some(stop - start, _rows(values, start, stop)))
        return results[0] if len(results) == 1 else _joined(results)

    def _some(self, count: int, values: Values) -> list[Result]:
        """Run a chunk; in halves where one draw fails, so that the others run together."""
        if self._backend is None:
            return [by_loop(self.function, count, values, self.tolerant)]
        try:
            return [self._backend(self.function, count, values, self.tolerant)]
        except NUMERICS:
            if not self.tolerant:
                raise
        if count <= FEW:
            return [by_loop(self.function, count, values, self.tolerant)]
        half = count // 2
        first = self._some(half, _rows(values, 0, half))
        return first + self._some(count - half, _rows(values, half, count))

    @torch.no_grad()
    def decide(self, count: int, values: Values) -> bool:
        """Find out whether a few draws that run together come out as they do one by one."""
        with kept_random_state():
            row = self._sound(count, values)
            if row is not None:
                few = FEW if self.random else 2
                rows = {name: v.expand(few, *v.shape[1:]) for name, v in row.items()}
                for backend in BACKENDS:
                    self.reason = self._differs(backend, few, rows)
                    if not self.reason:
                        self._backend = backend
                        break
        self.vectorized = self._backend is not None
        return self.vectorized

    def _sound(self, count: int, values: Values) -> Values | None:
        """One of some draws on which the numerics do not fail, since with others nothing can be
        compared."""
        for start in range(min(count, FEW)):
            try:
                self.function(_rows(values, start))
            except NUMERICS as error:
                if not self.tolerant:
                    raise
                self.reason = f"its numerics fail: {in_a_line(error)}"
            else:
                return _rows(values, start, start + 1)
        return None

    def _differs(self, backend: Backend, count: int, values: Values) -> str:
        """Why draws that run together are not as they are one by one; empty if they are."""
        before = _foreign_random_state()
        singly = by_loop(self.function, count, values, self.tolerant)
        if before != _foreign_random_state():
            # Draws that run together would share one such number.
            return "it draws random numbers from NumPy or from Python's random module"
        last = LastSite()
        try:
            with last:
                together = backend(self.function, count, values, self.tolerant)
        except Exception as error:  # a user's code, of tensors that are not plain ones
            return f"{last.where} {_plainly(error)}"
        if singly[1].keys() != together[1].keys():
            return "its sites are not the same in each run"
        pairs = {"its log density": (singly[0], together[0])}
        pairs |= {f"its site {n!r}": (value, together[1][n]) for n, value in singly[1].items()}
        wrong = [name for name, pair in pairs.items() if not self._agree(*pair)]
        return f"{wrong[0]} comes out different" if wrong else ""

    def _agree(self, one: Tensor, other: Tensor) -> bool:
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        if not self.random:
            return torch.allclose(one, other, rtol=RTOL, atol=RTOL, equal_nan=True)
        # A random number that vmap does not know of would be the same in all draws.
        varies, still = bool((one != one[:1]).any()), bool((other == other[:1]).all())
        return not (varies and still)


# What of an error of vmap's tells its cause, that cause, and what to type.
CAUSES = {
    "data-dependent control flow": "a value of a tensor decides what is run; type torch.where",
    ".item()": "a number is taken out of a tensor; keep it in the tensor",
    "in-place": "a tensor is written into; type torch.stack or torch.cat",
    "inplace": "a tensor is written into; type torch.stack or torch.cat",
    "numpy": "a tensor is given to NumPy; type the functions of torch",
    "have storage": "a tensor is given to NumPy or Python; type the functions of torch",
}


def _plainly(error: Exception) -> str:
    """What is wrong and what to type, where that is known, or else what the error says."""
    known = (plain for sign, plain in CAUSES.items() if sign in str(error).lower())
    return next(known, f"it raises {type(error).__name__}: {in_a_line(error)}")


def by_vmap(
    function: Callable[[Values], Result], count: int, values: Values, tolerant: bool
) -> Result:
    """All draws at once, by ``torch.func.vmap``; a matrix without a factor is NaN if tolerant."""

    def one(index: Tensor, row: Values) -> Result:
        with Blanks(index), Unchecked(), FailuresAreNaN() if tolerant else nullcontext():
            return function(row)

    with warnings.catch_warnings(), pyro.validation_enabled(False):
        warnings.filterwarnings("ignore", message="There is a performance drop")
        return vmap(one, randomness="different")(torch.arange(count), values)


BACKENDS: tuple[Backend, ...] = (by_vmap,)  # the first that agrees with a loop runs; else the loop


def by_loop(
    function: Callable[[Values], Result], count: int, values: Values, tolerant: bool
) -> Result:
    """One draw after the other, NaN for those on which the function's numerics fail."""
    results: list[Result | None] = []
    for index in range(count):
        try:
            results.append(function(_rows(values, index)))
        except NUMERICS:
            if not tolerant:
                raise
            results.append(None)
    example = next((result for result in results if result is not None), None)
    if example is None:
        return torch.full((count,), torch.nan, dtype=torch.float64), {}
    failed = _failed(example)
    return _stacked([failed if result is None else result for result in results])


def _foreign_random_state() -> str:
    state = pyro.util.get_rng_state()
    return repr((state["random"], state["numpy"][2:], state["numpy"][1].tolist()))


def _rows(values: Values, start: int, stop: int | None = None) -> Values:
    """One draw of all values, or those from `start` to `stop`."""
    rows = start if stop is None else slice(start, stop)
    return {name: value[rows] for name, value in values.items()}


def _stacked(results: list[Result]) -> Result:
    first = results[0][1]
    for _, values in results:
        for name in first.keys() | values.keys():
            shapes = [v[name].shape if name in v else None for v in (first, values)]
            if shapes[0] != shapes[1]:
                what = ["missing" if shape is None else str(tuple(shape)) for shape in shapes]
                raise ValueError(
                    f"the site {name!r} is not of one shape: {what[0]} in one draw and {what[1]} "
                    "in another; draws can be stacked only where the shapes do not depend on "
                    "random values"
                )
    numbers = torch.stack([number for number, _ in results])
    return numbers, {name: torch.stack([values[name] for _, values in results]) for name in first}


def _joined(results: list[Result]) -> Result:
    example = next((result for result in results if result[1]), results[0])
    numbers = torch.cat([number.to(example[0].device) for number, _ in results])
    row = _failed((example[0][0], _rows(example[1], 0)))[1]
    values = {
        name: torch.cat(
            [
                values[name] if name in values else part.expand(len(number), *part.shape)
                for number, values in results
            ]
        )
        for name, part in row.items()
    }
    return numbers, values


def _failed(example: Result) -> Result:
    """NaN in place of the numbers of a result."""
    number, values = example
    return torch.full_like(number, torch.nan), {
        name: torch.full_like(value, torch.nan) if value.is_floating_point() else value
        for name, value in values.items()
    }
