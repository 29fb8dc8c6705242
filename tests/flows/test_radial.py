"""Radial flows: those of Pyro, and everywhere finite."""

import math

import pyro.distributions.transforms as pyro_transforms
import pytest
import torch
from flow_cases import DOUBLE, inverse_softplus, values_and_gradients_are_finite, with_params

from pyro_nf.flows import Radial


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("b", [-3.0, -0.2, 0.0, 0.7, 4.0])
def test_radial_is_pyros(dim, b):
    centre = torch.randn(dim, dtype=DOUBLE)
    ours = with_params(Radial(dim).double(), centre=centre, a=torch.tensor(0.3), b=torch.tensor(b))
    theirs = pyro_transforms.Radial(dim).double()
    alpha = math.log1p(math.exp(0.3))
    beta = alpha * (b if b > 0 else 0.999 * math.expm1(b))
    with torch.no_grad():
        theirs.x0.copy_(centre)
        theirs.alpha_prime.copy_(inverse_softplus(torch.tensor(alpha, dtype=DOUBLE)))
        theirs.beta_prime.copy_(inverse_softplus(torch.tensor(alpha + beta, dtype=DOUBLE)))
    x = torch.randn(100, dim, dtype=DOUBLE)
    y, log_det = ours.forward_and_log_det(x)
    expected = theirs(x)
    assert torch.allclose(y, expected, atol=1e-8)  # 0.3 was rounded to float32
    assert torch.allclose(log_det, theirs.log_abs_det_jacobian(x, expected), atol=1e-8)


REACHES = [-200.0, -30.0, -5.0, 0.0, 5.0, 100.0]
PULLS = [-1e4, -50.0, -5.0, -0.1, 0.0, 0.1, 5.0, 1e3]


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("a", REACHES)
@pytest.mark.parametrize("b", PULLS)
def test_radial_inverts_everywhere(a, b, dim):
    flow = with_params(Radial(dim).double(), centre=torch.zeros(dim), a=a, b=b)
    x = torch.randn(200, dim, dtype=DOUBLE) * torch.logspace(-9, 3, 200, dtype=DOUBLE)[:, None]
    x[0] = 0  # the centre
    y, log_det = flow.forward_and_log_det(x)
    back, back_log_det = flow.inverse_and_log_det(y)
    # A pull of -0.999 magnifies a rounding of y by a thousand, one of 1e3 the other way.
    assert torch.allclose(back, x, rtol=1e-11, atol=0)
    assert torch.allclose(back_log_det, -log_det, rtol=0, atol=1e-10)


def test_radial_resolves_the_centre_of_a_strong_push():
    flow = with_params(Radial(2).double(), centre=torch.zeros(2), a=0.0, b=1e10)
    x = torch.randn(200, 2, dtype=DOUBLE) / 2
    back, _ = flow.inverse_and_log_det(flow(x))
    assert (back - x).abs().max() < 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_radial_has_finite_gradients_everywhere(dtype):
    centre = torch.randn(3, dtype=dtype)
    x = torch.cat([torch.stack([centre, centre + 1e-6]), torch.randn(5, 3, dtype=dtype)])
    for a in REACHES:
        for b in PULLS:
            flow = with_params(Radial(3).to(dtype), centre=centre, a=a, b=b)
            values_and_gradients_are_finite(flow, x)
