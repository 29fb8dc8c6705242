"""A recorded graph without the nodes that compute nothing, or the same as an earlier one."""

from operator import getitem

import torch
from torch._ops import OpOverload

from pyro_nf.engines.nodes import Node, Recorded, mapped

__all__ = ["tidy"]

_aten = torch.ops.aten
_VIEWS = (_aten.view.default, _aten.expand.default, _aten._unsafe_view.default)
_ALIASES = (_aten.detach.default, _aten.alias.default)


def tidy(recorded: Recorded) -> Recorded:
    """Drop the nodes of a graph that compute nothing, or the same as an earlier one."""
    instead: dict[Node, Node] = {}
    seen: dict[str, Node] = {}  # expressions
    stay: list[Node] = []
    for node in recorded.calls:
        node.args, node.kwargs = mapped(
            (node.args, node.kwargs), lambda part: instead.get(part, part)
        )
        if node.mutates:
            seen.clear()  # what is read from here on may have other values
        earlier = _same(node) or (_is_pure(node) and seen.setdefault(_text(node), node)) or node
        if earlier is node:
            stay.append(node)
        else:
            instead[node] = earlier
    recorded.outputs = [instead.get(node, node) for node in recorded.outputs]
    _drop_dead(recorded, stay)
    recorded.renumber()
    return recorded


def _same(node: Node) -> Node | None:
    """An argument whose value is that of the node, too."""
    first = node.args[0] if node.args else None
    if not isinstance(first, Node):
        return None
    if node.target in _ALIASES or (node.target in _VIEWS and first.shape == node.shape):
        return first
    # It transposes a matrix back, as autograd does with weights.
    undone: Node | None = first.args[0] if first.target is node.target is _aten.t.default else None
    return undone


def _is_pure(node: Node) -> bool:
    """Whether its value may be that of another of the same expression."""
    if node.changed or node.is_random or node.mutates:
        return False
    return node.target is getitem or isinstance(node.target, OpOverload)


def _text(node: Node) -> str:
    """Its expression; 1, 1.0 and True must not be confused."""
    return repr((node.target, node.args, node.kwargs))


def _drop_dead(recorded: Recorded, calls: list[Node]) -> None:
    """Leave out what nothing uses, but draw all random numbers, lest an engine go on from another
    random state than the function, with which it is compared."""
    alive = set(recorded.outputs)
    stay = []
    for node in reversed(calls):
        if node in alive or node.mutates or node.is_random:
            if node.is_random and node not in alive:
                recorded.outputs.append(node)
            stay.append(node)
            alive.update(node.used)
    recorded.calls = stay[::-1]
    recorded.constants = {
        node: tensor for node, tensor in recorded.constants.items() if node in alive
    }
