"""What a graph is made of: operations in order, with nodes in place of tensors."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload

__all__ = ["Node", "Recorded", "leaves", "mapped"]


class Traits(NamedTuple):
    """What is true of all calls of an operation.

    Attributes:
        mutates: Whether it changes its first argument in place.
        is_random: Whether it draws random numbers.
        takes_out: Whether it takes a value out of a tensor.
        shapes: Whether the shape of what it returns depends on values.
    """

    mutates: bool
    is_random: bool
    takes_out: bool
    shapes: bool


@cache
def traits(target: Any) -> Traits:
    """Those of an operation; torch has operations in the hundreds, and looks them up slowly."""
    tags = getattr(target, "tags", ())
    return Traits(
        isinstance(target, OpOverload) and target._schema.is_mutable,
        torch.Tag.nondeterministic_seeded in tags,
        torch.Tag.data_dependent_output in tags,
        torch.Tag.dynamic_output_shape in tags,
    )


class Node:
    """A value of a graph: an input, a constant, or what an operation makes of other values.

    Attributes:
        target: The operation, or ``getitem`` for one of several results; None for an input and a
            constant.
        args: Its arguments, with nodes in place of tensors.
        kwargs: Its arguments by name.
        number: Its place in the graph, by which its text is known.
        traits: What is true of all calls of the operation.
        shape: That of its value; empty if it is no tensor.
        varies: Whether its value may be another in another run.
        changed: Whether its memory is written to.
    """

    __slots__ = ("args", "changed", "kwargs", "number", "shape", "target", "traits", "varies")

    def __init__(self, target: Any, args: Any, kwargs: Any, varies: bool) -> None:
        self.target, self.args, self.kwargs, self.varies = target, args, kwargs, varies
        self.traits = traits(target)
        self.number, self.shape, self.changed = -1, torch.Size(), False

    def __repr__(self) -> str:
        return f"%{self.number}"

    @property
    def mutates(self) -> bool:
        """Whether it changes its first argument in place."""
        return self.traits.mutates

    @property
    def is_random(self) -> bool:
        """Whether it draws random numbers."""
        return self.traits.is_random

    @property
    def used(self) -> list["Node"]:
        """The nodes among its arguments."""
        return [part for part in leaves((self.args, self.kwargs)) if type(part) is Node]


class Recorded:
    """What a function has done, as a function of inputs and constants.

    It knows nothing of the constants' values: two functions that do the same with other constants
    have equal graphs.

    Attributes:
        inputs: The nodes of the inputs.
        constants: The tensors that are the same in each run, by their nodes.
        calls: What is done, in order.
        outputs: The result, and what else must be computed.
        plain: Whether all other arguments are numbers, names of dtypes and the like, by whose text
            they are known.
    """

    def __init__(
        self,
        inputs: list[Node],
        constants: dict[Node, Tensor],
        calls: list[Node],
        result: Node,
        plain: bool,
    ) -> None:
        self.inputs, self.constants, self.calls = inputs, constants, calls
        self.outputs, self.plain = [result], plain

    def __call__(self, *inputs: Tensor) -> list[Any]:
        """Do the same with other inputs; gives the values of the outputs."""
        return self.run(*inputs, *self.constants.values())

    def run(self, *tensors: Tensor) -> list[Any]:
        """Do the same with other inputs and other constants."""
        values: dict[Node, Any] = dict(zip([*self.inputs, *self.constants], tensors, strict=True))
        for node in self.calls:
            args, kwargs = mapped((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*args, **kwargs)
        return [values[node] for node in self.outputs]

    def renumber(self) -> None:
        """Number the nodes by their places."""
        for number, node in enumerate([*self.inputs, *self.constants, *self.calls]):
            node.number = number

    @property
    def changes_constants(self) -> bool:
        """Whether a constant is written to."""
        return any(node.mutates and node.used[0] in self.constants for node in self.calls)


def mapped(value: Any, of: Callable[[Node], Any]) -> Any:
    """Arguments with other things in place of their nodes."""
    if type(value) is Node:
        return of(value)
    if isinstance(value, (list, tuple)):
        return type(value)([mapped(part, of) for part in value])
    if isinstance(value, dict):
        return {name: mapped(part, of) for name, part in value.items()} if value else value
    return value


def leaves(value: Any) -> Iterator[Any]:
    """The arguments of an operation, which nests them in lists at most, one by one."""
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from leaves(part)
    elif isinstance(value, dict):
        yield from leaves(list(value.values()))
    else:
        yield value
