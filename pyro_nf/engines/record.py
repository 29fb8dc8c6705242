"""A function of tensors as a graph of the operations that it runs on them, recorded once."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["UntraceableError", "mutates", "record"]


class UntraceableError(Exception):
    """What a function does depends on the values of its inputs.

    No error of a model's numerics, which are taken for NaN.
    """


def record(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], fixed: Sequence[Tensor] = ()
) -> GraphModule:
    """Run a function on some inputs and record what it does, autograd's operations included.

    Tensors are known by their identity: where the function reaches an input by another way than
    its arguments, the graph still takes it from the inputs. What depends neither on the inputs nor
    on random numbers is a constant of the graph. Shapes are those of this run; each node has
    that of its value in ``meta["shape"]``.

    ``make_fx`` does as much, but spends most of its time on the metadata of each node, for
    compilers that may never come.

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


def _of_the_shape(func: Any, args: Any) -> list[Tensor]:
    """The tensors on whose values the shape of a result depends, such as a mask by its ones."""
    if func is torch.ops.aten.index.Tensor:  # tagged for masks, and most often without one
        return [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
    if func is torch.ops.aten.masked_select.default:
        return [args[1]]
    dynamic = torch.Tag.dynamic_output_shape in func.tags
    return [part for part in pytree.tree_leaves(args) if dynamic and isinstance(part, Tensor)]


def mutates(node: Node) -> bool:
    """Whether a node changes its first argument in place."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


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


def _place(tensor: Tensor) -> int:
    """Where in memory its numbers are, with those of its views."""
    return tensor.untyped_storage().data_ptr()


class _Recorder(TorchDispatchMode):
    """Sees each operation below autograd, runs it, and writes it down."""

    def __init__(self, inputs: Sequence[Tensor], fixed: Sequence[Tensor]) -> None:
        super().__init__()
        self.graph, self.constants = Graph(), nn.Module()
        # By identity; the tensors are kept, so that no other is given the place of one in memory.
        self.nodes: dict[int, tuple[Tensor, Node]] = {}
        self.changed: set[int] = set()  # where in memory something was changed in place
        self.moving: set[int] = set()  # where something that varies was written
        for index, tensor in enumerate([*inputs, *fixed]):
            self._bind(tensor, self.graph.placeholder(f"input_{index}"), index < len(inputs))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No veto on torch's compiler, whose import, for that veto alone, takes a second."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        nodes = pytree.tree_map_only(Tensor, self._node, (args, kwargs))
        tensors = [part for part in pytree.tree_leaves((args, kwargs)) if isinstance(part, Tensor)]
        varies = torch.Tag.nondeterministic_seeded in func.tags or (
            func not in _OF_SHAPES and any(map(self._varies, tensors))
        )
        if varies and torch.Tag.data_dependent_output in func.tags:
            raise UntraceableError(f"{func} takes a value out of a tensor")
        if any(map(self._varies, _of_the_shape(func, args))):
            raise UntraceableError(f"the shape of what {func} returns depends on values")
        result = func(*args, **kwargs)
        node = self.graph.call_function(func, *nodes)
        if mutates(node):
            self.changed.update(map(_place, tensors))
            if varies:
                self.moving.add(_place(tensors[0]))
        if isinstance(result, Tensor):
            self._bind(result, node, varies)
        else:
            for index, part in enumerate(result if isinstance(result, tuple | list) else ()):
                if isinstance(part, Tensor):
                    item = self.graph.call_function(operator.getitem, (node, index))
                    self._bind(part, item, varies)
        return result

    def _varies(self, tensor: Tensor) -> bool:
        """Whether its values may be others in another run; those of a view are its base's."""
        return self._node(tensor).meta["varies"] or _place(tensor) in self.moving

    def _bind(self, tensor: Tensor, node: Node, varies: bool) -> None:
        node.meta |= {"shape": tensor.shape, "varies": varies}
        self.nodes[id(tensor)] = tensor, node

    def _node(self, tensor: Tensor) -> Node:
        """The node whose value a tensor is; a new constant for one that is not known."""
        if id(tensor) not in self.nodes:
            self._bind(tensor, self._constant(tensor), varies=False)
        return self.nodes[id(tensor)][1]

    def _constant(self, tensor: Tensor) -> Node:
        name = f"constant_{len(self.constants._buffers)}"
        self.constants.register_buffer(name, tensor.detach())
        return self.graph.get_attr(name)

    def finished(self, result: Tensor) -> GraphModule:
        """The graph of what was recorded, with constants for what is the same each time."""
        self.graph.output((self._node(result),))
        for tensor, node in list(self.nodes.values()):
            fixed = node.op == "call_function" and not node.meta["varies"]
            if fixed and _place(tensor) not in self.changed:
                with self.graph.inserting_before(node):
                    constant = self._constant(tensor)
                constant.meta |= node.meta
                node.replace_all_uses_with(constant)
        return GraphModule(self.constants, self.graph)
