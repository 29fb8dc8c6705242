"""A graph as a Python function: the same numbers to the last bit, and tensors like others."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_nf.engines.backends import quick
from pyro_nf.engines.graph import tidy
from pyro_nf.engines.record import record
from pyro_nf.engines.source import python_function


def with_numbers(x, y):
    many = x + 2, x - 0.1, x * -0.0, x / 3, 1 - x, 1 / x, x**2, 2**x, x.clamp_min(0.3), -x
    few = x > 0.1, x <= 0, x == 1, x != 0.5, x.ge(0.1), x.lt(2)
    return torch.stack([*many, *(part.to(x.dtype) for part in few), x + y])


def with_parts(x, y):
    first, second = x.split([1, 2], -1)
    top, place = (y * x).max(-1)
    picked = x[:, torch.tensor([2, 0])] + x.gather(-1, place.unsqueeze(-1))
    rows = torch.where(x.sum(-1) > y.sum(), top, x.T[0])
    return torch.cat([first * 2, second.flip(-1), picked, rows[:, None], x.mT.reshape(4, 3)], -1)


def in_place(x, y):
    total = torch.zeros_like(x)
    total += y
    total[:, 0].mul_(3).sub_(x[:, 1])
    return total.exp_()


def with_gradients(x, y):
    weight = (x * y).requires_grad_()
    with torch.enable_grad():
        value = (weight @ weight.mT).logsumexp(-1).sum() + torch.nn.functional.elu(weight).sum()
        (gradient,) = torch.autograd.grad(value, weight)
    return gradient


def integers(x, y):
    counts = (10 * x).long() + 3
    return (counts // 2 + counts * 2 - 1 + (counts > 4)) * y


FUNCTIONS = [with_numbers, with_parts, in_place, with_gradients, integers]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_it_gives_what_the_function_gives_at_other_values(function, dtype):
    make = torch.Generator().manual_seed(3)
    x, y = (torch.randn(2, 4, 3, generator=make, dtype=dtype) for _ in range(2))
    engine = quick(tidy(record(function, [x[0], y[0, 0]])), [x[0], y[0, 0]])
    for inputs in ([x[1], y[1, 0]], [x[1] * 0, y[1, 1] * torch.inf]):
        found = engine([part.clone() for part in inputs])
        torch.testing.assert_close(found, function(*inputs), rtol=0, atol=0, equal_nan=True)
        assert found.dtype == function(*inputs).dtype


def test_a_tensor_of_no_dimension_is_no_number():
    def function(x, bound, power):
        return x.clamp_min(0.2) + x.clamp_min(bound) + x.exp() ** power + x.clamp_min(-0.2)

    x = torch.linspace(-1, 1, 5)
    numbers = [torch.tensor(0.1), torch.tensor(2.0)]
    engine = quick(record(function, [x, *numbers]), [x, *numbers])
    for number in numbers:
        assert torch.equal(engine([x, number, number]), function(x, number, number))


def test_it_draws_what_the_function_would_draw_and_no_less():
    def function(x):
        torch.rand(2)  # used by nothing
        return x + torch.randn(3) + torch.empty(3).exponential_()

    x = torch.zeros(3)
    engine = quick(tidy(record(function, [x])), [x])
    torch.manual_seed(5)
    expected = [function(x) for _ in range(2)]
    torch.manual_seed(5)
    assert [torch.equal(engine([x]), one) for one in expected] == [True, True]


def test_its_inputs_change_in_place_when_it_runs_and_not_when_it_is_made():
    parameter, change = torch.ones(3, requires_grad=True), torch.tensor([1.0, 2.0, 3.0])

    def function(parameter, change):
        parameter.sub_(change)
        return parameter.sum()

    inputs = [parameter.detach(), change]
    with torch.no_grad():
        graph = record(function, [torch.ones(3), change])
    engine = quick(graph, inputs)
    assert parameter.tolist() == [1.0, 1.0, 1.0]
    assert float(engine(inputs)) == -3.0
    assert parameter.tolist() == [0.0, -1.0, -2.0]


def test_autograd_takes_the_result():
    engine = quick(record(torch.sin, [torch.ones(2)]), [torch.ones(2)])
    weight = torch.ones(2, requires_grad=True)
    result = engine([torch.ones(2)])
    (weight * result).sum().backward()
    assert torch.equal(weight.grad, result)


def test_no_tensor_is_kept_after_its_last_use():
    def function(x):
        for _ in range(20):
            x = (x + x.cos()).sin()
        return x

    alive, most = weakref.WeakSet(), 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal most
            result = func(*args, **(kwargs or {}))
            alive.add(result)
            most = max(most, len(alive))
            return result

    x = torch.ones(3)
    run = python_function(record(function, [x]), [x])
    with Watch():
        run(x)
    assert most == 3  # of 60: x, its cosine, their sum


def test_a_failing_operation_raises_as_ever():
    engine = quick(record(torch.linalg.cholesky, [torch.eye(2)]), [torch.eye(2)])
    with pytest.raises(RuntimeError, match="positive-definite"):
        engine([-torch.eye(2)])
