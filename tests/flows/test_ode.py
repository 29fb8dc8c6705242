"""ODE: steps that are bijections however long they would be, and have their own density."""

import math

import pytest
import torch
from flow_cases import perturbed

from pyro_nf import make_flow
from pyro_nf.flows.ode import STEEPEST, bound

DOUBLE = torch.float64


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (32, 5), (5, 32), (1, 32)])
def test_the_bound_of_a_matrix_is_near_to_its_norm(shape):
    matrix = torch.randn(shape, dtype=DOUBLE)
    norm = torch.linalg.matrix_norm(matrix, 2)
    assert norm <= bound(matrix) * (1 + 1e-12)
    assert bound(matrix) <= norm * min(shape) ** (1 / 16) * (1 + 1e-12)
    assert torch.allclose(bound(1e3 * matrix), 1e3 * bound(matrix))
    assert bound(0 * matrix) == 0


def test_steps_of_large_weights_are_bijections():
    flow = perturbed("ode(steps=3)", 2, spread=5.0)
    x = 3 * torch.randn(500, 2, dtype=DOUBLE)
    with torch.no_grad():
        pace = flow._pace()
        for k in range(3):
            slope = flow._way(x, None, k, pace)[1]
            assert torch.linalg.matrix_norm(slope, 2).max() < STEEPEST
        y, log_det = flow.forward_and_log_det(x)
        back, back_log_det = flow.inverse_and_log_det(y)
    assert (y - x).abs().max() > 1  # it moves
    assert torch.allclose(back, x, atol=1e-10)
    assert torch.allclose(back_log_det, -log_det, atol=1e-10)


@pytest.mark.parametrize("steps", [1, 8])
def test_the_density_integrates_to_one_for_any_number_of_steps(steps):
    flow = perturbed(f"ode(steps={steps}, hidden=(16, 16))", 2, spread=2.0)
    axis = torch.linspace(-10, 10, 401, dtype=DOUBLE)
    points = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    with torch.no_grad():
        x, log_det = flow.inverse_and_log_det(points)
    density = (log_det - x.square().sum(-1) / 2).exp() / (2 * math.pi)
    assert abs(float(density.sum()) * float(axis[1] - axis[0]) ** 2 - 1) < 1e-3


def test_many_dimensions_are_refused():
    with pytest.raises(ValueError, match=r'up to 64 dimensions, and here are 65; type "affine'):
        make_flow("ode", 65)
