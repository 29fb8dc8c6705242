"""Regressions."""

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.nn import PyroModule, PyroSample
from torch import nn

from gallery_models.written import Makers, Written

__all__ = ["MODELS"]


def rugged() -> Written:
    """Terrain and income, Pyro's first tutorial of regression: a data frame, uniform scales."""
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"cont_africa": rng.integers(0, 2, 170)})
    frame["rugged"] = rng.gamma(1.2, 1.1, 170)
    slope = np.where(frame["cont_africa"] == 1, 0.2, -0.2)
    frame["log_gdp"] = 9.2 - 1.9 * frame["cont_africa"] + slope * frame["rugged"]
    frame["log_gdp"] += 0.95 * rng.standard_normal(170)

    def model(is_cont_africa, ruggedness, log_gdp=None):
        a = pyro.sample("a", dist.Normal(0.0, 10.0))
        b_a = pyro.sample("bA", dist.Normal(0.0, 1.0))
        b_r = pyro.sample("bR", dist.Normal(0.0, 1.0))
        b_ar = pyro.sample("bAR", dist.Normal(0.0, 1.0))
        sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
        mean = a + b_a * is_cont_africa + b_r * ruggedness + b_ar * is_cont_africa * ruggedness
        with pyro.plate("data", len(ruggedness)):
            return pyro.sample("obs", dist.Normal(mean, sigma), obs=log_gdp)

    return Written(model, (frame["cont_africa"], frame["rugged"], frame["log_gdp"]))


class Layer(PyroModule):
    """Pyro's Bayesian regression: a linear layer with priors in the place of weights."""

    def __init__(self, columns):
        super().__init__()
        self.linear = PyroModule[nn.Linear](columns, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, columns]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 10.0).expand([1]).to_event(1))

    def forward(self, x, y=None):
        sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("obs", dist.Normal(mean, sigma), obs=y)
        return mean


def linear_layer() -> Written:
    """The same tutorial's `PyroModule`, data by keyword."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((120, 3)).astype(np.float32)
    y = x @ [0.5, -1.0, 0.2] + 2 + 0.4 * rng.standard_normal(120)
    return Written(Layer(3), (torch.tensor(x),), {"y": torch.tensor(y, dtype=torch.float32)})


def golf() -> Written:
    """Putts by distance, from Stan's case study: the angle within which a ball falls."""
    feet = np.array([*range(2, 21)], dtype=float)
    tries = [1443, 694, 455, 353, 272, 256, 240, 217, 200, 237, 202, 192, 174, 167, 201, 195]
    tries = np.array([*tries, 191, 147, 152])
    made = [1346, 577, 337, 208, 149, 136, 111, 69, 67, 75, 52, 46, 54, 28, 27, 31, 33, 20, 24]
    ball, hole = 1.68 / 2 / 12, 4.25 / 2 / 12

    def model(x, n, y):
        sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
        threshold = torch.asin((hole - ball) / x)
        p = 2 * dist.Normal(0.0, 1.0).cdf(threshold / sigma) - 1
        pyro.sample("y", dist.Binomial(n, p), obs=y)

    return Written(model, (feet, tries, np.array(made)))


def robust() -> Written:
    """Student's t around a line, with outliers, from the Stan user's guide: no plate."""
    rng = np.random.default_rng(3)
    x = rng.uniform(0, 10, 60)
    y = 1 + 0.7 * x + 0.5 * rng.standard_normal(60)
    y[::12] += 8

    def model(x, y):
        alpha = pyro.sample("alpha", dist.Normal(0, 10))
        beta = pyro.sample("beta", dist.Normal(0, 10))
        sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
        nu = pyro.sample("nu", dist.Gamma(2.0, 0.1))
        pyro.sample("y", dist.StudentT(nu, alpha + beta * x, sigma), obs=y)

    return Written(model, (x, y))


def tobit() -> Written:
    """A regression whose response is cut off at zero: a factor for the rows that are."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((100, 2))
    y = np.maximum(0.3 + x @ [1.0, -0.5] + rng.standard_normal(100), 0.0)

    def model(X, y):  # noqa: N803
        b = pyro.sample("b", dist.Normal(torch.zeros(2), 5.0).to_event(1))
        a = pyro.sample("a", dist.Normal(0.0, 5.0))
        sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
        mu = a + X @ b
        seen = y > 0
        pyro.sample("y", dist.Normal(mu[seen], sigma), obs=y[seen])
        below = dist.Normal(mu[~seen], sigma).cdf(torch.zeros(()))
        pyro.factor("cut", below.log().sum())

    return Written(model, (x, y))


def lasso() -> Written:
    """Laplace priors, one scale for all: everything by keyword."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((60, 12))
    y = x[:, 0] * 2 - x[:, 1] + rng.standard_normal(60)

    def model(*, x, y):
        lam = pyro.sample("lam", dist.HalfCauchy(1.0))
        sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
        with pyro.plate("coefs", x.shape[1]):
            beta = pyro.sample("beta", dist.Laplace(0.0, lam))
        with pyro.plate("n", len(y)):
            pyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)

    return Written(model, (), {"x": x, "y": y})


