"""Spline couplings: the splines of Pyro, and steep ones."""

from importlib import import_module

import pytest
import torch
from flow_cases import DOUBLE, perturbed
from torch import nn

from pyro_nf import make_flow

spline_module = import_module("pyro.distributions.transforms.spline")  # its name is a function, too
monotonic_rational_spline = spline_module._monotonic_rational_spline


def test_splines_are_pyros():
    flow = perturbed("spline_coupling(bins=5, bound=2.5)", 1, spread=3.0)
    free = flow.net(torch.zeros(0, dtype=DOUBLE)).detach() / 4
    widths, heights = free[:5].softmax(-1), free[5:10].softmax(-1)
    slopes = nn.functional.elu(free[10:], 0.999) + 1
    options = {"bound": 2.5, "min_bin_width": 1e-3, "min_bin_height": 1e-3, "min_derivative": 0.0}
    x = 2 * torch.randn(1000, 1, dtype=DOUBLE)
    shapes = [part.expand(1000, 1, -1) for part in (widths, heights, slopes)]
    expected, log_slope = monotonic_rational_spline(x, *shapes, **options)
    y, log_det = flow.forward_and_log_det(x)
    assert (y - x).abs().max() > 0.1
    assert torch.allclose(y, expected, atol=1e-10)
    assert torch.allclose(log_det, log_slope.squeeze(-1), atol=1e-10)
    outside = x.abs() > 2.5
    assert torch.allclose(y[outside], x[outside], rtol=1e-15)


@pytest.mark.parametrize("seed", range(6))
def test_steep_splines_have_an_inverse(seed):
    torch.manual_seed(seed)
    flow = make_flow("spline_coupling(bins=24)", 1)
    with torch.no_grad():  # slopes from e^-7 to e^7 beside each other
        flow.net.biases[-1].normal_(std=100.0)
    x = torch.linspace(-4.5, 4.5, 100_001).unsqueeze(-1)  # in float32
    y, log_det = flow.forward_and_log_det(x)
    assert log_det.min() < -6
    assert log_det.max() > 6
    y = y.detach().requires_grad_()
    back, back_log_det = flow.inverse_and_log_det(y)
    # A place is known to the rounding of its image, by some twenty operations, over the slope.
    rounding = torch.finfo(y.dtype).eps * (1 + torch.exp(-log_det))
    assert bool(((back - x).abs().squeeze(-1) <= 20 * rounding).all())
    assert bool(back_log_det.isfinite().all())
    (gradient,) = torch.autograd.grad(back.sum() + back_log_det.sum(), y)
    assert bool(gradient.isfinite().all())
