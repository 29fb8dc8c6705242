"""A graph as the source of one Python function: a line for each operation, without autograd."""

import math
from collections.abc import Callable, Sequence
from operator import getitem
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_nf.engines.nodes import Node, Recorded, leaves, mapped

__all__ = ["python_function"]

_aten = torch.ops.aten
# Where torch keeps the functions in C++ that read their arguments the quickest.
_BINDINGS = (torch._C.TensorBase, torch._C._VariableFunctions, torch._C._nn)
# Those of a tensor and a number that take a tensor of no dimension as well, which is quicker by
# 3 us: torch makes such a tensor of a number each time.
_OF_NUMBERS = {
    op: packet.Tensor
    for name in ("add", "sub", "mul", "div", "ge", "gt", "le", "lt", "eq", "ne")
    for packet in [getattr(_aten, name)]
    for op in (packet.Tensor, packet.Scalar)
}


def python_function(recorded: Recorded, tensors: Sequence[Tensor]) -> Callable[..., Tensor]:
    """A recorded graph as a Python function of inputs and constants, which returns its result.

    The graph runs once, on copies of the tensors.

    Arguments:
        recorded: The graph.
        tensors: Its inputs and its constants.
    """
    writer = _Writer(recorded, tensors)
    with torch.no_grad():
        for node in recorded.calls:
            writer.write(node)
    arguments = (writer.variables[node] for node in [*recorded.inputs, *recorded.constants])
    writer.lines.append(f"return {writer.variables[recorded.outputs[0]]}")
    body = "\n    ".join(writer.lines)
    exec(f"def run({', '.join(arguments)}):\n    {body}", writer.scope)
    return writer.scope["run"]


