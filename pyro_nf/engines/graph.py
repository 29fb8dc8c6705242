"""What runs a traced step: TorchScript, ready in a second, or inductor, an order faster later.

Both take the graph of a step and its inputs, and return a function of the inputs that changes
them in place and returns the loss. Neither changes a setting of the process.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from operator import getitem
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from pyro_nf.engines.record import mutates, record
from pyro_nf.fitting.elbo import NothingLeavesTheGraph
from pyro_nf.model.target import LogDensity, scored

__all__ = ["Engine", "full", "quick", "tidy", "traced", "traced_scores", "work"]

Engine = Callable[[Sequence[Tensor]], Tensor]

SMALL = 100_000  # elements of the largest tensor, up to which one thread is the fastest

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
        return _shape(node.args[0]) == _shape(node)
    return node.target in _ALIASES


def _undoes_another(node: Node) -> bool:
    """Whether it transposes a matrix back, as autograd does with weights."""
    of = node.args[0] if node.target is _aten.t.default else None
    return isinstance(of, Node) and of.target is _aten.t.default


def _shape(node: Node) -> torch.Size:
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


def quick(module: GraphModule, inputs: Sequence[Tensor]) -> Engine:
    """TorchScript: no Python between the operations, which stay one call each."""
    scripted = torch.jit.trace(
        lambda *tensors: module(*tensors),
        tuple(tensor.clone() for tensor in inputs),
        check_trace=False,
    )
    return lambda tensors: scripted(*tensors)[0]


def traced(function: Callable[[Tensor], Tensor], example: Tensor) -> Callable[[Tensor], Tensor]:
    """A function of one tensor by the quick engine; itself where that would not be the same.

    Arguments:
        function: A function of real numbers, with gradients inside or none, not random.
        example: A value of its argument, of the shape that all others have.
    """
    try:
        with pyro.validation_enabled(False), NothingLeavesTheGraph():
            graph = tidy(record(function, [example]))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what torch deprecates of itself
                engine = quick(graph, [example])
            other = 0.9 * example
            same = torch.allclose(engine([other]), function(other), rtol=1e-4, equal_nan=True)
    except Exception:  # a user's code, of which tracing may ask too much
        return function
    return (lambda value: engine([value])) if same else function


def traced_scores(
    log_density: LogDensity, example: Tensor
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A log density at the rows of a tensor and its gradients, by the quick engine if it can be.

    Arguments:
        log_density: From points of shape ``(n, D)`` to numbers of shape ``(n,)``.
        example: Points; all others come in the same number.
    """

    def together(u: Tensor) -> Tensor:
        value, gradient = scored(log_density, u)
        return torch.cat([value.unsqueeze(-1), gradient], -1)

    run = traced(together, example)

    def apart(u: Tensor) -> tuple[Tensor, Tensor]:
        both = run(u)
        return both[:, 0], both[:, 1:]

    return apart


def work(log_density: LogDensity, points: Tensor) -> float:
    """How many numbers a log density and its gradient compute for a point, on the way.

    Infinite where they cannot be recorded.

    Arguments:
        log_density: From points of shape ``(n, D)`` to numbers of shape ``(n,)``.
        points: Some points, with shape ``(n, D)``.
    """
    try:
        with pyro.validation_enabled(False), NothingLeavesTheGraph():
            nodes = record(lambda u: scored(log_density, u)[1], [points]).graph.nodes
    except Exception:  # a user's code, of which recording may ask too much
        return math.inf
    numbers = sum(node.meta["shape"].numel() for node in nodes if node.meta.get("varies"))
    return numbers / len(points)


def full(module: GraphModule, inputs: Sequence[Tensor]) -> Engine:
    """Inductor: the operations fused to a few C++ loops; needs a C++ compiler."""
    import torch._inductor.config as inductor
    from torch._guards import TracingContext, tracing
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.passes.fake_tensor_prop import FakeTensorProp

    copies = [tensor.clone() for tensor in inputs]
    settings: dict[str, Any] = {
        "fallback_random": True,  # the numbers of the other engines, and quicker than its own
        "compile_threads": 1,  # one graph: no pool of processes to start
    }
    largest = max((_shape(node).numel() for node in module.graph.nodes), default=0)
    if largest <= SMALL:
        settings["cpp.threads"] = 1
    with torch.no_grad(), inductor.patch(settings):
        pure = make_fx(
            torch.func.functionalize(module, remove="mutations_and_views"),
            decomposition_table=select_decomp_table(),
        )(*copies)
        tidy(pure)
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        fakes = [mode.from_tensor(tensor) for tensor in copies]
        FakeTensorProp(pure, mode).propagate_dont_convert_inputs(*fakes)
        with tracing(TracingContext(mode)):
            compiled = compile_fx_inner(pure, fakes)
    # The compiled function empties the list that it is given.
    return lambda tensors: compiled(list(tensors))[0]
