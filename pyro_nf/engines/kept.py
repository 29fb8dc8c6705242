"""Engines that have been made, for the graphs that come again."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import wraps
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from pyro_nf.engines.nodes import Recorded

__all__ = ["Engine", "Make", "kept"]

Engine = Callable[[Sequence[Tensor]], Tensor]
Make = Callable[[Recorded, Sequence[Tensor]], Engine]


def kept(most: int) -> Callable[[Make], Make]:
    """Let what makes engines of graphs keep the last of them, and give them for equal graphs again.

    An engine takes a graph's constants as further inputs, so that it knows of tensors nothing but
    their shapes, strides and dtypes, and keeps none alive. The graph is all that it depends on
    besides: its text, with the numbers in it, and the settings of torch by which it is compiled. So
    nothing has to be known of the model, closure or data that the graph was recorded from; what of
    them is not a tensor stands in the graph, and where it differs, so do the graphs.

    A graph of other arguments than tensors, numbers and names has no text that could be compared;
    its engine is not kept.

    Arguments:
        most: The number of engines, of which the longest unused goes first.
    """

    def keeping(make: Make) -> Make:
        engines: OrderedDict[Hashable, Engine] = OrderedDict()
        lock = Lock()

        @wraps(make)
        def again(recorded: Recorded, inputs: Sequence[Tensor]) -> Engine:
            constants = list(recorded.constants.values())
            tensors = [*inputs, *constants]
            key = _key(recorded, tensors)
            with lock:
                engine = engines.pop(key, None)
            if engine is None:
                engine = make(recorded, tensors)
            if recorded.plain:
                with lock:
                    engines[key] = engine
                    if len(engines) > most:
                        engines.popitem(last=False)
            run = engine
            return lambda values: run([*values, *constants])

        return again

    return keeping


def _key(recorded: Recorded, tensors: Sequence[Tensor]) -> Hashable:
    """All that an engine depends on."""
    recorded.renumber()
    settings: tuple[Any, ...] = (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
    )
    kinds = tuple((*_layout(tensor), tensor.dtype, tensor.device) for tensor in tensors)
    # Shapes of results, which of a mask follow from its values.
    targets = tuple((node.target, node.shape) for node in recorded.calls)
    arguments = [(node.args, node.kwargs) for node in recorded.calls]
    return settings, len(recorded.inputs), kinds, targets, repr((arguments, recorded.outputs))


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    strides = tensor.stride() if tensor.layout == torch.strided else ()
    return tensor.layout, tensor.shape, strides
