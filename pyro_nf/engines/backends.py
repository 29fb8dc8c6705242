"""What runs a traced step: a Python function, ready at once, or inductor, a few times faster later.

Both take the graph of a step and its inputs, and return a function of the inputs that changes
them in place and returns the loss. Neither changes a setting of the process.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_nf.engines.kept import Engine, kept
from pyro_nf.engines.nodes import Recorded
from pyro_nf.engines.source import python_function

__all__ = ["full", "quick"]

SMALL = 100_000  # elements of the largest tensor, up to which one thread is the fastest
MODELS = 8  # of which engines are kept
GRAPHS = 12  # of a model: steps, climbs and chains of some objectives and sizes


@kept(most=MODELS * GRAPHS)
def quick(recorded: Recorded, inputs: Sequence[Tensor]) -> Engine:
    """A Python function of the operations, which stay one call each, below autograd."""
    run = python_function(recorded, inputs)

    def engine(tensors: Sequence[Tensor]) -> Tensor:
        with torch.inference_mode():
            result = run(*tensors)
        return result.clone()  # a tensor like others, which autograd takes

    return engine


@kept(most=MODELS)
def full(recorded: Recorded, inputs: Sequence[Tensor]) -> Engine:
    """Inductor: the operations fused to a few C++ loops; needs a C++ compiler."""
    import torch._inductor.config as inductor
    from torch._guards import TracingContext, tracing
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import ShapeEnv
    from torch.fx.passes.fake_tensor_prop import FakeTensorProp

    copies = [_copy(tensor) for tensor in inputs]
    settings: dict[str, Any] = {
        "fallback_random": True,  # the numbers of the other engines, and quicker than its own
        "compile_threads": 1,  # one graph: no pool of processes to start
    }
    largest = max((node.shape.numel() for node in recorded.calls), default=0)
    if largest <= SMALL:
        settings["cpp.threads"] = 1
    # With an environment of shapes, though all are fixed, inductor finds on disk what an earlier
    # process has compiled.
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv(), static_shapes=True)
    with torch.no_grad(), inductor.patch(settings), tracing(TracingContext(mode)):
        pure = make_fx(
            torch.func.functionalize(recorded.run, remove="mutations_and_views"),
            decomposition_table=select_decomp_table(),
        )(*copies)
        fakes = [mode.from_tensor(tensor) for tensor in copies]
        FakeTensorProp(pure, mode).propagate_dont_convert_inputs(*fakes)
        compiled = compile_fx_inner(pure, fakes)
    # The compiled function empties the list that it is given.
    return lambda tensors: compiled(list(tensors))[0]


def _copy(tensor: Tensor) -> Tensor:
    """A copy of the same strides, also where those of an expanded tensor are zero."""
    storage = tensor.untyped_storage().clone()
    return torch.empty_like(tensor, memory_format=torch.contiguous_format).set_(
        storage, tensor.storage_offset(), tensor.shape, tensor.stride()
    )
