"""Matrices and functions: covariances, Gaussian processes, neural nets."""

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroSample
from torch import nn

from gallery_models.written import Makers, Written

__all__ = ["MODELS"]


def lkj() -> Written:
    """Scales and correlations of five columns: Pyro's own example, no plate in it."""
    rng = np.random.default_rng(40)
    mix = np.linalg.cholesky(0.5 * np.eye(5) + 0.5)
    y = torch.tensor(rng.standard_normal((60, 5)) @ mix.T).float()

    def model(y):
        d = y.shape[1]
        theta = pyro.sample("theta", dist.HalfCauchy(torch.ones(d)))
        eta = torch.ones(())
        L_omega = pyro.sample("L_omega", dist.LKJCholesky(d, eta))  # noqa: N806
        L_Omega = torch.mm(torch.diag(theta.sqrt()), L_omega)  # noqa: N806
        mu = torch.zeros(d)
        with pyro.plate("observations", len(y)):
            pyro.sample("obs", dist.MultivariateNormal(mu, scale_tril=L_Omega), obs=y)

    def twin(y):
        theta = pyro.sample("theta", dist.HalfCauchy(torch.ones(5)).to_event(1))
        factor = pyro.sample("L_omega", dist.LKJCholesky(5, 1.0))
        scale_tril = theta.sqrt()[:, None] * factor
        normal = dist.MultivariateNormal(torch.zeros(5), scale_tril=scale_tril)
        pyro.sample("obs", normal.expand([len(y)]).to_event(1), obs=y)

    return Written(model, (y,), twin=twin)


def skim() -> Written:
    """Sparse regression with all pairs by a kernel (Agrawal et al.): Pyro's and NumPyro's."""
    rng = np.random.default_rng(41)
    x = rng.standard_normal((80, 8))
    y = x[:, 0] - 1.5 * x[:, 2] + 1.2 * x[:, 0] * x[:, 2] + 0.3 * rng.standard_normal(80)

    def kernel(x, eta1, eta2, c):
        dot = x @ x.T
        square = 0.5 * eta2**2 * (1 + dot) ** 2
        return square - 0.5 * eta2**2 * (x**2 @ (x**2).T) + (eta1**2 - eta2**2) * dot + c**2

    def model(X, Y):  # noqa: N803
        N, P, S = X.shape[0], X.shape[1], 3  # noqa: N806
        sigma = pyro.sample("sigma", dist.HalfNormal(3.0))
        phi = sigma * (S / math.sqrt(N)) / (P - S)
        eta1 = pyro.sample("eta1", dist.HalfCauchy(phi))
        msq = pyro.sample("msq", dist.InverseGamma(3.0, 1.0))
        xisq = pyro.sample("xisq", dist.InverseGamma(3.0, 1.0))
        eta2 = eta1.pow(2) * xisq.sqrt() / msq
        lam = pyro.sample("lambda", dist.HalfCauchy(torch.ones(P)).to_event(1))
        kappa = msq.sqrt() * lam / (msq + (eta1 * lam) ** 2).sqrt()
        k = kernel(kappa * X, eta1, eta2, 1.0) + sigma**2 * torch.eye(N)
        pyro.sample("Y", dist.MultivariateNormal(torch.zeros(N), covariance_matrix=k), obs=Y)

    return Written(model, (torch.tensor(x).float(), torch.tensor(y).float()))


def process() -> Written:
    """A Gaussian process with three hyperparameters, from NumPyro's example: float64 arrays."""
    rng = np.random.default_rng(42)
    x = np.sort(rng.uniform(-1, 1, 30))
    y = x + 0.2 * x**3 + 0.5 * (0.5 + x) ** 2 * np.sin(4 * x) + 0.1 * rng.standard_normal(30)

    def model(X, Y):  # noqa: N803
        var = pyro.sample("kernel_var", dist.LogNormal(0.0, 3.0))
        noise = pyro.sample("kernel_noise", dist.LogNormal(0.0, 3.0))
        length = pyro.sample("kernel_length", dist.LogNormal(0.0, 3.0))
        deltaXsq = ((X[:, None] - X) / length) ** 2  # noqa: N806
        k = var * torch.exp(-0.5 * deltaXsq) + (noise + 1e-6) * torch.eye(len(X))
        mean = torch.zeros(len(X))
        pyro.sample("Y", dist.MultivariateNormal(mean, covariance_matrix=k), obs=Y)

    return Written(model, (x, y))


