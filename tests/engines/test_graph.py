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


def test_what_is_read_before_and_after_a_write_are_two_values():
    def before_and_after(x):
        total = x + 1
        first = total.exp()
        total += 1
        return first + total.exp()

    def of_two(x):
        one, other = x + 1, x + 1
        one[0] += 1
        return one * other

    x = torch.arange(3.0)
    for function in (before_and_after, of_two):
        assert torch.equal(tidy(record(function, [x]))(x)[0], function(x))


def test_what_has_no_use_is_left_out_and_random_numbers_are_drawn_all_the_same():
    def function(x):
        torch.rand(2)
        (x * torch.ones(3)).exp()
        return x.sin()

    graph = tidy(record(function, [torch.ones(3)]))
    names = [str(node.target) for node in graph.calls]
    assert names == ["aten.rand.default", "aten.sin.default"]
    assert not graph.constants
