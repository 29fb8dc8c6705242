"""What the default call trains: losses and gradients of draws that are not the guide's own."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyro_nf import AutoFlowGuide, make_flow
from pyro_nf.engines import quick, record, tidy
from pyro_nf.fitting.chain_pool import ChainPool
from pyro_nf.fitting.objectives import beside, wide
from pyro_nf.fitting.recipe import RECIPE
from pyro_nf.model.target import Target

DOUBLE = torch.float64


def model():
    """Two latents, one of which scales the other."""
    a = pyro.sample("a", dist.Normal(torch.zeros((), dtype=DOUBLE), 0.7))
    pyro.sample("b", dist.Normal(0.3, a.exp()), obs=torch.tensor(1.5, dtype=DOUBLE))
    pyro.sample("c", dist.Normal(a, 0.5))


@pytest.fixture
def guide():
    torch.manual_seed(0)
    guide = AutoFlowGuide(model, "affine_coupling*2 + tails").setup()
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return guide


def density_of(flow):
    """The log density of a flow's output, without a gradient in its parameters."""
    frozen = copy.deepcopy(flow).requires_grad_(False)

    def log_density(u):
        x, log_det = frozen.inverse_and_log_det(u)
        return log_det - (x.square() + math.log(2 * math.pi)).sum(-1) / 2

    return log_density


def gradient(surrogate, guide):
    found = torch.autograd.grad(surrogate, list(guide.parameters()), allow_unused=True)
    return torch.cat([part.reshape(-1) for part in found if part is not None])


# ------------------------------------------------------------ wide draws


def test_one_draw_gives_what_the_elbo_gives(guide):
    elbo = Trace_ELBO()
    torch.manual_seed(1)
    loss, surrogate = wide(Target.of(guide), guide.get_transform(), 1, RECIPE)
    torch.manual_seed(1)
    expected = elbo.differentiable_loss(model, guide)
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-12)
    torch.testing.assert_close(gradient(surrogate, guide), gradient(expected, guide))


@pytest.mark.parametrize("dim", [1, 2, 20])
def test_wide_draws_have_neither_gradient_nor_noise_where_the_guide_is_exact(dim):
    flow = make_flow("radial*2 + diag", dim).double()
    loss, surrogate = wide(density_of(flow), flow, 64, RECIPE)
    found = torch.autograd.grad(surrogate, list(flow.parameters()))
    assert max(float(part.abs().max()) for part in found) < 1e-10
    assert abs(float(loss)) < 1e-10


def test_the_loss_of_wide_draws_is_that_of_the_guides_own(guide):
    torch.manual_seed(2)
    target = Target.of(guide)
    with torch.no_grad():
        draws = guide.get_posterior().sample((200_000,))
        own = guide.get_posterior().log_prob(draws) - target(draws)
    flow, none = guide.get_transform(), torch.zeros(())
    graph = tidy(record(lambda _: wide(target, flow, 5, RECIPE)[0], [none]))
    loss = quick(graph, [none])  # which draws anew at each run
    found = torch.stack([loss([none]) for _ in range(20_000)])
    error = math.hypot(float(own.std()) / len(own) ** 0.5, float(found.std()) / len(found) ** 0.5)
    assert abs(float(found.mean() - own.mean())) < 4 * error
    assert error < 0.02 * float(own.std())  # of a test that can fail


# ------------------------------------------------------------ draws of the posterior


@pytest.mark.parametrize("several", [False, True])
def test_draws_of_the_posterior_ask_for_nothing_where_the_guide_is_exact(guide, several):
    flow = guide.get_transform()
    log_density = density_of(flow)
    draws = guide.get_posterior().sample((500,)).detach().requires_grad_()
    slopes = torch.autograd.grad(log_density(draws).sum(), draws)[0]
    draws = draws.detach()
    loss, surrogate = beside(log_density, flow, 8, draws, None if several else slopes, RECIPE)
    assert abs(float(loss)) < 1e-10
    if not several:  # whose gradient is the likelihood's, with its noise
        assert float(gradient(surrogate, guide).abs().max()) < 1e-10


@pytest.mark.parametrize("several", [False, True])
def test_both_gradients_of_the_draws_are_those_of_their_likelihood(guide, several):
    torch.manual_seed(3)
    pool = ChainPool(guide, Target.of(guide), 500, RECIPE)
    pool.fill()
    flow = guide.get_transform()
    x, log_det = flow.inverse_and_log_det(pool.draws)
    exact = gradient((x.square().sum(-1) / 2 - log_det).mean(), guide)
    slopes, weight = (None, 1.0) if several else (pool.slopes, RECIPE.pool_weight)
    found = torch.stack(
        [  # with a target of which the guide's own draws ask for nothing
            gradient(beside(density_of(flow), flow, 64, pool.draws, slopes, RECIPE)[1], guide)
            / weight
            for _ in range(300)
        ]
    )
    error = found.std(0) / math.sqrt(len(found))
    # Along paths the mean is exact for the posterior, of which the pool is a sample.
    slack = 0.0 if several else 0.1
    assert bool(((found.mean(0) - exact).abs() < 5 * error + slack).all())
    assert float(exact.abs().max()) > 0.3  # of a test that can fail


def test_a_draw_far_out_counts_for_no_more_than_some(guide):
    flow, target = guide.get_transform(), Target.of(guide)
    draws = guide.get_posterior().sample((200,)).detach()
    slopes = torch.zeros_like(draws)
    torch.manual_seed(4)
    plain = gradient(beside(target, flow, 64, draws, slopes, RECIPE)[1], guide)
    for size in (1e3, 1e9):
        wild = slopes.clone()
        wild[0] = size
        torch.manual_seed(4)
        pulled = gradient(beside(target, flow, 64, draws, wild, RECIPE)[1], guide)
        assert float((pulled - plain).norm()) < 10 * float(plain.norm())