class _Writer:
    """Writes a graph down node by node, and runs it meanwhile."""

    def __init__(self, recorded: Recorded, tensors: Sequence[Tensor]) -> None:
        self.lines: list[str] = []
        self.scope: dict[str, Any] = {}  # the globals of the function
        self.known: dict[int, str] = {}  # their names, by identity
        self.numbers: dict[tuple[str, torch.dtype], Tensor] = {}
        self.variables: dict[Node, str] = {}
        self.values: dict[Node, Any] = {}
        self.bindings: dict[object, Callable[..., Any]] = {}
        for number, node in enumerate([*recorded.inputs, *recorded.constants]):
            self.variables[node], self.values[node] = f"i{number}", tensors[number].clone()
        last = {part: node for node in recorded.calls for part in node.used}
        self.users: dict[Node, list[Node]] = {}
        for node in recorded.calls:
            for part in dict.fromkeys(node.used):
                self.users.setdefault(part, []).append(node)
        self.dying: dict[Node, list[Node]] = {}  # the nodes that a node is the last to use
        for node, user in last.items():
            if node.target is not None and node is not recorded.outputs[0]:
                self.dying.setdefault(user, []).append(node)
        self.result = recorded.outputs[0]

    def write(self, node: Node) -> None:
        """Write a node down."""
        if node.target is getitem:  # written with what it is an item of
            self.values[node] = self.values[node.args[0]][node.args[1]]
        else:
            self._write_call(node)
        for dead in self.dying.get(node, []):
            del self.values[dead]

    def _write_call(self, node: Node) -> None:
        op, args, kwargs = self._of_tensors(node)
        function = self._run(node, op, args, kwargs)
        texts = [self._text(a) for a in args] + [f"{k}={self._text(v)}" for k, v in kwargs.items()]
        call = f"{self._global(function)}({', '.join(texts)})"
        free = [self.variables[dead] for dead in self.dying.get(node, []) if dead in self.variables]
        users = self.users.get(node, [])
        result, items = self.values[node], [user for user in users if user.target is getitem]
        if isinstance(result, tuple | list):
            names = ["_"] * len(result)
            for item in items:
                names[item.args[1]] = self.variables[item] = f"v{len(self.variables)}"
            self.lines.append(f"{', '.join(names)}{',' * (len(names) == 1)} = {call}")
        elif users or node is self.result:
            self.variables[node] = free.pop() if free else f"v{len(self.variables)}"
            self.lines.append(f"{self.variables[node]} = {call}")
        else:
            self.lines.append(call)
        if free:
            self.lines.append(f"del {', '.join(free)}")

    def _of_tensors(self, node: Node) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """The operation of a node with its arguments, of which a number may be a tensor now."""
        op, args, kwargs = node.target, node.args, node.kwargs
        if kwargs or len(args) != 2 or type(args[1]) not in (int, float):
            return op, args, kwargs
        like = self.values[args[0]] if isinstance(args[0], Node) else None
        if not isinstance(like, Tensor) or like.dtype not in (torch.float32, torch.float64):
            return op, args, kwargs
        key = repr(args[1]), like.dtype
        if key not in self.numbers:
            self.numbers[key] = torch.tensor(args[1], dtype=like.dtype)
        if op is _aten.rsub.Scalar:
            return _aten.sub.Tensor, (self.numbers[key], args[0]), kwargs
        if op in _OF_NUMBERS:
            return _OF_NUMBERS[op], (args[0], self.numbers[key]), kwargs
        return op, args, kwargs

    def _run(
        self, node: Node, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[..., Any]:
        """Run a node, and return the quickest function that does what its operation does."""
        found = mapped((args, kwargs), self.values.__getitem__)
        kind = op, *kwargs, *map(_kind, leaves(found))
        if kind in self.bindings:
            self.values[node] = self.bindings[kind](*found[0], **found[1])
            return self.bindings[kind]
        name = op._schema.name.removeprefix("aten::")
        binding: Any
        for binding in [getattr(place, name, None) for place in _BINDINGS]:
            only = _Only(op, found)
            try:
                with only:
                    self.values[node] = binding(*found[0], **found[1])
            except Exception:  # it reads its arguments in another way, or is not there
                continue
            if only.passed:
                break
        else:
            binding = op._op  # what an OpOverload calls, without its call in Python
            self.values[node] = binding(*found[0], **found[1])
        self.bindings[kind] = binding
        return binding

    def _text(self, value: Any) -> str:
        if isinstance(value, Node):
            return self.variables[value]
        if isinstance(value, list | tuple):
            texts = [self._text(item) for item in value]
            if any(isinstance(item, Node) for item in value):
                return f"[{', '.join(texts)}]"
            return f"({', '.join(texts)}{',' * (len(texts) == 1)})"  # made once, unlike a list
        if type(value) in (bool, int, str, type(None)):
            return repr(value)
        if type(value) is float and math.isfinite(value):
            return repr(value)
        return self._global(value)

    def _global(self, value: Any) -> str:
        """The name of a global that has a value."""
        if id(value) not in self.known:
            name = f"g{len(self.known)}"
            self.known[id(value)], self.scope[name] = name, value
        return self.known[id(value)]


def _kind(value: Any) -> object:
    """What of an argument decides how it is read; a tensor of no dimension may be a number."""
    return (Tensor, value.dim() == 0) if isinstance(value, Tensor) else type(value)


class _Only(TorchDispatchMode):
    """Lets one operation with given arguments pass, once."""

    def __init__(self, op: Any, arguments: Any) -> None:
        super().__init__()
        self.op, self.leaves, self.passed = op, [*leaves(arguments)], False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No veto on torch's compiler, as for the recorder."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = [*leaves((args, kwargs or {}))]
        same = len(given) == len(self.leaves) and all(map(_same, given, self.leaves))
        if func is not self.op or self.passed or not same:
            raise TypeError(f"another operation than {self.op}, or of other arguments")
        self.passed = True
        return func(*args, **(kwargs or {}))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return one is other
    return type(one) is type(other) and one == other
