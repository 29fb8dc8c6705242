"""The root of v + c tanh(v) = t, to rounding and in few iterations."""

import pytest
import torch
from flow_cases import DOUBLE
from torch.overrides import TorchFunctionMode

from pyro_nf.flows.inverses import root


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("c", [-0.999, -0.9, -1e-8, 0.0, 1e-8, 1.0, 1e3, 1e12])
def test_planar_root(c, dtype):
    slope = torch.tensor(c, dtype=dtype)
    v = torch.cat([torch.logspace(-20, 6, 200, dtype=dtype), torch.zeros(1, dtype=dtype)])
    v = torch.cat([v, -v])
    t = v + slope * v.tanh()
    found = root(t, slope)
    # As exact as rounding t, and the terms of it, lets the root be.
    slack = 4 * torch.finfo(dtype).eps * (v.abs() + abs(c) * v.tanh().abs())
    slack = slack / (1 + slope * (1 - v.tanh() ** 2))
    assert bool(((found - v).abs() <= slack).all())


@pytest.mark.parametrize("c", [-0.999, -0.99, 0.5, 1e3])
def test_planar_root_takes_a_dozen_iterations(c):
    class Count(TorchFunctionMode):
        tanh = 0

        def __torch_function__(self, function, types, args=(), kwargs=None):
            self.tanh += function is torch.tanh
            return function(*args, **(kwargs or {}))

    with Count() as count:
        t = torch.cat([torch.randn(10_000, dtype=DOUBLE) * scale for scale in (1e-3, 3, 1e3)])
        root(t, torch.tensor(c, dtype=DOUBLE))
    assert count.tanh <= 15
