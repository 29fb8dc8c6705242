"""A recorded graph without the nodes that compute nothing, or the same as an earlier one."""

from operator import getitem

import torch
from torch.fx import Graph, GraphModule, Node

from pyro_nf.engines.record import mutates

__all__ = ["shape_of", "tidy"]

_aten = torch.ops.aten
_VIEWS = (_aten.view.default, _aten.expand.default, _aten._unsafe_view.default)
_ALIASES = (_aten.detach.default, _aten.alias.default)


def tidy(module: GraphModule) -> GraphModule:
    """Drop the nodes of a traced step that compute nothing, or the same as an earlier one."""
    for node in list(module.graph.nodes):
        if _does_nothing(node):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
        elif _undoes_another(node):
            node.replace_all_uses_with(node.args[0].args[0])
            module.graph.erase_node(node)
    _share(module.graph)
    module.graph.eliminate_dead_code()
    _keep_draws(module.graph)
    module.recompile()
    return module


def _keep_draws(graph: Graph) -> None:
    """Return random numbers that nothing uses, too: an engine that left them out would go on
    from another random state than the eager step, with which it is compared."""
    output = graph.output_node()
    unused = [
        node
        for node in graph.nodes
        if node.op == "call_function" and not node.users and _is_random(node)
    ]
    output.args = ((*output.args[0], *unused),)  # type: ignore[misc]


def _is_random(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _does_nothing(node: Node) -> bool:
    if node.target in _VIEWS:
        assert isinstance(node.args[0], Node)  # views are of tensors
        return shape_of(node.args[0]) == shape_of(node)
    return node.target in _ALIASES


def _undoes_another(node: Node) -> bool:
    """Whether it transposes a matrix back, as autograd does with weights."""
    of = node.args[0] if node.target is _aten.t.default else None
    return isinstance(of, Node) and of.target is _aten.t.default


def shape_of(node: Node) -> torch.Size:
    """The shape of a node's value, from record or from make_fx; empty if it is no tensor."""
    shape: torch.Size = getattr(node.meta.get("val"), "shape", torch.Size())
    return node.meta.get("shape", shape)


def _share(graph: Graph) -> None:
    """Compute equal expressions once, but draw every random number and fill every buffer."""
    changed = {node.args[0] for node in graph.nodes if mutates(node)}
    seen: dict[object, Node] = {}
    for node in list(graph.nodes):
        target = node.target
        pure = target is getitem or (
            isinstance(target, torch._ops.OpOverload)
            and not mutates(node)
            and torch.Tag.nondeterministic_seeded not in target.tags
        )
        if node in changed or not pure:
            continue
        # Arguments are nodes, numbers and lists of them; 1, 1.0 and True must not be confused.
        key = repr((target, node.args, sorted(node.kwargs.items())))
        if key in seen:
            node.replace_all_uses_with(seen[key])
            graph.erase_node(node)
        else:
            seen[key] = node
