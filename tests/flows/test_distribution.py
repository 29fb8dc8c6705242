"""FlowDistribution: its own sample scores as any other value; its mean and variance."""

import math

import torch
from flow_cases import FORMULAS, perturbed, standard_normal

from pyro_nf import FlowDistribution, make_flow


def test_a_sample_scores_as_any_value():
    for formula in FORMULAS:
        q = FlowDistribution(standard_normal(3), perturbed(formula, 3))
        sample = q.rsample((10,))
        assert torch.allclose(q.log_prob(sample), q.log_prob(sample.clone()), atol=1e-10)


def test_mean_and_variance_of_a_normal_distribution():
    flow = make_flow("tril", 3).double()
    with torch.no_grad():
        flow.params.theta.copy_(torch.tensor([1.0, -1, 0.5, 0, 0.7, -1, 0.8, -0.5, 0.4]))
    tril = flow(torch.eye(3).double()) - flow(torch.zeros(3).double())  # row i is L e_i
    q = FlowDistribution(standard_normal(3), flow)
    # Quasi-random numbers err by less than 1 / sqrt(8192) = 0.011 standard deviations.
    sd = tril.square().sum(0).sqrt()
    assert ((q.mean - torch.tensor([1.0, -1, 0.5])).abs() < 0.011 * sd).all()
    assert ((q.variance / sd.square() - 1).abs() < 0.011).all()
    assert ((q.stddev / sd - 1).abs() < 0.011).all()


def test_mean_and_variance_of_a_bent_distribution_by_quadrature():
    flow = perturbed("planar*4 + tails", 1)
    x = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    weights = (-x.square() / 2).exp() / math.sqrt(2 * math.pi)
    y = flow(x.unsqueeze(-1)).squeeze(-1)
    mean = torch.trapezoid(weights * y, x)
    variance = torch.trapezoid(weights * (y - mean).square(), x)
    q = FlowDistribution(standard_normal(1), flow)
    assert abs(q.mean.item() - mean.item()) < 0.011 * variance.sqrt().item()
    assert abs(q.variance.item() / variance.item() - 1) < 0.011


def test_means_under_a_context_draw_nothing_and_have_gradients():
    flow = make_flow("diag", 2, context_dim=1)
    context = torch.tensor([[0.0], [1.0], [-2.0]])
    q = FlowDistribution(standard_normal(2).expand((3,)), flow.double().condition(context.double()))
    state = torch.get_rng_state()
    with torch.no_grad():
        flow.params.weight[:2] = torch.tensor([[1.0], [3.0]])
    expected = torch.tensor([[0.0, 0.0], [1.0, 3.0], [-2.0, -6.0]]).double()
    assert torch.allclose(q.mean, expected, atol=0.011)
    assert q.variance.shape == (3, 2)
    q.mean.sum().backward()
    assert torch.allclose(flow.params.theta.grad[:2], torch.tensor([3.0, 3.0]).double())
    assert torch.equal(torch.get_rng_state(), state)
