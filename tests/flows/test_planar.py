"""Planar flows: those of Pyro and of the paper, and everywhere finite."""

import math

import pyro.distributions.transforms as pyro_transforms
import pytest
import torch
from flow_cases import (
    DOUBLE,
    inverse_softplus,
    perturbed,
    values_and_gradients_are_finite,
    with_params,
)
from torch import nn

from pyro_nf.flows import Planar


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_planar_is_pyros(dim):
    ours = perturbed("planar", dim, spread=2.0)
    theirs = pyro_transforms.Planar(dim).double()
    w, _, b = (part.squeeze(0) for part in ours.params())
    # Both project u onto w . u > -1 along w, each in its way: solve for the u which Pyro
    # projects to ours, of which the value at b + w . x = atanh(1 / 2) tells u_hat.
    start = w * (math.atanh(0.5) - b) / w.square().sum()
    u_hat = 2 * (ours(start) - start)
    slope = (w * u_hat).sum()
    with torch.no_grad():
        theirs.w.copy_(w)
        theirs.u.copy_(u_hat + (inverse_softplus(1 + slope) - slope) * w / w.square().sum())
        theirs.bias.copy_(b)
    x = torch.randn(100, dim, dtype=DOUBLE)
    y, log_det = ours.forward_and_log_det(x)
    expected = theirs(x)
    assert torch.allclose(y, expected, atol=1e-10)
    assert torch.allclose(log_det, theirs.log_abs_det_jacobian(x, expected), atol=1e-10)


def test_planar_projection_is_the_papers():
    """u_hat differs from u along w only, by nothing where w . u > 0, and w . u_hat > -1."""
    for factor in (-50.0, -3.0, -0.1, 0.0, 0.1, 3.0, 50.0):
        w, across = torch.tensor([3.0, 4.0], dtype=DOUBLE), torch.tensor([-4.0, 3.0], dtype=DOUBLE)
        u = factor * w / 25 + across
        flow = with_params(Planar(2).double(), w=w, u=u, b=torch.zeros(()))
        x = 10 * w / 25  # where tanh is one
        u_hat = (flow(x) - x) / math.tanh(10)
        assert torch.allclose(u_hat @ across, across @ across)
        assert -1 < (u_hat @ w).item() <= max(factor, 0) + 1e-12
        if factor >= 0:
            assert torch.allclose(u_hat, u)


PLANES = {  # the length of w, and w . u
    "slope near -1": (1.0, -30.0),
    "slope near -1, steep": (3.0, -5.0),
    "slope 1e3": (1.0, 1e3),
    "slope 1e3, steep": (30.0, 1e3),
    "w = 0": (0.0, 0.0),
    "huge w": (1e6, 1.0),
    "huge w, slope near -1": (1e6, -50.0),
    "tiny": (1e-30, 1e-30),
    "tiny w": (1e-12, -1e-12),
}


def plane(dim, size, free, dtype):
    w = nn.functional.normalize(torch.randn(dim, dtype=dtype), dim=0) * size
    u = 0.3 * torch.randn(dim, dtype=dtype)
    if size:
        u = u + (free - (u * w).sum()) * (w / size) / size
    return with_params(Planar(dim).to(dtype), w=w, u=u, b=torch.randn((), dtype=dtype))


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("name", PLANES)
def test_planar_inverts_everywhere(name, dim):
    flow = plane(dim, *PLANES[name], DOUBLE)
    x = torch.cat([3 * torch.randn(500, dim, dtype=DOUBLE), torch.zeros(1, dim, dtype=DOUBLE)])
    y, log_det = flow.forward_and_log_det(x)
    back, back_log_det = flow.inverse_and_log_det(y)
    assert (back - x).abs().max() < 1e-12
    # The log-determinant at a slope of -0.999 magnifies the error of x a thousand times.
    assert (back_log_det + log_det).abs().max() < 1e-10


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_planar_has_finite_gradients_everywhere(dtype):
    for size in (0.0, 1e-30, 1e-18, 1e-12, 1e-6, 1.0, 1e6, 1e12):
        for free in (-1e3, -1.0, 0.0, 1.0, 1e3):
            flow = plane(3, 1.0, free, dtype)
            w, u, _ = flow.params()
            with_params(flow, w=size * w, u=u if size < 1 else u / size)
            values_and_gradients_are_finite(flow, torch.randn(10, 3, dtype=dtype))
    # Rounding decides whether 1 / |w|^4 is met by a zero: so many planes, of all sizes.
    flow = Planar(3, layers=1000).to(dtype)
    sizes = 10 ** torch.empty(1000, 1, dtype=dtype).uniform_(-25, 0)
    u = torch.randn(1000, 3, dtype=dtype)
    with_params(flow, w=sizes * torch.randn(1000, 3, dtype=dtype), u=u, b=torch.zeros(1000))
    values_and_gradients_are_finite(
        flow, torch.randn(1, 3, dtype=dtype), (flow.forward_and_log_det,)
    )


def test_planar_gradient_is_bounded_near_w_zero():
    """u_hat - u shrinks with w, and must not leave a gradient of size |u| / |w| behind."""
    for size in (1e-2, 1e-4, 1e-8):
        flow = plane(2, 1.0, -2.0, DOUBLE)
        with_params(flow, w=size * flow.params()[0])
        x = torch.randn(100, 2, dtype=DOUBLE)
        (gradient,) = torch.autograd.grad(flow(x).mean(0).sum(), flow.params.theta)
        assert gradient.abs().max() < 50  # some |u|^2
