"""A function written down as a graph: what is a constant, what is drawn, what is refused."""

import pytest
import torch

from pyro_nf.engines.record import UntraceableError, record
from pyro_nf.model import NUMERICS


def test_what_does_not_vary_is_a_constant_unless_it_is_written_to():
    def function(x):
        total = torch.zeros(3).exp()
        counted = torch.zeros(3)
        counted += x
        return total + counted

    graph = record(function, [torch.ones(3)])
    for _ in range(2):  # a constant that keeps what was written would grow
        assert graph(torch.ones(3))[0].tolist() == [2.0] * 3
    names = [str(node.target) for node in graph.calls]
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
    names = [str(node.target) for node in graph.calls]
    assert "aten.ones_like.default" not in names
    assert "aten.zeros_like.default" in names


def test_what_varies_and_is_written_into_a_constant_makes_it_vary():
    """Also what is computed of it later, through another view of the same memory."""

    def function(x):
        filled = torch.zeros(3)
        filled[..., 0] = x[0]
        filled[..., 1:] = x[1:] - x[:-1]
        return filled.exp()

    graph = record(function, [torch.ones(3)])
    other = torch.tensor([0.5, 2.0, 3.0])
    assert torch.equal(graph(other)[0], function(other))


def test_a_mask_that_is_constant_picks_the_same_each_time():
    mask = torch.tensor([True, False, True])
    graph = record(lambda x: x[mask] + torch.masked_select(x, mask), [torch.ones(3)])
    assert graph(torch.arange(3.0))[0].tolist() == [0.0, 4.0]
    for pick in (lambda x: x[x > 0], lambda x: torch.masked_select(torch.ones(3), x > 0)):
        with pytest.raises(UntraceableError, match="depends on values"):
            record(pick, [torch.ones(3)])


def test_values_of_fixed_inputs_may_decide_what_is_done():
    def function(x, label):
        return 2 * x if label[0] == 0 else x

    label = torch.tensor([0, 1])
    with pytest.raises(UntraceableError, match="takes a value"):
        record(function, [torch.ones(()), label])
    graph = record(function, [torch.ones(())], fixed=[label])
    assert float(graph(torch.tensor(3.0), label)[0]) == 6.0


def test_what_cannot_be_traced_is_no_failure_of_numerics():
    assert not issubclass(UntraceableError, NUMERICS)
