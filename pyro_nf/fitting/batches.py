"""Batches of data, epoch after epoch, as a model takes them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide.guides import AutoContinuous
from torch import Tensor

from pyro_nf.model import Reading, as_tensors, is_array
from pyro_nf.randomness import kept_random_state

__all__ = ["Batches", "refuse_local_latents"]

ENOUGH = (
    "type batches=DataLoader(...), or batches=x, batch_size=100 with a tensor, or a tuple of them"
)


class Batches:
    """Batches without end, each the first arguments of a model.

    Tensors, and arrays, columns or data frames of numbers, are cut along their first dimension, in
    an order that is new each epoch; the last batch of an epoch is as short as it comes. Anything
    else is iterated over once an epoch, and gives a batch as a tensor, or as a tuple or list of
    arguments.

    Arguments:
        source: A tensor, a tuple or list of tensors of equal length, or an iterable that can be
            iterated over again and again, such as a ``DataLoader``.
        batch_size: The rows of a batch, for tensors.
        rest: What the model takes after the batch.

    Attributes:
        length: The number of batches in an epoch; None if the source does not tell.
        tensors: The tensors, if the source is that.
    """

    def __init__(self, source: Any, batch_size: int | None, rest: Sequence[Any] = ()) -> None:
        self.source, self.rest = source, tuple(rest)
        self._reading: Reading | None = None
        self.tensors = _tensors(source)
        self.length: int | None
        if self.tensors is not None:
            self.size = _checked_size(batch_size, self.tensors)
            self.length = -(-len(self.tensors[0]) // self.size)
            return
        if batch_size is not None:
            raise ValueError(
                f"batch_size={batch_size!r} is for tensors, and a {type(source).__name__} makes "
                f"its own batches; {ENOUGH}"
            )
        if not isinstance(source, Iterable) or isinstance(source, Iterator | Mapping | str):
            raise TypeError(
                "batches must be tensors or something to iterate over once an epoch, got "
                f"{type(source).__name__}; {ENOUGH}"
            )
        self.length = len(source) if isinstance(source, Sized) else None

    def first(self) -> tuple[Any, ...]:
        """A batch of the usual size, the same each time if the source is tensors."""
        if self.tensors is not None:
            return (*(tensor[: self.size] for tensor in self.tensors), *self.rest)
        with kept_random_state():
            return next(self._epoch(0, 0))

    def use(self, reading: Reading) -> None:
        """Give the model from now on what it can compute with."""
        if self.tensors is None:
            self._reading = reading
            return
        args, _ = reading((*self.tensors, *self.rest), {})
        count = len(self.tensors)
        self.tensors, self.rest = args[:count], args[count:]

    def start(self, seed: int, step: int = 0) -> Iterator[tuple[Any, ...]]:
        """The batches from a step on; of tensors those that an unbroken run would have had.

        Arguments:
            seed: What the order of the rows of tensors follows from.
            step: The number of batches that have been.
        """
        epoch, skip = 0, 0
        if self.tensors is not None and self.length:
            epoch, skip = divmod(step, self.length)
        while True:
            yield from self._epoch(seed + epoch, skip)
            epoch, skip = epoch + 1, 0

    def _epoch(self, seed: int, skip: int) -> Iterator[tuple[Any, ...]]:
        if self.tensors is not None:
            generator = torch.Generator().manual_seed(seed)
            order = torch.randperm(len(self.tensors[0]), generator=generator)
            for rows in order.split(self.size)[skip:]:
                yield (*(t[rows.to(t.device)] for t in self.tensors), *self.rest)
            return
        empty = True
        for item in self.source:
            empty = False
            batch = (*(item if isinstance(item, tuple | list) else (item,)), *self.rest)
            yield batch if self._reading is None else self._reading.convert(batch, {})[0]
        if empty:
            raise ValueError(f"batches gave no batch in an epoch; {ENOUGH}")


def _tensors(source: Any) -> tuple[Tensor, ...] | None:
    if isinstance(source, Tensor) or is_array(source):
        return (as_tensors("batches", source),)
    several = isinstance(source, tuple | list) and len(source) > 0
    if several and (isinstance(source[0], Tensor) or is_array(source[0])):
        return tuple(as_tensors("batches", tuple(source)))
    return None


def _checked_size(size: int | None, tensors: tuple[Tensor, ...]) -> int:
    shapes = [tuple(getattr(tensor, "shape", ())) for tensor in tensors]
    if not all(shapes) or len({shape[0] for shape in shapes}) > 1 or not shapes[0][0]:
        raise ValueError(
            f"the tensors of batches must have the same number of rows, got the shapes {shapes}"
        )
    if size is None:
        raise ValueError(f"batches is made of tensors, so it needs a batch_size; {ENOUGH}")
    if not isinstance(size, int) or isinstance(size, bool):
        raise TypeError(f"batch_size must be an int, got {size!r}")
    if not 1 <= size <= shapes[0][0]:
        raise ValueError(f"batch_size must be from 1 to the {shapes[0][0]} rows, got {size}")
    return size


def refuse_local_latents(
    model: Callable[..., Any], guide: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """Refuse a guide of global latents for sites whose rows are those of the batch.

    Such sites are told by their shape in half a batch.

    Arguments:
        model: A Pyro model.
        guide: A guide, or a list of guides.
        args: A batch, and what else the model takes.
        kwargs: What the model takes.
    """
    parts = [part for part in [guide, *getattr(guide, "children", tuple)()] if _is_global(part)]
    rows = next((len(x) for x in args if isinstance(x, Tensor) and x.dim()), 1)
    half = [
        x[: rows // 2] if isinstance(x, Tensor) and x.dim() and len(x) == rows else x for x in args
    ]
    try:
        with kept_random_state(), torch.no_grad(), poutine.block():
            trace = poutine.trace(model).get_trace(*half, **kwargs)
    except Exception:  # whatever a user's model makes of half a batch
        return
    for part in parts:
        for name, site in part.prototype_trace.iter_stochastic_nodes():
            if name not in trace:
                continue
            here, there = tuple(site["value"].shape), tuple(trace.nodes[name]["value"].shape)
            if here != there:
                raise ValueError(
                    f"the latent site {name!r} is local: its shape is {here} for a batch of "
                    f"{rows} rows and {there} for one of {rows // 2}, so each batch needs a "
                    f"posterior of its own, and {type(part).__name__} has one for all. Type "
                    "guide=AmortizedFlowGuide(model, encoder), with an encoder from a batch to "
                    "features for each row"
                )


def _is_global(part: Any) -> bool:
    return isinstance(part, AutoContinuous) and part.prototype_trace is not None
