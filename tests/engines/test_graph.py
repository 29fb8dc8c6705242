"""A graph without what computes nothing: the same function still."""

import torch

from pyro_nf.engines.backends import quick
from pyro_nf.engines.graph import tidy
from pyro_nf.engines.record import record


def test_a_recorded_function_runs_on_other_values():
    weight = torch.randn(3, requires_grad=True)

    def function(x):
        (gradient,) = torch.autograd.grad((weight * x).exp().sum(), weight)  # by its identity
        return gradient.sin()

    x, y = torch.randn(3), torch.randn(3)
    graph = tidy(record(function, [x]))
    torch.testing.assert_close(graph(y)[0], function(y))
    torch.testing.assert_close(quick(graph, [x])([y]), function(y))


def test_a_matrix_is_not_transposed_to_and_fro():
    x = torch.randn(2, 3)
    graph = tidy(record(lambda x: x.t().t() @ x.t(), [x]))
    assert [node.target for node in graph.calls].count(torch.ops.aten.t.default) == 1
    assert torch.equal(graph(x)[0], x @ x.mT)
