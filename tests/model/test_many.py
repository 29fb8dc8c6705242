"""One evaluator: at many points as at each alone, in value, gradient and where it fails."""

import math
import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroSample
from torch import nn

from pyro_nf import AutoFlowGuide
from pyro_nf.model.many import BACKENDS, Many, by_loop
from pyro_nf.model.packing import Packing
from pyro_nf.model.target import Target

DOUBLE = torch.float64
X = torch.linspace(-1, 1, 12, dtype=DOUBLE).reshape(6, 2)
Y = torch.linspace(0, 1, 6, dtype=DOUBLE)
GROUP = torch.tensor([0, 0, 1, 2, 2, 1])


def zeros(*shape):
    return torch.zeros(*shape, dtype=DOUBLE)


def product():
    b = pyro.sample("b", dist.Normal(zeros(2), 1.0).to_event(1))
    s = pyro.sample("s", dist.HalfNormal(torch.ones((), dtype=DOUBLE)))
    pyro.sample("y", dist.Normal(X @ b, s).to_event(1), obs=Y)


def plated():
    with pyro.plate("groups", 3):
        a = pyro.sample("a", dist.Normal(zeros(()), 1.0))
    with pyro.plate("rows", 6):
        pyro.sample("y", dist.Normal(a[GROUP], 0.3), obs=Y)


def funnel():
    v = pyro.sample("v", dist.Normal(zeros(()), 3.0))
    pyro.sample("x", dist.Normal(zeros(4), (v / 2).exp()).to_event(1))


def looped():
    level = pyro.sample("level", dist.Normal(zeros(()), 1.0))
    for t in range(6):
        level = 0.9 * level + X[t, 0]
        pyro.sample(f"y{t}", dist.Normal(level, 0.2), obs=Y[t])


def written_into():
    b = pyro.sample("b", dist.Normal(zeros(3), 1.0).to_event(1))
    made = (torch.zeros(6, dtype=DOUBLE), torch.ones(6, dtype=DOUBLE), torch.zeros_like(Y))
    for k, total in enumerate((*made, torch.ones_like(Y), torch.full((6,), 2.0, dtype=DOUBLE))):
        for index in range(5):
            total[index] = b[GROUP[index]]
        pyro.sample(f"y{k}", dist.Normal(total, 0.3).to_event(1), obs=Y)


def summed_without_a_dim():
    b = pyro.sample("b", dist.Normal(zeros(3), 1.0).to_event(1))
    pyro.factor("close", -(b.sum() ** 2) - (b - b.mean()).square().sum())


def gaussian_process():
    length = pyro.sample("length", dist.LogNormal(zeros(()), 0.5))
    gaps = (X[:, :1] - X[:, 0]) ** 2
    kernel = (-gaps / length**2).exp() + 0.1 * torch.eye(6, dtype=DOUBLE)
    pyro.sample("y", dist.MultivariateNormal(zeros(6), kernel), obs=Y)


def filled_by_a_mask():
    p = pyro.sample("p", dist.Dirichlet(torch.ones(3, dtype=DOUBLE)))
    pyro.sample("votes", dist.Multinomial(6, p), obs=torch.tensor([0.0, 2, 4], dtype=DOUBLE))
    x = p.log()
    x[x < -1] = -1.0
    x[x > -0.1] = Y[0]
    pyro.factor("cut", x.sum())


class Regression(PyroModule):
    def __init__(self):
        super().__init__()
        self.linear = PyroModule[nn.Linear](2, 1).to(DOUBLE)
        self.linear.weight = PyroSample(dist.Normal(zeros(1, 2), 1.0).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(zeros(1), 1.0).to_event(1))

    def forward(self):
        mean = self.linear(X).squeeze(-1)
        with pyro.plate("rows", 6):
            pyro.sample("y", dist.Normal(mean, 0.3), obs=Y)


def branching():
    x = pyro.sample("x", dist.Normal(zeros(()), 1.0))
    pyro.factor("bend", -x if float(x) > 0 else 2 * x)


def in_numpy():
    x = pyro.sample("x", dist.Normal(zeros(()), 1.0))
    pyro.factor("far", -x * torch.as_tensor(np.abs(x.detach().numpy())))


def one_number():
    pyro.sample("x", dist.Gamma(torch.ones(1, dtype=DOUBLE), 1.0).to_event(1))


TOGETHER = {
    model.__name__: model
    for model in (
        *(product, plated, funnel, looped, written_into, summed_without_a_dim, gaussian_process),
        *(one_number, filled_by_a_mask),
    )
} | {"module": Regression()}
ALONE = {"branching": branching, "in_numpy": in_numpy}


