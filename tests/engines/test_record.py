"""A function written down as a graph: what is a constant, what is drawn, what is refused."""

import torch

from pyro_nf.engines.record import record


def test_what_does_not_vary_is_a_constant_unless_it_is_written_to():
    def function(x):
        total = torch.zeros(3).exp()
        counted = torch.zeros(3)
        counted += x
        return total + counted

    graph = record(function, [torch.ones(3)])
    for _ in range(2):  # a constant that keeps what was written would grow
        assert graph(torch.ones(3))[0].tolist() == [2.0] * 3
    graph.graph.eliminate_dead_code()
    names = [str(node.target) for node in graph.graph.nodes]
    assert "aten.exp.default" not in names


def test_random_numbers_are_drawn_at_each_run():
    graph = record(lambda x: x + torch.randn(3), [torch.zeros(3)])
    assert not torch.equal(graph(torch.zeros(3))[0], graph(torch.zeros(3))[0])


def test_a_tensor_of_the_shape_of_another_is_a_constant_unless_it_is_written_to():
    def function(x):
        filled = torch.zeros_like(x)
        filled += x
        return torch.ones_like(x) + x.new_full((3,), 2.0) + filled

    graph = record(function, [torch.ones(3)])
    for _ in range(2):
        assert graph(torch.full((3,), 4.0))[0].tolist() == [7.0] * 3
    graph.graph.eliminate_dead_code()
    names = [str(node.target) for node in graph.graph.nodes]
    assert "aten.ones_like.default" not in names
    assert "aten.zeros_like.default" in names