def saas() -> Written:
    """BoTorch's prior for Bayesian optimisation in many dimensions: sparse axes, Matern 5/2."""
    rng = np.random.default_rng(43)
    x = torch.tensor(rng.random((30, 8)), dtype=torch.double)
    y = torch.sin(6 * x[:, 0]) + 2 * (x[:, 1] - 0.5) ** 2 + 0.1 * torch.tensor(rng.normal(size=30))
    y = (y - y.mean()) / y.std()

    def model(X, Y):  # noqa: N803
        like = {"dtype": X.dtype}
        outputscale = pyro.sample("outputscale", dist.Gamma(torch.tensor(2.0, **like), 0.15))
        mean = pyro.sample("mean", dist.Normal(torch.tensor(0.0, **like), 1.0))
        noise = pyro.sample("noise", dist.Gamma(torch.tensor(0.9, **like), 10.0))
        tausq = pyro.sample("kernel_tausq", dist.HalfCauchy(torch.tensor(0.1, **like)))
        inv_length_sq = pyro.sample(
            "_kernel_inv_length_sq", dist.HalfCauchy(torch.ones(8, **like)).to_event(1)
        )
        lengthscale = (tausq * inv_length_sq).rsqrt()
        scaled = X / lengthscale
        gap = scaled[:, None] - scaled[None]
        r = (gap**2).sum(-1).clamp(min=1e-20).sqrt() * math.sqrt(5)
        k = outputscale * (1 + r + r**2 / 3) * torch.exp(-r)
        k = k + noise * torch.eye(len(X), **like)
        pyro.sample("Y", dist.MultivariateNormal(mean.expand(len(X)), k), obs=Y)

    return Written(model, (x, y))


class Net(PyroModule):
    """Layers whose weights are latents, as in the tutorials of Bayesian neural nets."""

    def __init__(self, *sizes):
        super().__init__()
        layers = []
        for before, after in itertools.pairwise(sizes):
            layer = PyroModule[nn.Linear](before, after)
            layer.weight = PyroSample(dist.Normal(0.0, 1.0).expand([after, before]).to_event(2))
            layer.bias = PyroSample(dist.Normal(0.0, 1.0).expand([after]).to_event(1))
            layers.append(layer)
        self.layers = PyroModule[nn.ModuleList](layers)

    def forward(self, x, y=None):
        h = x
        for layer in self.layers[:-1]:
            h = torch.tanh(layer(h))
        mu = pyro.deterministic("mu", self.layers[-1](h).squeeze(-1))
        sigma = pyro.sample("sigma", dist.Gamma(2.0, 4.0))
        with pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Normal(mu, sigma), obs=y)
        return mu


def _at(draws, x):
    """The noise, and what nets of drawn weights say at x, whose hidden units have no names."""
    n = len(draws["sigma"])
    h, depth = x.to(draws["sigma"]).expand(n, *x.shape), 0
    while f"layers.{depth}.weight" in draws:
        h = torch.tanh(h) if depth else h
        weight, bias = draws[f"layers.{depth}.weight"], draws[f"layers.{depth}.bias"]
        h = h @ weight.mT + bias.unsqueeze(-2)
        depth += 1
    return {"mean": h.squeeze(-1), "sigma": draws["sigma"].log()}


def _waves(count):
    rng = np.random.default_rng(44)
    x = np.linspace(-2, 2, count)
    y = np.sin(2 * x) + 0.2 * rng.standard_normal(count)
    return torch.tensor(x).float()[:, None], torch.tensor(y).float()


def net() -> Written:
    """A small Bayesian neural net, by what it says at some places."""
    x, y = _waves(40)
    places = torch.tensor([-2.5, -1.0, 0.0, 1.0, 2.5])[:, None]
    return Written(Net(1, 4, 1), (x, y), numbers=lambda draws: _at(draws, places))


def wide_net() -> Written:
    """The same with a thousand weights."""
    x, y = _waves(60)
    places = torch.tensor([-1.0, 0.0, 1.0])[:, None]
    return Written(Net(1, 30, 30, 1), (x, y), numbers=lambda draws: _at(draws, places))


MODELS: Makers = {make.__name__: make for make in (lkj, skim, process, saas, net, wide_net)}