def horseshoe() -> Written:
    """A logistic regression with the horseshoe of Carvalho et al., not centred."""
    rng = np.random.default_rng(6)
    x = rng.standard_normal((100, 15))
    y = (rng.random(100) < 1 / (1 + np.exp(-2.5 * x[:, 0] + 1.5 * x[:, 1]))).astype(float)

    def model(X, y):  # noqa: N803
        tau = pyro.sample("tau", dist.HalfCauchy(0.2))
        lam = pyro.sample("lam", dist.HalfCauchy(torch.ones(15)).to_event(1))
        z = pyro.sample("z", dist.Normal(torch.zeros(15), torch.ones(15)).to_event(1))
        alpha = pyro.sample("alpha", dist.Normal(0.0, 2.0))
        with pyro.plate("data", len(X)):
            pyro.sample("y", dist.Bernoulli(logits=alpha + X @ (z * lam * tau)), obs=y)

    return Written(model, (x, y))


def ordinal() -> Written:
    """Ordered categories by cut points, from the documentation of `OrderedLogistic`."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal(100)
    latent = 1.2 * x + rng.logistic(size=100)
    y = np.digitize(latent, [-1.5, 0.0, 1.0])

    def model(X, Y):  # noqa: N803
        b = pyro.sample("b", dist.Normal(0.0, 5.0))
        base = dist.Normal(0.0, 1.0).expand([3]).to_event(1)
        c = pyro.sample("c", dist.TransformedDistribution(base, dist.transforms.OrderedTransform()))
        with pyro.plate("obs_plate", len(X)):
            pyro.sample("y", dist.OrderedLogistic(b * X, c), obs=Y)

    return Written(model, (torch.tensor(x, dtype=torch.float), torch.tensor(y)))


def survival() -> Written:
    """Weibull times, of which some are censored: a mask, and a factor."""
    rng = np.random.default_rng(8)
    group = np.arange(80) % 2
    times = 10 * np.exp(0.5 * group) * rng.weibull(1.5, 80)
    frame = pd.DataFrame({"group": group, "time": np.minimum(times, 15), "died": times < 15})

    def model(group, time, died):
        a = pyro.sample("a", dist.Normal(0, 5))
        b = pyro.sample("b", dist.Normal(0, 5))
        k = pyro.sample("k", dist.LogNormal(0, 1))
        scale = torch.exp(a + b * group)
        with pyro.plate("patients", len(time)):
            with poutine.mask(mask=died):
                pyro.sample("t", dist.Weibull(scale, k), obs=time)
            with poutine.mask(mask=~died):
                pyro.factor("alive", -((time / scale) ** k))

    return Written(model, (frame["group"], frame["time"], frame["died"]))


def two_lines() -> Written:
    """A mixture of two regressions, summed by `MixtureSameFamily`; their names may be exchanged."""
    rng = np.random.default_rng(9)
    x = rng.uniform(-2, 2, 80)
    first = rng.random(80) < 0.4
    y = np.where(first, 1 + 2 * x, -1 - x) + 0.4 * rng.standard_normal(80)

    def model(x, y):
        share = pyro.sample("share", dist.Dirichlet(torch.ones(2)))
        with pyro.plate("lines", 2):
            a = pyro.sample("a", dist.Normal(0.0, 3.0))
            b = pyro.sample("b", dist.Normal(0.0, 3.0))
        sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
        means = a + b * x[:, None]
        with pyro.plate("rows", len(x)):
            parts = dist.Normal(means, sigma)
            pyro.sample("y", dist.MixtureSameFamily(dist.Categorical(share), parts), obs=y)

    def numbers(draws):
        slopes, order = draws["b"].sort(-1)
        levels = draws["a"].gather(-1, order)
        share = draws["share"].gather(-1, order)[..., 0]
        return {"b": slopes, "a": levels, "share": share.logit(), "sigma": draws["sigma"].log()}

    return Written(model, (x, y), numbers=numbers)


def half_weight() -> Written:
    """Two studies, the older of which counts half: `poutine.scale`, and a flat prior."""
    rng = np.random.default_rng(10)
    old, new = rng.normal(1.0, 1, 40), rng.normal(0.5, 1, 12)

    def model(old, new):
        mu = pyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
        sigma = pyro.sample("sigma", dist.LogNormal(0.0, 1.0))
        with poutine.scale(scale=0.5), pyro.plate("before", len(old)):
            pyro.sample("old", dist.Normal(mu, sigma), obs=old)
        with pyro.plate("now", len(new)):
            pyro.sample("new", dist.Normal(mu, sigma), obs=new)

    return Written(model, (old, new))


def compass() -> Written:
    """Directions around a mean on the circle, in an interval."""
    rng = np.random.default_rng(11)
    seen = torch.tensor(rng.vonmises(0.8, 2.0, 30), dtype=torch.float)

    def model():
        mean = pyro.sample("mean", dist.Uniform(-3.0, 3.0))
        kappa = pyro.sample("kappa", dist.HalfNormal(5.0))
        for i in pyro.plate("birds", len(seen)):
            pyro.sample(f"flight_{i}", dist.VonMises(mean, kappa), obs=seen[i])

    return Written(model)


MODELS: Makers = {
    make.__name__: make
    for make in (
        *(rugged, linear_layer, golf, robust, tobit, lasso, horseshoe, ordinal, survival),
        *(two_lines, half_weight, compass),
    )
}
