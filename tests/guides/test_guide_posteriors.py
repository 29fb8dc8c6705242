"""The answer: known posteriors, known evidence, and the density of every kind of site."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import (
    AutoDiagonalNormal,
    AutoMultivariateNormal,
    init_to_feasible,
    init_to_value,
)
from pyro.optim import ClippedAdam
from torch.distributions import biject_to

from pyro_nf import AutoFlowGuide

# Planar flows in the 52 dimensions of every kind of site: densities are tested, not their fit.
pytestmark = pytest.mark.filterwarnings("ignore:.*so that it serves badly here")


def train(model, guide, *args, steps, lr=0.05, particles=16, nesting=1):
    """Adam, its learning rate falling by a factor of a thousand."""
    optimizer = ClippedAdam({"lr": lr, "lrd": 0.001 ** (1 / steps), "clip_norm": 100.0})
    elbo = Trace_ELBO(particles, vectorize_particles=True, max_plate_nesting=nesting)
    svi = SVI(model, guide, optimizer, elbo)
    for _ in range(steps):
        svi.step(*args)


def bound(model, guide, *args, particles=20_000, nesting=1):
    """The ELBO."""
    elbo = Trace_ELBO(particles, vectorize_particles=True, max_plate_nesting=nesting)
    return -elbo.loss(model, guide, *args)


# -------------------------------------------------------------------- linear regression

NOISE = 0.5


def regression(x, y):
    slopes = pyro.sample("slopes", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
    offset = pyro.sample("offset", dist.Normal(0.0, 5.0))
    with pyro.plate("rows", x.shape[0]):
        pyro.sample("y", dist.Normal((x * slopes).sum(-1) + offset, NOISE), obs=y)


def problem():
    """Data with correlated columns, the posterior's mean and covariance, and log p(y)."""
    x = torch.randn(20, 3, dtype=torch.float64)
    x[:, 1] = 0.9 * x[:, 0] + 0.4 * x[:, 1]
    x[:, 2] += 1.0  # correlated with the constant column
    design = torch.cat([x, torch.ones(20, 1)], 1).double()
    y = design @ torch.tensor([1.0, -2.0, 0.5, 3.0]).double() + NOISE * torch.randn(20).double()
    prior = torch.tensor([2.0, 2, 2, 5]).double() ** 2
    covariance = (prior.reciprocal().diag() + design.mT @ design / NOISE**2).inverse()
    mean = covariance @ design.mT @ y / NOISE**2
    marginal = design @ prior.diag() @ design.mT + NOISE**2 * torch.eye(20).double()
    evidence = dist.MultivariateNormal(torch.zeros(20).double(), marginal).log_prob(y)
    return x.float(), y.float(), mean, covariance, evidence.item()


# Errors in the mean, in the covariance and in the bound. "tril" is exactly as rich as the
# posterior; planar layers in front of it must first become flat again, and after a thousand
# steps are almost so.
@pytest.mark.parametrize(
    ("flow", "tolerance"), [("tril", (0.12, 0.1, 0.02)), ("planar*4 + tril", (0.12, 0.3, 0.2))]
)
def test_linear_regression(flow, tolerance):
    x, y, mean, covariance, evidence = problem()
    correlation = covariance / covariance.diagonal().outer(covariance.diagonal()).sqrt()
    assert correlation.tril(-1).abs().max() > 0.8  # a diagonal guide would not do
    guide = AutoFlowGuide(regression, flow, init_loc_fn=init_to_feasible)
    train(regression, guide, x, y, steps=1000, lr=0.1)
    with torch.no_grad():
        draws = guide.get_posterior().sample((20_000,)).double()
    # In coordinates in which the posterior is standard normal. Means of the draws err by
    # 1 / sqrt(20000) = 0.007 and covariances by up to sqrt(2) of it, which is little here.
    whiten = torch.linalg.cholesky(covariance).inverse()
    assert (whiten @ (draws.mean(0) - mean)).abs().max() < tolerance[0]
    assert (whiten @ draws.mT.cov() @ whiten.mT - torch.eye(4)).abs().max() < tolerance[1]
    assert bound(regression, guide, x, y) == pytest.approx(evidence, abs=tolerance[2])


def test_bound_is_the_evidence_for_every_particle_at_the_exact_posterior():
    x, y, mean, covariance, evidence = problem()
    guide = AutoFlowGuide(regression, "tril", init_loc_fn=init_to_feasible).setup(x, y)
    tril, affine, *_ = guide.flow
    chol = torch.linalg.cholesky(covariance).float()
    with torch.no_grad():
        affine.params.theta.zero_()
        scale = chol.diagonal().log()
        below = chol[tuple(torch.tril_indices(4, 4, -1))]
        tril.params.theta.copy_(torch.cat([mean.float(), scale, below]))
    losses = [Trace_ELBO().loss(regression, guide, x, y) for _ in range(20)]
    # Float32 sums of some 30 terms of size up to 10.
    assert losses == pytest.approx([-evidence] * 20, abs=2e-3)


