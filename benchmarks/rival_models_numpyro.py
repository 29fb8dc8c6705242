"""The posteriors of rivals.py in NumPyro: densities, sites and coordinates of their Pyro models.

Each takes the data, arrays by name. `python benchmarks/rival_densities.py` compares the densities.
"""

import jax.numpy as jnp
import numpyro.distributions as dist
from jax.lax import scan
from numpyro import sample

COUNTIES = 85  # a shape, which cannot follow from data under jit


def normal(*shape):
    return dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape))


def standardised(x, sd=1.0):
    return sd * (x - x.mean(0)) / x.std(0)


def flat(*shape):
    return dist.ImproperUniform(dist.constraints.real, (), shape)


def filtered(rate, drive):
    """h_t = rate h_{t-1} + drive_t with h_0 = 0. By doubling it takes longer to compile."""
    return scan(lambda h, push: (rate * h + push,) * 2, jnp.zeros(()), drive)[1]


def eight_schools_noncentered(data):
    mu = sample("mu", dist.Normal(0.0, 5.0))
    tau = sample("tau", dist.HalfCauchy(5.0))
    z = sample("theta_trans", normal(len(data["y"])))
    sample("y", dist.Normal(mu + tau * z, data["sigma"]), obs=data["y"])


def eight_schools_centered(data):
    mu = sample("mu", dist.Normal(0.0, 5.0))
    tau = sample("tau", dist.HalfCauchy(5.0))
    theta = sample("theta", dist.Normal(mu, tau).expand([len(data["y"])]).to_event(1))
    sample("y", dist.Normal(theta, data["sigma"]), obs=data["y"])


def arK(data):  # noqa: N802  # the posterior's name
    y, order = data["y"], 5
    lags = jnp.stack([y[order - k : len(y) - k] for k in range(1, order + 1)], -1)
    alpha = sample("alpha", dist.Normal(0.0, 10.0))
    beta = sample("beta", dist.Normal(0.0, 10.0).expand([order]).to_event(1))
    sigma = sample("sigma", dist.HalfCauchy(2.5))
    sample("y", dist.Normal(alpha + lags @ beta, sigma), obs=y[order:])


def gp_pois_regr(data):
    x, k = data["x"], data["k"]
    rho = sample("rho", dist.Gamma(25.0, 4.0))
    alpha = sample("alpha", dist.HalfNormal(2.0))
    f_tilde = sample("f_tilde", normal(len(x)))
    gap = (x[:, None] - x) / rho
    kernel = alpha**2 * jnp.exp(-0.5 * gap**2) + 1e-10 * jnp.eye(len(x))
    f = jnp.linalg.cholesky(kernel) @ f_tilde
    sample("k", dist.Poisson(jnp.exp(f)), obs=k)


def diamonds(data):
    x = data["X"] - data["X"].mean(0)
    b = sample("b", normal(x.shape[1]))
    intercept = sample("Intercept", dist.StudentT(3.0, 8.0, 10.0))
    sigma = sample("sigma", dist.FoldedDistribution(dist.StudentT(3.0, 0.0, 10.0)))
    sample("Y", dist.Normal(intercept + x @ b, sigma), obs=data["Y"])


def student_t2(data):
    x = data["X"]
    beta = sample("beta", flat(x.shape[1]))
    log_sigma = sample("log_sigma", flat())
    sample("y", dist.StudentT(2.0, x @ beta, jnp.exp(log_sigma)), obs=data["y"])


def german_credit(data):
    x = standardised(data["X"])
    alpha = sample("alpha", dist.Normal(0.0, 5.0))
    tau = sample("tau", dist.HalfCauchy(1.0))
    z = sample("z", normal(x.shape[1]))
    sample("y", dist.Bernoulli(logits=alpha + tau * (x @ z)), obs=data["y"])


def sonar(data):
    x = standardised(data["X"], 0.5)
    alpha = sample("alpha", dist.Normal(0.0, 20.0))
    beta = sample("beta", dist.Normal(0.0, 5.0).expand([x.shape[1]]).to_event(1))
    sample("y", dist.Bernoulli(logits=alpha + x @ beta), obs=data["y"])


def horseshoe(data):
    x, y = data["X"], data["y"]
    tau = sample("tau", dist.HalfCauchy(1.0))
    sigma = sample("sigma", dist.HalfCauchy(5.0))
    lam = sample("lam", dist.HalfCauchy(1.0).expand([x.shape[1]]).to_event(1))
    z = sample("z", normal(x.shape[1]))
    sample("y", dist.Normal(x @ (tau * lam * z), sigma), obs=y)


def stochastic_volatility(data):
    y = data["y"]
    mu = sample("mu", dist.Normal(0.0, 3.0))
    phi = sample("phi", dist.Uniform(-1.0, 1.0))
    sigma = sample("sigma", dist.HalfCauchy(5.0))
    z = sample("z", normal(len(y)))
    drive = sigma * z.at[0].divide(jnp.sqrt(1 - phi**2))
    h = mu + filtered(phi, drive)
    sample("y", dist.Normal(0.0, jnp.exp(h / 2)), obs=y)


def irt_2pl(data):
    items, persons = data["y"].shape
    sigma_theta = sample("sigma_theta", dist.HalfCauchy(2.0))
    sigma_a = sample("sigma_a", dist.HalfCauchy(2.0))
    mu_b = sample("mu_b", dist.Normal(0.0, 5.0))
    sigma_b = sample("sigma_b", dist.HalfCauchy(2.0))
    theta = sample("theta", dist.Normal(0.0, sigma_theta).expand([persons]).to_event(1))
    a = sample("a", dist.LogNormal(0.0, sigma_a).expand([items]).to_event(1))
    b = sample("b", dist.Normal(mu_b, sigma_b).expand([items]).to_event(1))
    logits = a[:, None] * (theta - b[:, None])
    sample("y", dist.Bernoulli(logits=logits), obs=data["y"])


def radon_hierarchical(data):
    y, floor, county = data["log_radon"], data["floor"], data["county"].astype(int)
    mu_a = sample("mu_a", dist.Normal(0.0, 5.0))
    mu_b = sample("mu_b", dist.Normal(0.0, 5.0))
    sigma_a = sample("sigma_a", dist.HalfNormal(1.0))
    sigma_b = sample("sigma_b", dist.HalfNormal(1.0))
    sigma = sample("sigma", dist.HalfNormal(1.0))
    a = mu_a + sigma_a * sample("z_a", normal(COUNTIES))
    b = mu_b + sigma_b * sample("z_b", normal(COUNTIES))
    sample("log_radon", dist.Normal(a[county] + b[county] * floor, sigma), obs=y)