def target_of(model):
    return Target.of(AutoFlowGuide(model, "diag").setup())


@pytest.mark.parametrize("name", TOGETHER)
def test_values_and_gradients_are_those_of_each_point_alone(name):
    target = target_of(TOGETHER[name])
    assert target.vectorized, target.reason
    u = torch.randn(7, target.dim, dtype=DOUBLE, requires_grad=True)
    alone = by_loop(target.one, 7, {"u": u}, tolerant=False)[0]
    (slope,) = torch.autograd.grad(alone.sum(), u)
    for backend in BACKENDS:
        value = backend(target.one, 7, {"u": u}, False)[0]
        torch.testing.assert_close(value, alone)
        torch.testing.assert_close(torch.autograd.grad(value.sum(), u)[0], slope)
    torch.testing.assert_close(target(u), alone)
    torch.testing.assert_close(target(u[0]), alone[0])


@pytest.mark.parametrize("name", ALONE)
def test_what_cannot_run_together_runs_in_a_loop_and_says_where(name):
    target = target_of(ALONE[name])
    assert not target.vectorized
    assert "after the site 'x'" in target.reason
    u = torch.randn(5, target.dim, dtype=DOUBLE)
    torch.testing.assert_close(target(u), torch.stack([target(row) for row in u]))


def refusing(values):
    """A function whose numerics fail for what is negative."""
    x = values["x"]
    return torch.linalg.cholesky(x.reshape(1, 1)).sum(), {"root": x.sqrt()}


def test_where_the_numerics_fail_there_is_nan_and_nowhere_else():
    x = torch.linspace(1, 40, 40, dtype=DOUBLE)
    x[[3, 17, 31]] = -1.0
    many = Many(refusing, tolerant=True)
    numbers, values = many(40, {"x": x})
    assert many.vectorized
    bad = x < 0
    assert bool(numbers[bad].isnan().all())
    torch.testing.assert_close(numbers[~bad], x[~bad].sqrt())
    torch.testing.assert_close(values["root"][~bad], x[~bad].sqrt())
    assert bool(Many(refusing, tolerant=True)(3, {"x": -x[:3]})[0].isnan().all())
    with pytest.raises(torch.linalg.LinAlgError):
        Many(refusing)(40, {"x": x})


def test_gradients_pass_by_the_points_that_fail():
    x = torch.tensor([4.0, -1.0, 9.0], dtype=DOUBLE, requires_grad=True)
    numbers, _ = Many(refusing, tolerant=True)(3, {"x": x})
    (slope,) = torch.autograd.grad(numbers.nansum(), x)
    torch.testing.assert_close(slope[[0, 2]], torch.tensor([0.25, 1 / 6], dtype=DOUBLE))


def test_a_density_that_fails_everywhere_is_nan_with_gradients_to_ask_for():
    def model():
        x = pyro.sample("x", dist.Normal(zeros(()), 1.0))
        torch.linalg.cholesky(-torch.eye(2, dtype=DOUBLE) * (1 + x * x))

    target = Target(model, Packing({"x": torch.Size([])}), zeros(1))
    u = zeros(3, 1).requires_grad_()
    value = target(u)
    assert bool(value.isnan().all())
    torch.autograd.grad(value.sum(), u)
    assert math.isnan(float(target(u[0])))


def test_points_of_another_size_are_an_error_and_no_failing_numerics():
    target = target_of(product)
    with pytest.raises(ValueError, match=r"expected points of shape \(3,\) or \(n, 3\)"):
        target(zeros(5, 4))


def test_chunks_change_nothing():
    x = torch.linspace(1, 9, 9, dtype=DOUBLE)
    whole, few = (Many(refusing, chunk)(9, {"x": x}) for chunk in (None, 2))
    torch.testing.assert_close(whole, few)


@pytest.mark.parametrize("draw", [np.random.rand, random.random], ids=["numpy", "python"])
def test_foreign_random_numbers_run_in_a_loop(draw):
    many = Many(lambda _: (torch.tensor(draw()), {}), random=True)
    numbers, _ = many(5)
    assert not many.vectorized
    assert len(set(numbers.tolist())) == 5


def test_random_numbers_differ_from_draw_to_draw_and_the_look_costs_none():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    many = Many(lambda _: (torch.randn(()), {}), random=True)
    many.decide(1, {})
    torch.testing.assert_close(torch.rand(3), expected)
    assert len(set(many(5)[0].tolist())) == 5