# -------------------------------------------------------------------- where a normal fails


def banana():
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(x * x, 0.3))


def best_normal():
    r"""The highest bound that a normal guide reaches on the banana, whose evidence is 0.

    By symmetry x and y are uncorrelated. With variances a and b, and the mean of y at a,
    E (y - x^2)^2 = b + 2 a^2, so that b = 0.09, and of a the bound is

        1/2 + log(a) / 2 - a / 2 - a^2 / 0.09.
    """
    a = torch.linspace(1e-3, 1, 100_000)
    return (0.5 + a.log() / 2 - a / 2 - a * a / 0.09).max().item()


@pytest.mark.parametrize("flow", ["planar*8", "nice*4"])
def test_banana_beats_every_normal(flow):
    normal = AutoMultivariateNormal(banana, init_loc_fn=init_to_feasible)
    train(banana, normal, steps=300, particles=8, nesting=0)
    assert bound(banana, normal, nesting=0) < best_normal() + 0.02  # its noise is 0.005
    guide = AutoFlowGuide(banana, flow, init_loc_fn=init_to_feasible)
    train(banana, guide, steps=800, lr=0.02, particles=8, nesting=0)
    assert best_normal() + 0.25 < bound(banana, guide, nesting=0) < 0.02


# -------------------------------------------------------------------- every kind of site

ROWS, COLUMNS = 2, 3


def ordered():
    base = dist.Normal(0.0, 1.0).expand([3]).to_event(1)
    return dist.TransformedDistribution(base, dist.transforms.OrderedTransform())


def every_site():
    level = pyro.sample("level", dist.Normal(1.0, 2.0))
    spread = pyro.sample("spread", dist.HalfNormal(1.0))
    pyro.sample("positive", dist.Gamma(2.0, 3.0))
    pyro.sample("unit", dist.Beta(2.0, 3.0))
    pyro.sample("interval", dist.Uniform(-1.0, 2.0))
    pyro.sample("simplex", dist.Dirichlet(torch.ones(3)))
    pyro.sample("cholesky", dist.LKJCholesky(3, 1.0))
    pyro.sample("vector", dist.MultivariateNormal(torch.zeros(2), torch.eye(2) + 0.5))
    pyro.sample("ordered", ordered())
    pyro.sample("matrix", dist.Normal(0.0, 1.0).expand([2, 3]).to_event(2))
    flat = pyro.sample("improper", dist.ImproperUniform(constraints.real, (), ()))
    pyro.sample("sizes", dist.ImproperUniform(constraints.positive, (), (2,)))
    some = torch.tensor([True, False, True])
    pyro.sample("masked", dist.Normal(0.0, 1.0).expand([3]).mask(some).to_event(1))
    with poutine.mask(mask=False):
        hidden = pyro.sample("hidden", dist.Normal(0.0, 1.0))
    with pyro.plate("columns", COLUMNS, dim=-1):
        column = pyro.sample("column", dist.Normal(level, spread))
        pyro.sample("shares", dist.Dirichlet(torch.ones(2)))
        with pyro.plate("rows", ROWS, dim=-2):
            cell = pyro.sample("cell", dist.LogNormal(column, 1.0))
            pyro.sample("cells", dist.MultivariateNormal(torch.zeros(2), torch.eye(2)))
            pyro.sample("x", dist.Normal(cell, 1.0), obs=torch.ones(ROWS, COLUMNS))
    pyro.factor("prior", -0.5 * flat**2 - 0.5 * hidden**2)


# The batch shape, the event shape and the free numbers of each site.
SITES = {
    "level": ((), (), 1),
    "spread": ((), (), 1),
    "positive": ((), (), 1),
    "unit": ((), (), 1),
    "interval": ((), (), 1),
    "simplex": ((), (3,), 2),
    "cholesky": ((), (3, 3), 3),
    "vector": ((), (2,), 2),
    "ordered": ((), (3,), 3),
    "matrix": ((), (2, 3), 6),
    "improper": ((), (), 1),
    "sizes": ((), (2,), 2),
    "masked": ((), (3,), 3),
    "hidden": ((), (), 1),
    "column": ((COLUMNS,), (), COLUMNS),
    "shares": ((COLUMNS,), (2,), COLUMNS),
    "cell": ((ROWS, COLUMNS), (), ROWS * COLUMNS),
    "cells": ((ROWS, COLUMNS), (2,), ROWS * COLUMNS * 2),
}
FREE = sum(free for _, _, free in SITES.values())


def run_both(guide, particles):
    """A run of the guide, and the model replayed on it."""

    def run(fn):
        if not particles:
            return poutine.trace(fn).get_trace()
        with pyro.plate("particles", particles, dim=-3):
            return poutine.trace(fn).get_trace()

    guide_trace = run(guide)
    return guide_trace, run(poutine.replay(every_site, guide_trace))


