"""What runs a traced step: a Python function, ready at once, or inductor, a few times faster later.

Both take the graph of a step and its inputs, and return a function of the inputs that changes
them in place and returns the loss. Neither changes a setting of the process.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyro_nf.engines.graph import shape_of, tidy
from pyro_nf.engines.source import python_function

__all__ = ["Engine", "full", "quick"]

Engine = Callable[[Sequence[Tensor]], Tensor]

SMALL = 100_000  # elements of the largest tensor, up to which one thread is the fastest


def quick(module: GraphModule, inputs: Sequence[Tensor]) -> Engine:
    """A Python function of the operations, which stay one call each, below autograd."""
    run = python_function(module, inputs)

    def engine(tensors: Sequence[Tensor]) -> Tensor:
        with torch.inference_mode():
            result = run(*tensors)
        return result.clone()  # a tensor like others, which autograd takes

    return engine


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
    largest = max((shape_of(node).numel() for node in module.graph.nodes), default=0)
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
