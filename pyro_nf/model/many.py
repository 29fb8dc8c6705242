"""Many runs of a model or a guide, each as if it were alone."""

import warnings
from collections.abc import Callable, Mapping

import pyro
import torch
from torch import Tensor
from torch.func import vmap

from pyro_nf.model.failures import NUMERICS
from pyro_nf.model.handlers import Blanks, Unchecked
from pyro_nf.randomness import kept_random_state

__all__ = ["Many", "Result", "Values"]

Values = dict[str, Tensor]
Result = tuple[Tensor, Values]  # a number, and values by name

FEW = 8  # draws of a loop that is not worth halving again, and of a look at what is random
RTOL = 1e-4  # batched and single matrix products round differently; a wrong sum is far off


class Many:
    """A function of one draw, run for many draws.

    They run together, by ``torch.func.vmap``: to the function each draw looks as if it were
    alone, so that models need no plate and no broadcasting for it, and no phantom dimension
    remains. A function that cannot run so (control flow that depends on values, ``.item()``,
    NumPy), or that gives other numbers then, runs in a loop.

    Arguments:
        function: From the values of one draw to a number and values by name.
        chunk: How many draws may run together, for the memory that they take.
        random: Whether the function draws random numbers.
        tolerant: Whether a draw on which the function's numerics fail (a Cholesky factor, say)
            gives NaN instead of an error, as long as not all do.
        finish: What to make of the results of draws that have run together.

    Attributes:
        vectorized: Whether draws run together; None before the first.
    """

    def __init__(
        self,
        function: Callable[[Values], Result],
        chunk: int,
        *,
        random: bool = False,
        tolerant: bool = False,
        finish: Callable[[Result], Result] = lambda result: result,
    ) -> None:
        self.function, self.chunk, self.finish = function, chunk, finish
        self.random, self.tolerant = random, tolerant
        self.vectorized: bool | None = None

    @torch.no_grad()
    def __call__(self, count: int, values: Mapping[str, Tensor] | None = None) -> Result:
        """Run the function `count` times.

        Arguments:
            count: The number of draws.
            values: The values of all draws, each of shape ``(count, *shape)``.

        Returns:
            Numbers of shape ``(count,)``, and values of shape ``(count, *shape)``.
        """
        values = dict(values or {})
        if self.vectorized is None:
            self.vectorized = self._can_vectorize(count, values)
        results: list[Result] = []
        for start in range(0, count, self.chunk):
            stop = min(start + self.chunk, count)
            results += map(self.finish, self._some(stop - start, _rows(values, start, stop)))
        if all(bool(numbers.isnan().all()) for numbers, _ in results) and self.tolerant:
            self.function(_rows(values, 0))  # raises what all draws raise
        return _joined(results)

    def _some(self, count: int, values: Values) -> list[Result]:
        """Run a chunk; in halves where one draw fails, so that the others run together."""
        if not self.vectorized:
            return [self._loop(count, values)]
        try:
            return [self._together(count, values)]
        except NUMERICS:
            if not self.tolerant:
                raise
        if count <= FEW:
            return [self._loop(count, values)]
        half = count // 2
        first = self._some(half, _rows(values, 0, half))
        return first + self._some(count - half, _rows(values, half, count))

    def _together(self, count: int, values: Values) -> Result:
        def one(index: Tensor, row: Values) -> Result:
            with Blanks(index), Unchecked():
                return self.function(row)

        with warnings.catch_warnings(), pyro.validation_enabled(False):
            warnings.filterwarnings("ignore", message="There is a performance drop")
            return vmap(one, randomness="different")(torch.arange(count), values)

    def _loop(self, count: int, values: Values) -> Result:
        results: list[Result | None] = []
        for index in range(count):
            try:
                results.append(self.function(_rows(values, index)))
            except NUMERICS:
                if not self.tolerant:
                    raise
                results.append(None)
        example = next((result for result in results if result is not None), None)
        if example is None:
            return torch.full((count,), torch.nan, dtype=torch.float64), {}
        failed = _failed(example)
        return _stacked([failed if result is None else result for result in results])

    def _can_vectorize(self, count: int, values: Values) -> bool:
        """Whether a few draws that run together come out as they do one by one."""
        with kept_random_state():
            for start in range(min(count, FEW)):
                row = _rows(values, start, start + 1)
                try:
                    self.function(_rows(row, 0))
                except NUMERICS:
                    if not self.tolerant:
                        raise
                    continue  # with a draw that fails nothing can be compared
                few = FEW if self.random else 2
                return self._same(few, {k: v.expand(few, *v.shape[1:]) for k, v in row.items()})
        return False

    def _same(self, count: int, values: Values) -> bool:
        before = _foreign_random_state()
        singly = self._loop(count, values)
        if before != _foreign_random_state():
            return False  # draws that run together would share one such number
        try:
            together = self._together(count, values)
        except Exception:  # whatever a user's code makes of tensors that are not plain ones
            return False
        if singly[1].keys() != together[1].keys():
            return False
        pairs = [(singly[0], together[0])]
        pairs += [(singly[1][name], together[1][name]) for name in singly[1]]
        return all(self._agree(one, other) for one, other in pairs)

    def _agree(self, one: Tensor, other: Tensor) -> bool:
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        if not self.random:
            return torch.allclose(one, other, rtol=RTOL, atol=RTOL, equal_nan=True)
        # A random number that vmap does not know of would be the same in all draws.
        varies, still = bool((one != one[:1]).any()), bool((other == other[:1]).all())
        return not (varies and still)


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
