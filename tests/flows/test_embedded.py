"""A flow on some of the coordinates: value, log-determinant, inverse and score."""

import pytest
import torch
from flow_cases import perturbed

from pyro_nf import make_flow
from pyro_nf.flows import Embedded

COLUMNS = [4, 0, 3]  # in an order of their own
FLOW = "affine_coupling*2 + tails + tril"


def test_the_others_stay_and_the_flow_is_the_flow():
    part = perturbed(FLOW, 3)
    x = torch.randn(7, 5, dtype=torch.float64)
    y, log_det = Embedded(part, COLUMNS, 5).forward_and_log_det(x)
    expected = part.forward_and_log_det(x[:, COLUMNS])
    assert torch.equal(y[:, [1, 2]], x[:, [1, 2]])
    assert torch.equal(y[:, COLUMNS], expected[0])
    assert torch.equal(log_det, expected[1])


def test_log_determinant_inverse_and_score():
    flow = Embedded(perturbed(FLOW, 3), COLUMNS, 5)
    x = torch.randn(5, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(flow, x)
    y, log_det = flow.forward_and_log_det(x)
    assert torch.allclose(log_det, torch.linalg.slogdet(jacobian)[1])
    back, inverse_log_det = flow.inverse_and_log_det(y)
    assert torch.allclose(back, x)
    assert torch.allclose(inverse_log_det, -log_det)

    y = y.detach().requires_grad_()
    back, inverse_log_det = flow.inverse_and_log_det(y)
    density = inverse_log_det - back.square().sum() / 2
    (expected,) = torch.autograd.grad(density, y)
    found = flow.forward_and_score(x, -x)
    assert flow.carries_score
    assert torch.allclose(found[0], y)
    assert torch.allclose(found[2], expected)


def test_columns_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="a flow of dimension 2 without context"):
        Embedded(make_flow("diag", 3), [0, 1], 5)
    with pytest.raises(ValueError, match="without context"):
        Embedded(make_flow("diag", 2, context_dim=1), [0, 1], 5)
