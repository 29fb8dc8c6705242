"""A function of tensors as a graph of the operations that it runs on them, recorded once."""

from collections.abc import Callable, Sequence
from operator import getitem
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_nf.engines.nodes import Node, Recorded, leaves, mapped

__all__ = ["UntraceableError", "record"]


class UntraceableError(Exception):
    """What a function does depends on the values of its inputs.

    No error of a model's numerics, which are taken for NaN.
    """


def record(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], fixed: Sequence[Tensor] = ()
) -> Recorded:
    """Run a function on some inputs and record what it does, autograd's operations included.

    Tensors are known by their identity: where the function reaches an input by another way than
    its arguments, the graph still takes it from the inputs. What depends neither on the inputs nor
    on random numbers is a constant of the graph. Shapes are those of this run.

    ``make_fx`` does as much, but spends most of its time on the metadata of each node, for
    compilers that may never come; and ``torch.fx.Graph`` on names.

    Arguments:
        function: What to record; gives one tensor.
        inputs: Its arguments.
        fixed: More of them, of which the values stay what they are: what the function does may
            depend on these.
    """
    recorder = _Recorder(inputs, fixed)
    with recorder:
        result = function(*inputs, *fixed)
    return recorder.finished(result)


def _of_the_shape(node: Node, args: Any) -> list[Tensor]:
    """The tensors on whose values the shape of a result depends, such as a mask by its ones."""
    if node.target is torch.ops.aten.index.Tensor:  # tagged for masks, and most often without one
        return [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
    if node.target is torch.ops.aten.masked_select.default:
        return [args[1]]
    if node.traits.shapes:
        return [part for part in leaves(args) if isinstance(part, Tensor)]
    return []


_aten = torch.ops.aten
# They take a tensor for its shape, its dtype and its device alone.
_OF_SHAPES = {
    _aten.zeros_like.default,
    _aten.ones_like.default,
    _aten.full_like.default,
    _aten.new_zeros.default,
    _aten.new_ones.default,
    _aten.new_full.default,
}
# Of which the text tells the value.
_PLAIN = (
    *(bool, int, float, complex, str, type(None)),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)


def _place(tensor: Tensor) -> int:
    """Where in memory its numbers are, with those of its views; a sparse tensor has none."""
    strided = tensor.layout == torch.strided
    return tensor.untyped_storage().data_ptr() if strided else id(tensor)


class _Recorder(TorchDispatchMode):
    """Sees each operation below autograd, runs it, and writes it down."""

    def __init__(self, inputs: Sequence[Tensor], fixed: Sequence[Tensor]) -> None:
        super().__init__()
        self.calls: list[Node] = []
        self.constants: dict[Node, Tensor] = {}
        self.plain = True
        self.nodes: dict[int, Node] = {}  # of tensors, by identity
        # All of them are kept, so that no other is given the place of one in memory.
        self.values: dict[Node, Tensor] = {}
        self.changed: set[int] = set()  # where in memory something was changed in place
        self.moving: set[int] = set()  # where something that varies was written
        self.inputs = [
            self._bind(tensor, Node(None, (), {}, index < len(inputs)))
            for index, tensor in enumerate([*inputs, *fixed])
        ]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No veto on torch's compiler, whose import, for that veto alone, takes a second."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors: list[Tensor] = []
        written = self._written(args, tensors), self._written(kwargs, tensors)
        node = Node(func, *written, varies=False)
        node.varies = node.is_random or (func not in _OF_SHAPES and any(map(self._varies, tensors)))
        if node.varies and node.traits.takes_out:
            raise UntraceableError(f"{func} takes a value out of a tensor")
        if any(map(self._varies, _of_the_shape(node, args))):
            raise UntraceableError(f"the shape of what {func} returns depends on values")
        result = func(*args, **kwargs)
        self.calls.append(node)
        if node.mutates:
            self.changed.update(map(_place, tensors))
            if node.varies:
                self.moving.add(_place(tensors[0]))
        if isinstance(result, Tensor):
            self._bind(result, node)
        else:
            for index, part in enumerate(result if isinstance(result, tuple | list) else ()):
                if isinstance(part, Tensor):
                    item = Node(getitem, (node, index), {}, node.varies)
                    self.calls.append(self._bind(part, item))
        return result

    def _written(self, value: Any, tensors: list[Tensor]) -> Any:
        """Arguments with nodes in place of tensors, which are added to a list."""
        if isinstance(value, Tensor):
            tensors.append(value)
            return self._node(value)
        if isinstance(value, (list, tuple)):
            return type(value)([self._written(part, tensors) for part in value])
        if isinstance(value, dict):
            return {name: self._written(part, tensors) for name, part in value.items()}
        self.plain = self.plain and isinstance(value, _PLAIN)
        return value

    def _varies(self, tensor: Tensor) -> bool:
        """Whether its values may be others in another run; those of a view are its base's."""
        varies = self._node(tensor).varies
        return varies or (bool(self.moving) and _place(tensor) in self.moving)

    def _bind(self, tensor: Tensor, node: Node) -> Node:
        node.shape = tensor.shape
        self.nodes[id(tensor)], self.values[node] = node, tensor
        return node

    def _node(self, tensor: Tensor) -> Node:
        """The node whose value a tensor is; a new constant for one that is not known."""
        if id(tensor) not in self.nodes:
            node = self._bind(tensor, Node(None, (), {}, varies=False))
            self.constants[node] = tensor.detach()
        return self.nodes[id(tensor)]

    def finished(self, result: Tensor) -> Recorded:
        """The graph of what was recorded, with constants for what is the same each time."""
        output = self._node(result)
        for node, tensor in self.values.items():
            node.changed = _place(tensor) in self.changed
            if node.changed and node.target is getitem:
                node.args[0].changed = True
        stay = [node for node in self.calls if not self._is_fixed(node)]
        made: dict[Node, Node] = {}

        def constant(node: Node) -> Node:
            """In place of what is fixed a constant, the same for all who use it."""
            if not self._is_fixed(node):
                return node
            if node not in made:
                made[node] = Node(None, (), {}, varies=False)
                made[node].shape = node.shape
                self.constants[made[node]] = self.values[node].detach()
            return made[node]

        for node in stay:
            node.args, node.kwargs = mapped((node.args, node.kwargs), constant)
        recorded = Recorded(self.inputs, self.constants, stay, constant(output), self.plain)
        recorded.renumber()
        return recorded

    def _is_fixed(self, node: Node) -> bool:
        """Whether what it computes is the same each time."""
        return not (node.target is None or node.varies or node.changed or node.mutates)
