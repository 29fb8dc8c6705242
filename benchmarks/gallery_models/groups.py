"""Hierarchies: groups, persons and items, crossed and nested."""

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine

from gallery_models.written import Makers, Written

__all__ = ["MODELS"]


def schools() -> Written:
    """Eight schools (Rubin), centred, as BDA writes them."""
    y = [28.0, 8, -3, 7, -1, 1, 18, 12]
    sigma = [15.0, 10, 16, 11, 9, 11, 10, 18]

    def model(sigma, y):
        mu = pyro.sample("mu", dist.Normal(0, 5))
        tau = pyro.sample("tau", dist.HalfCauchy(5))
        with pyro.plate("schools", len(y)):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("obs", dist.Normal(theta, sigma), obs=y)

    def twin(sigma, y):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        pyro.sample("obs", dist.Normal(mu, (tau**2 + sigma**2).sqrt()), obs=y)

    return Written(model, (torch.tensor(sigma), torch.tensor(y)), twin=twin)


def learned_prior() -> Written:
    """Eight schools whose mean and spread are `pyro.param`s: empirical Bayes."""
    y = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12])

    def model(y):
        mu = pyro.param("mu", torch.tensor(0.0))
        tau = pyro.param("tau", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("schools", 8):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("obs", dist.Normal(theta, 4.0), obs=y)

    spread = (y.var(correction=0) - 16.0).sqrt()

    def twin(y):
        theta = pyro.sample("theta", dist.Normal(y.mean(), spread.to(y)).expand([8]).to_event(1))
        pyro.sample("obs", dist.Normal(theta, 4.0).to_event(1), obs=y)

    return Written(model, (y,), twin=twin)


def radon() -> Written:
    """Radon in homes of counties, an intercept each: centred, columns of a data frame."""
    rng = np.random.default_rng(31)
    county = rng.integers(0, 20, 200)
    floor = rng.integers(0, 2, 200)
    levels = 1.4 + 0.35 * rng.standard_normal(20)
    log_radon = levels[county] - 0.7 * floor + 0.75 * rng.standard_normal(200)
    homes = pd.DataFrame({"county": county, "floor": floor, "log_radon": log_radon})

    def model(county, floor, log_radon=None):
        mu_a = pyro.sample("mu_a", dist.Normal(0.0, 1.0))
        sigma_a = pyro.sample("sigma_a", dist.HalfCauchy(1.0))
        with pyro.plate("counties", 20):
            a = pyro.sample("a", dist.Normal(mu_a, sigma_a))
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        sigma = pyro.sample("sigma", dist.HalfCauchy(1.0))
        with pyro.plate("homes", len(county)):
            pyro.sample("y", dist.Normal(a[county] + b * floor, sigma), obs=log_radon)

    return Written(model, (homes["county"], homes["floor"], homes["log_radon"]))


def rats() -> Written:
    """Thirty young rats weighed five times (BUGS): a line each, no plates, float64."""
    rng = np.random.default_rng(32)
    days = np.array([8.0, 15, 22, 29, 36])
    lines = 242 + 14 * rng.standard_normal((30, 1))
    lines = lines + (6.2 + 0.5 * rng.standard_normal((30, 1))) * (days - 22)
    weights = lines + 6 * rng.standard_normal((30, 5))

    def model(x, Y):  # noqa: N803
        alpha_c = pyro.sample("alpha_c", dist.Normal(200.0, 100.0))
        beta_c = pyro.sample("beta_c", dist.Normal(0.0, 20.0))
        sigma_a = pyro.sample("sigma_a", dist.HalfCauchy(25.0))
        sigma_b = pyro.sample("sigma_b", dist.HalfCauchy(5.0))
        sigma = pyro.sample("sigma", dist.HalfCauchy(25.0))
        alpha = pyro.sample("alpha", dist.Normal(alpha_c, sigma_a).expand([30]).to_event(1))
        beta = pyro.sample("beta", dist.Normal(beta_c, sigma_b).expand([30]).to_event(1))
        mean = alpha[:, None] + beta[:, None] * (x - x.mean())
        pyro.sample("Y", dist.Normal(mean, sigma), obs=Y)

    return Written(model, (days, weights))


def bones() -> Written:
    """Skeletal age by graded signs (BUGS): known thresholds, signs missing here and there."""
    rng = np.random.default_rng(33)
    ages = rng.uniform(0, 15, 13)
    delta = rng.uniform(0.5, 2.5, 20)
    gamma = np.sort(rng.uniform(0, 15, (20, 3)), -1)
    above = 1 / (1 + np.exp(-delta[:, None] * (ages[:, None, None] - gamma)))
    grades = (rng.random((13, 20, 1)) < above).sum(-1).astype(float)
    grades[rng.random((13, 20)) < 0.15] = np.nan

    def model(delta, gamma, grade):
        seen = ~torch.isnan(grade)
        with pyro.plate("children", 13, dim=-2):
            theta = pyro.sample("theta", dist.Normal(0.0, 36.0))
            q = torch.sigmoid(delta[:, None] * (theta[..., None] - gamma))
            whole = torch.cat([torch.ones_like(q[..., :1]), q, torch.zeros_like(q[..., :1])], -1)
            p = (whole[..., :-1] - whole[..., 1:]).clamp(min=1e-6)
            with pyro.plate("signs", 20, dim=-1), poutine.mask(mask=seen):
                pyro.sample("grade", dist.Categorical(p), obs=torch.nan_to_num(grade))

    data = (torch.tensor(delta), torch.tensor(gamma), torch.tensor(grades))
    return Written(model, tuple(part.float() for part in data))


def rasch() -> Written:
    """Persons and items, one parameter each, in long form; an anchor by `if` on the data."""
    rng = np.random.default_rng(34)
    person, item = np.repeat(np.arange(30), 8), np.tile(np.arange(8), 30)
    ability, difficulty = rng.standard_normal(30), rng.standard_normal(8)
    y = rng.random(240) < 1 / (1 + np.exp(difficulty[item] - ability[person]))

    def model(jj, ii, y):
        sd = pyro.sample("sd", dist.HalfNormal(2.0))
        theta = pyro.sample("theta", dist.Normal(torch.zeros(30), sd).to_event(1))
        b = [pyro.sample(f"b_{i}", dist.Normal(0.0, 2.0)) for i in range(8)]
        for i in range(8):
            rows = [k for k in range(len(y)) if ii[k] == i]
            with pyro.plate(f"item_{i}", len(rows)):
                logits = theta[jj[rows]] - b[i]
                pyro.sample(f"y_{i}", dist.Bernoulli(logits=logits), obs=y[rows])

    data = (torch.tensor(person), torch.tensor(item), torch.tensor(y).float())
    return Written(model, data)


def two_parameters() -> Written:
    """Items that also discriminate, Stan's case study of item response theory: `theta[jj]`."""
    rng = np.random.default_rng(35)
    person, item = np.repeat(np.arange(40), 6), np.tile(np.arange(6), 40)
    ability, difficulty = rng.standard_normal(40), rng.standard_normal(6)
    steep = np.exp(0.4 * rng.standard_normal(6))
    logits = steep[item] * (ability[person] - difficulty[item])
    y = (rng.random(240) < 1 / (1 + np.exp(-logits))).astype(float)

    def model(jj, ii, y):
        with pyro.plate("persons", 40):
            theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        with pyro.plate("items", 6):
            a = pyro.sample("a", dist.LogNormal(0.0, 0.5))
            b = pyro.sample("b", dist.Normal(0.0, 2.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=a[ii] * (theta[jj] - b[ii])), obs=y)

    return Written(model, (person, item, y))


def slopes() -> Written:
    """Radon with slopes that vary along with the intercepts, correlated by `LKJCholesky`."""
    rng = np.random.default_rng(36)
    county, floor = rng.integers(0, 12, 180), rng.integers(0, 2, 180).astype(float)
    z = rng.standard_normal((12, 2)) @ np.array([[0.5, -0.2], [0.0, 0.35]])
    y = 1.4 + z[county, 0] + (z[county, 1] - 0.7) * floor + 0.6 * rng.standard_normal(180)

    def model(county, floor, y):
        sigma = pyro.sample("sigma", dist.Exponential(1.0))
        sds = pyro.sample("sds", dist.Exponential(torch.ones(2)).to_event(1))
        L = pyro.sample("L", dist.LKJCholesky(2, 2.0))  # noqa: N806
        mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 2.0).to_event(1))
        scale_tril = torch.diag(sds) @ L
        with pyro.plate("counties", 12):
            ab = pyro.sample("ab", dist.MultivariateNormal(mean, scale_tril=scale_tril))
        mu = ab[county, 0] + ab[county, 1] * floor
        with pyro.plate("homes", len(y)):
            pyro.sample("y", dist.Normal(mu, sigma), obs=y)

    return Written(model, (torch.tensor(county), torch.tensor(floor), torch.tensor(y)))


def crossed() -> Written:
    """Subjects and items, crossed plates, an effect each, and a value for each pair."""
    rng = np.random.default_rng(37)
    y = 0.6 * rng.standard_normal((15, 1)) + 0.3 * rng.standard_normal(10)
    y = torch.tensor(y + 2 + 0.5 * rng.standard_normal((15, 10))).float()

    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        s_subject = pyro.sample("s_subject", dist.HalfNormal(1.0))
        s_item = pyro.sample("s_item", dist.HalfNormal(1.0))
        noise = pyro.sample("noise", dist.HalfNormal(1.0))
        subjects = pyro.plate("subjects", 15, dim=-2)
        items = pyro.plate("items", 10, dim=-1)
        with subjects:
            u = pyro.sample("u", dist.Normal(0.0, s_subject))
        with items:
            w = pyro.sample("w", dist.Normal(0.0, s_item))
        with subjects, items:
            pyro.sample("y", dist.Normal(mu + u + w, noise), obs=y)

    return Written(model, (y,))


MODELS: Makers = {
    make.__name__: make
    for make in (
        *(schools, learned_prior, radon, rats, bones, rasch, two_parameters, slopes, crossed),
    )
}
