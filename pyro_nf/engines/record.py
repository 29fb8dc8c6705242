"""A function of tensors as a graph of the operations that it runs on them, recorded once."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["mutates", "record"]


def record(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> GraphModule:
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
    """
    recorder = _Recorder(inputs)
    with recorder:
        result = function(*inputs)
    return recorder.finished(result)


def _shape_depends_on_values(func: Any, args: Any) -> bool:
    """Whether an operation picks as many elements as a mask has ones."""
    if func is torch.ops.aten.index.Tensor:  # tagged for masks, and most often without one
        return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    return torch.Tag.dynamic_output_shape in func.tags


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


class _Recorder(TorchDispatchMode):
    """Sees each operation below autograd, runs it, and writes it down."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.graph, self.constants = Graph(), nn.Module()
        # By identity; the tensors are kept, so that no other is given the place of one in memory.
        self.nodes: dict[int, tuple[Tensor, Node]] = {}
        self.changed: set[int] = set()  # where in memory something was changed in place
        for index, tensor in enumerate(inputs):
            self._bind(tensor, self.graph.placeholder(f"input_{index}"), varies=True)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No veto on torch's compiler, whose import, for that veto alone, takes a second."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        nodes = pytree.tree_map_only(Tensor, self._node, (args, kwargs))
        varies = torch.Tag.nondeterministic_seeded in func.tags or any(
            node.meta["varies"]
            for node in pytree.tree_leaves(nodes)
            if isinstance(node, Node) and func not in _OF_SHAPES
        )
        if varies and torch.Tag.data_dependent_output in func.tags:
            raise NotImplementedError(f"{func} takes a value out of a tensor")
        if varies and _shape_depends_on_values(func, args):
            raise NotImplementedError(f"the shape of what {func} returns depends on values")
        result = func(*args, **kwargs)
        node = self.graph.call_function(func, *nodes)
        if mutates(node):
            touched = [part for part in pytree.tree_leaves(args) if isinstance(part, Tensor)]
            self.changed.update(part.untyped_storage().data_ptr() for part in touched)
        if isinstance(result, Tensor):
            self._bind(result, node, varies)
        else:
            for index, part in enumerate(result if isinstance(result, tuple | list) else ()):
                if isinstance(part, Tensor):
                    item = self.graph.call_function(operator.getitem, (node, index))
                    self._bind(part, item, varies)
        return result

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
            if fixed and tensor.untyped_storage().data_ptr() not in self.changed:
                with self.graph.inserting_before(node):
                    constant = self._constant(tensor)
                constant.meta |= node.meta
                node.replace_all_uses_with(constant)
        return GraphModule(self.constants, self.graph)
