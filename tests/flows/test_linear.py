"""Linear flows: normal distributions, rotations, permutations."""

import pyro.distributions as dist
import pytest
import torch
from flow_cases import (
    DOUBLE,
    perturbed,
    standard_normal,
    values_and_gradients_are_finite,
    with_params,
)

from pyro_nf import FlowDistribution, make_flow
from pyro_nf.flows import Householder


def test_permute_leaves_a_standard_normal_alone():
    flow = make_flow("permute", 50)
    assert sorted(flow.order.tolist()) == list(range(50))
    q = FlowDistribution(standard_normal(50), flow)
    values = torch.randn(10, 50, dtype=DOUBLE)
    assert torch.allclose(q.log_prob(values), standard_normal(50).log_prob(values))


def test_linear_layers_are_normal_distributions():
    x = torch.randn(20, 3, dtype=DOUBLE)
    diag, tril = perturbed("diag", 3), perturbed("tril", 3)
    loc, log_scale = diag.params()
    expected = dist.Normal(loc, log_scale.exp()).to_event(1).log_prob(x)
    assert torch.allclose(FlowDistribution(standard_normal(3), diag).log_prob(x), expected)
    loc = tril(torch.zeros(3, dtype=DOUBLE))
    scale_tril = tril(torch.eye(3, dtype=DOUBLE)).sub(loc).mT
    assert torch.equal(scale_tril, scale_tril.tril())
    expected = dist.MultivariateNormal(loc, scale_tril=scale_tril).log_prob(x)
    assert torch.allclose(FlowDistribution(standard_normal(3), tril).log_prob(x), expected)


def test_householder_is_a_rotation():
    for dim in (1, 2, 5, 50):
        flow = perturbed("householder(pairs=2)", dim)
        matrix = flow(torch.eye(dim, dtype=DOUBLE))
        assert torch.allclose(matrix @ matrix.mT, torch.eye(dim, dtype=DOUBLE), atol=1e-12)
        assert torch.linalg.det(matrix).item() == pytest.approx(1.0)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_a_reflection_along_nothing_is_the_identity(dtype):
    flow = with_params(Householder(3).to(dtype), v=torch.zeros(2, 3))
    x = torch.randn(5, 3, dtype=dtype)
    assert torch.equal(flow(x), x)
    for size in (0.0, 1e-30, 1e-15):
        with_params(flow, v=size * torch.ones(2, 3))
        values_and_gradients_are_finite(flow, x)