@pytest.mark.parametrize("particles", [0, 4])
def test_density_of_every_kind_of_site(particles):
    guide = AutoFlowGuide(every_site, "planar*2 + nice*2 + radial + tril", init_scale=0.3).setup()
    assert guide.latent_dim == FREE
    guide_trace, model_trace = run_both(guide, particles)
    log_q = guide_trace.log_prob_sum().item()

    # The density of the latent vector, by the flow's inverse and an autograd Jacobian.
    latent = guide_trace.nodes[f"_{guide._pyro_name}_latent"]["value"].double()
    flow = guide.flow.double()
    expected = torch.zeros(()).double()
    for u in latent.reshape(-1, FREE):
        noise = flow.inv(u).detach()
        assert torch.allclose(flow(noise), u)
        jacobian = torch.func.jacrev(flow)(noise)
        expected += dist.Normal(0.0, 1.0).log_prob(noise).sum() - jacobian.slogdet().logabsdet

    # And how much each site's way to its support stretches, at the values in the traces.
    for name, (batch, event, _) in SITES.items():
        value = guide_trace.nodes[name]["value"]
        outer = (particles, *(1,) * (2 - len(batch))) if particles else ()
        assert value.shape == outer + batch + event
        support = model_trace.nodes[name]["fn"].support
        assert support.check(value).all()
        to_support = biject_to(support)
        free = to_support.inv(value.double())
        expected -= to_support.log_abs_det_jacobian(free, value.double()).sum()
    # Rounding errors of float32, 1e-7, in some fifty terms a particle of size ten.
    assert log_q == pytest.approx(expected.item(), abs=1e-4 * max(particles, 1))


def test_elbo_of_every_kind_of_site():
    guide = AutoFlowGuide(every_site, "planar*2 + nice*2 + radial + tril", init_scale=0.3).setup()
    for particles in (0, 4):
        torch.manual_seed(1)
        guide_trace, model_trace = run_both(guide, particles)
        by_hand = model_trace.log_prob_sum() - guide_trace.log_prob_sum()
        torch.manual_seed(1)
        options = {"vectorize_particles": True, "max_plate_nesting": 2} if particles else {}
        loss = Trace_ELBO(max(particles, 1), **options).loss(every_site, guide)
        assert loss == pytest.approx(-by_hand.item() / max(particles, 1), rel=1e-5)


def test_every_kind_of_site_starts_as_the_diagonal_normal_and_trains():
    guide = AutoFlowGuide(every_site, init_loc_fn=init_to_feasible).setup()
    values = {name: guide.prototype_trace.nodes[name]["value"] for name in SITES}
    init = {"init_loc_fn": init_to_value(values=values), "init_scale": 0.1}
    guide = AutoFlowGuide(every_site, "planar*2 + nice*2", **init)
    normal = AutoDiagonalNormal(every_site, **init)
    elbo = Trace_ELBO(250, vectorize_particles=True, max_plate_nesting=2)
    losses = [
        torch.tensor([elbo.loss(every_site, each) for _ in range(20)]) for each in (guide, normal)
    ]
    error = math.hypot(*(values.std() / math.sqrt(20) for values in losses))
    assert abs(losses[0].mean() - losses[1].mean()) < 4 * error
    assert error < 0.2  # of a loss near 80
    before = losses[0].mean()
    train(every_site, guide, steps=100, lr=0.02, nesting=2)
    assert -bound(every_site, guide, particles=1000, nesting=2) < before - 5
    for name, value in guide.median().items():
        batch, event, _ = SITES[name]
        assert value.shape == batch + event
        assert value.isfinite().all()


def test_improper_uniform():
    data = torch.tensor([3.0, 4.0, 4.5, 5.0])

    def flat():
        mean = pyro.sample("mean", dist.ImproperUniform(constraints.real, (), ()))
        with pyro.plate("data", 4):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=data)

    guide = AutoFlowGuide(flat, "diag")
    train(flat, guide, steps=500, lr=0.1)
    low, middle, high = guide.quantiles([0.1587, 0.5, 0.8413])["mean"]
    assert middle == pytest.approx(data.mean().item(), abs=0.05)  # a tenth of the posterior sd
    assert (high - low) / 2 == pytest.approx(0.5, rel=0.05)


def depends_for_its_being():
    switch = pyro.sample("switch", dist.Normal(-1e-4, 1e-6))
    if switch < 0:
        pyro.sample("below", dist.Normal(0.0, 1.0))


def test_a_site_that_is_there_for_some_values_of_another_is_refused():
    with pytest.raises(
        ValueError, match=r"support of the latent site 'below'.* depends on another"
    ):
        AutoFlowGuide(depends_for_its_being).setup()


def test_supports_that_depend_on_data_are_fine():
    def model(limit):
        pyro.sample("below", dist.Uniform(torch.zeros(2), limit).to_event(1))

    limit = torch.tensor([2.0, 5.0])
    guide = AutoFlowGuide(model, "planar*2", init_scale=3.0).setup(limit)
    high = guide.quantiles([0.99])["below"][0]
    assert (high < limit).all()
    assert (high > 0.9 * limit).all()
