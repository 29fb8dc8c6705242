"""Counts, and shares of counts."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints

from gallery_models.written import Makers, Written

__all__ = ["MODELS"]


def baseball() -> Written:
    """Eighteen hitters after 45 at-bats (Efron and Morris), partially pooled: Pyro's example."""
    hits = torch.tensor([18.0, 17, 16, 15, 14, 14, 13, 12, 11, 11, 10, 10, 10, 10, 10, 9, 8, 7])
    at_bats = torch.full((18,), 45.0)

    def model(at_bats, hits):
        m = pyro.sample("m", dist.Uniform(0, 1))
        kappa = pyro.sample("kappa", dist.Pareto(1, 1.5))
        with pyro.plate("num_players", len(at_bats)):
            phi = pyro.sample("phi", dist.Beta(m * kappa, (1 - m) * kappa))
            pyro.sample("obs", dist.Binomial(at_bats, phi), obs=hits)

    def twin(at_bats, hits):
        m = pyro.sample("m", dist.Uniform(0, 1))
        kappa = pyro.sample("kappa", dist.Pareto(1, 1.5))
        pyro.sample("obs", dist.BetaBinomial(m * kappa, (1 - m) * kappa, at_bats), obs=hits)

    return Written(model, (at_bats, hits), twin=twin)


def tumors() -> Written:
    """Rats with tumors, chapter 5 of BDA: a flat prior of the book, shares of 30 groups."""
    rng = np.random.default_rng(20)
    n = rng.integers(10, 30, 30)
    y = rng.binomial(n, rng.beta(1.8, 10, 30))

    def model(y, n):
        a = pyro.sample("a", dist.ImproperUniform(constraints.positive, (), ()))
        b = pyro.sample("b", dist.ImproperUniform(constraints.positive, (), ()))
        pyro.factor("hyperprior", -2.5 * torch.log(a + b))
        with pyro.plate("groups", len(n)):
            theta = pyro.sample("theta", dist.Beta(a, b))
            pyro.sample("y", dist.Binomial(n, theta), obs=y)

    def twin(y, n):
        a = pyro.sample("a", dist.ImproperUniform(constraints.positive, (), ()))
        b = pyro.sample("b", dist.ImproperUniform(constraints.positive, (), ()))
        pyro.factor("hyperprior", -2.5 * torch.log(a + b))
        pyro.sample("y", dist.BetaBinomial(a, b, n), obs=y)

    return Written(model, (y, n), twin=twin)


def poisson_wide() -> Written:
    """Counts by a line, with priors that say nothing: exp of Normal(0, 100)."""
    rng = np.random.default_rng(21)
    x = rng.uniform(0, 3, 40)
    y = rng.poisson(np.exp(0.4 + 0.8 * x))

    def model(x, y):
        a = pyro.sample("a", dist.Normal(0, 100))
        b = pyro.sample("b", dist.Normal(0, 100))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Poisson(torch.exp(a + b * x)), obs=y)

    return Written(model, (torch.tensor(x).float(), torch.tensor(y).float()))


def monks() -> Written:
    """Manuscripts a day, none on days of drinking (Statistical Rethinking): inflated zeros."""
    rng = np.random.default_rng(22)
    y = np.where(rng.random(365) < 0.2, 0, rng.poisson(1.0, 365))

    def model(y):
        ap = pyro.sample("ap", dist.Normal(-1.5, 1))
        al = pyro.sample("al", dist.Normal(1, 0.5))
        p, rate = torch.sigmoid(ap), torch.exp(al)
        with pyro.plate("days", len(y)):
            pyro.sample("y", dist.ZeroInflatedPoisson(rate, gate=p), obs=y)

    return Written(model, (y,))


def roaches() -> Written:
    """Roaches after treatment, Gelman and Hill: negative binomial, an exposure, three columns."""
    rng = np.random.default_rng(23)
    x = np.column_stack([rng.gamma(1, 0.5, 150), rng.integers(0, 2, 150), rng.integers(0, 2, 150)])
    exposure = rng.uniform(0.5, 2, 150)
    mean = exposure * np.exp(2 + x @ [1.0, -0.6, -0.3])
    y = rng.poisson(mean * rng.gamma(0.7, 1 / 0.7, 150))

    def model(x, exposure, y):
        alpha = pyro.sample("alpha", dist.Normal(0.0, 5.0))
        with pyro.plate("columns", 3):
            beta = pyro.sample("beta", dist.Normal(0.0, 2.5))
        phi = pyro.sample("phi", dist.Exponential(1.0))
        mu = exposure * torch.exp(alpha + x @ beta)
        with pyro.plate("flats", len(y)):
            pyro.sample("y", dist.GammaPoisson(phi, phi / mu), obs=y)

    return Written(model, (x, exposure, y))


def ballots() -> Written:
    """Votes for four parties in six towns: a Dirichlet with a scale, and a simplex each."""
    rng = np.random.default_rng(24)
    votes = np.stack([rng.multinomial(60, rng.dirichlet([8, 5, 4, 3])) for _ in range(6)])

    def model(votes):
        base = pyro.sample("base", dist.Dirichlet(torch.ones(4)))
        scale = pyro.sample("scale", dist.Gamma(2.0, 0.1))
        with pyro.plate("towns", len(votes)):
            p = pyro.sample("p", dist.Dirichlet(base * scale))
            pyro.sample("votes", dist.Multinomial(60, p), obs=votes)

    def twin(votes):
        base = pyro.sample("base", dist.Dirichlet(torch.ones(4)))
        scale = pyro.sample("scale", dist.Gamma(2.0, 0.1))
        pyro.sample("votes", dist.DirichletMultinomial(base * scale, 60), obs=votes)

    return Written(model, (torch.tensor(votes).float(),), twin=twin)


def counted_twice() -> Written:
    """How many animals there are, from two counts: a Poisson latent, which has no last value."""

    def model(seen):
        n = pyro.sample("n", dist.Poisson(50.0))
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
        pyro.sample("seen", dist.Binomial(n, p).expand([2]).to_event(1), obs=seen)

    return Written(model, (torch.tensor([21.0, 25.0]),), refused=True)


MODELS: Makers = {
    make.__name__: make
    for make in (baseball, tumors, poisson_wide, monks, roaches, ballots, counted_twice)
}
