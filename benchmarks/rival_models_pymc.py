"""The posteriors of rivals.py in PyMC: densities, sites and coordinates of their Pyro models.

Each takes the data, arrays by name, and, as variables of the model, what is observed and, for an
autoregression, its past, so that a second data set goes through what was compiled for the first.
`python benchmarks/rival_densities.py` compares the densities.
"""

import numpy as np
import pymc as pm
import pytensor.tensor as pt

ORDER = 5  # of the autoregression


def standardised(x, sd=1.0):
    return sd * (x - x.mean(0)) / x.std(0)


def filtered(rate, drive, count):
    """h_t = rate h_{t-1} + drive_t with h_0 = 0, by doubling: draws take a fifth of scan's time."""
    step = 1
    while step < count:
        drive = drive + rate * pt.concatenate([pt.zeros(step), drive[:-step]])
        step, rate = 2 * step, rate**2
    return drive


def variables(function, y):
    """The variables of a model that come from what it observes: arrays by name."""
    if function != "arK":
        return {"y": y}
    lags = [y[ORDER - k : len(y) - k] for k in range(1, ORDER + 1)]
    return {"y": y[ORDER:], "lags": np.stack(lags, -1)}


def eight_schools_noncentered(data, y):
    mu = pm.Normal("mu", 0.0, 5.0)
    tau = pm.HalfCauchy("tau", 5.0)
    z = pm.Normal("theta_trans", 0.0, 1.0, shape=len(data["y"]))
    pm.Normal("obs", mu + tau * z, data["sigma"], observed=y)


def eight_schools_centered(data, y):
    mu = pm.Normal("mu", 0.0, 5.0)
    tau = pm.HalfCauchy("tau", 5.0)
    theta = pm.Normal("theta", mu, tau, shape=len(data["y"]))
    pm.Normal("obs", theta, data["sigma"], observed=y)


def arK(data, y, lags):  # noqa: N802  # the posterior's name
    alpha = pm.Normal("alpha", 0.0, 10.0)
    beta = pm.Normal("beta", 0.0, 10.0, shape=ORDER)
    sigma = pm.HalfCauchy("sigma", 2.5)
    pm.Normal("obs", alpha + lags @ beta, sigma, observed=y)


def gp_pois_regr(data, y):
    x = data["x"]
    rho = pm.Gamma("rho", alpha=25.0, beta=4.0)
    alpha = pm.HalfNormal("alpha", 2.0)
    f_tilde = pm.Normal("f_tilde", 0.0, 1.0, shape=len(x))
    gap = (x[:, None] - x) / rho
    kernel = alpha**2 * pt.exp(-0.5 * gap**2) + 1e-10 * np.eye(len(x))
    f = pt.linalg.cholesky(kernel) @ f_tilde
    pm.Poisson("obs", pt.exp(f), observed=y)


def diamonds(data, y):
    x = data["X"] - data["X"].mean(0)
    b = pm.Normal("b", 0.0, 1.0, shape=x.shape[1])
    intercept = pm.StudentT("Intercept", nu=3.0, mu=8.0, sigma=10.0)
    sigma = pm.HalfStudentT("sigma", nu=3.0, sigma=10.0)
    pm.Normal("obs", intercept + x @ b, sigma, observed=y)


def student_t2(data, y):
    x = data["X"]
    beta = pm.Flat("beta", shape=x.shape[1])
    log_sigma = pm.Flat("log_sigma")
    pm.StudentT("obs", nu=2.0, mu=x @ beta, sigma=pt.exp(log_sigma), observed=y)


def german_credit(data, y):
    x = standardised(data["X"])
    alpha = pm.Normal("alpha", 0.0, 5.0)
    tau = pm.HalfCauchy("tau", 1.0)
    z = pm.Normal("z", 0.0, 1.0, shape=x.shape[1])
    pm.Bernoulli("obs", logit_p=alpha + tau * (x @ z), observed=y)


def sonar(data, y):
    x = standardised(data["X"], 0.5)
    alpha = pm.Normal("alpha", 0.0, 20.0)
    beta = pm.Normal("beta", 0.0, 5.0, shape=x.shape[1])
    pm.Bernoulli("obs", logit_p=alpha + x @ beta, observed=y)


def horseshoe(data, y):
    x = data["X"]
    tau = pm.HalfCauchy("tau", 1.0)
    sigma = pm.HalfCauchy("sigma", 5.0)
    lam = pm.HalfCauchy("lam", 1.0, shape=x.shape[1])
    z = pm.Normal("z", 0.0, 1.0, shape=x.shape[1])
    pm.Normal("obs", x @ (tau * lam * z), sigma, observed=y)


def stochastic_volatility(data, y):
    count = len(data["y"])
    mu = pm.Normal("mu", 0.0, 3.0)
    phi = pm.Uniform("phi", -1.0, 1.0)
    sigma = pm.HalfCauchy("sigma", 5.0)
    z = pm.Normal("z", 0.0, 1.0, shape=count)
    drive = sigma * pt.concatenate([z[:1] / pt.sqrt(1 - phi**2), z[1:]])
    h = mu + filtered(phi, drive, count)
    pm.Normal("obs", 0.0, pt.exp(h / 2), observed=y)


def irt_2pl(data, y):
    items, persons = data["y"].shape
    sigma_theta = pm.HalfCauchy("sigma_theta", 2.0)
    sigma_a = pm.HalfCauchy("sigma_a", 2.0)
    mu_b = pm.Normal("mu_b", 0.0, 5.0)
    sigma_b = pm.HalfCauchy("sigma_b", 2.0)
    theta = pm.Normal("theta", 0.0, sigma_theta, shape=persons)
    a = pm.LogNormal("a", 0.0, sigma_a, shape=items)
    b = pm.Normal("b", mu_b, sigma_b, shape=items)
    pm.Bernoulli("obs", logit_p=a[:, None] * (theta - b[:, None]), observed=y)


def radon_hierarchical(data, y):
    floor, county = data["floor"], data["county"].astype(int)
    counties = int(county.max()) + 1
    mu_a = pm.Normal("mu_a", 0.0, 5.0)
    mu_b = pm.Normal("mu_b", 0.0, 5.0)
    sigma_a = pm.HalfNormal("sigma_a", 1.0)
    sigma_b = pm.HalfNormal("sigma_b", 1.0)
    sigma = pm.HalfNormal("sigma", 1.0)
    a = mu_a + sigma_a * pm.Normal("z_a", 0.0, 1.0, shape=counties)
    b = mu_b + sigma_b * pm.Normal("z_b", 0.0, 1.0, shape=counties)
    pm.Normal("obs", a[county] + b[county] * floor, sigma, observed=y)
