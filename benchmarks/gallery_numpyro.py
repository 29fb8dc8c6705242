"""NumPyro's NUTS on models of the gallery: for benchmarks/gallery.py, which starts it.

    python gallery_numpyro.py NAME DATA OUT.npz [--long]

DATA is a pickled list of arrays, those that the model takes. The draws go to OUT, and the seconds
of CPU are printed, with those of compilation, without imports. Hierarchies are not centred. Some
models stand in gallery_numpyro_sums.py.
"""

import argparse
import math
import pickle
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from gallery_numpyro_sums import MODELS
from jax import lax
from numpyro.infer import MCMC, NUTS, init_to_median

sample = numpyro.sample

# Transitions of the warm-up and after it, chains, and the share to accept.
SHORT = 1000, 1000, 4, 0.8
LONG = 2000, 2500, 8, 0.97


def schools(sigma, y):
    mu = sample("mu", dist.Normal(0, 5))
    tau = sample("tau", dist.HalfCauchy(5))
    z = sample("z", dist.Normal(0, 1).expand([8]))
    theta = numpyro.deterministic("theta", mu + tau * z)
    sample("obs", dist.Normal(theta, sigma), obs=y)


def baseball(at_bats, hits):
    m = sample("m", dist.Uniform(0, 1))
    kappa = sample("kappa", dist.Pareto(1, 1.5))
    with numpyro.plate("players", len(hits)):
        phi = sample("phi", dist.Beta(m * kappa, (1 - m) * kappa))
        sample("obs", dist.Binomial(at_bats, phi), obs=hits)


def robust(x, y):
    alpha = sample("alpha", dist.Normal(0, 10))
    beta = sample("beta", dist.Normal(0, 10))
    sigma = sample("sigma", dist.HalfCauchy(2.5))
    nu = sample("nu", dist.Gamma(2.0, 0.1))
    sample("y", dist.StudentT(nu, alpha + beta * x, sigma), obs=y)


def horseshoe(x, y):
    tau = sample("tau", dist.HalfCauchy(0.2))
    lam = sample("lam", dist.HalfCauchy(jnp.ones(15)))
    z = sample("z", dist.Normal(jnp.zeros(15), 1.0))
    alpha = sample("alpha", dist.Normal(0.0, 2.0))
    sample("y", dist.Bernoulli(logits=alpha + x @ (z * lam * tau)), obs=y)


def radon(county, floor, y):
    mu_a = sample("mu_a", dist.Normal(0.0, 1.0))
    sigma_a = sample("sigma_a", dist.HalfCauchy(1.0))
    z = sample("z", dist.Normal(0.0, 1.0).expand([20]))
    a = numpyro.deterministic("a", mu_a + sigma_a * z)
    b = sample("b", dist.Normal(0.0, 1.0))
    sigma = sample("sigma", dist.HalfCauchy(1.0))
    sample("y", dist.Normal(a[county] + b * floor, sigma), obs=y)


def two_parameters(jj, ii, y):
    theta = sample("theta", dist.Normal(0.0, 1.0).expand([40]))
    a = sample("a", dist.LogNormal(0.0, 0.5).expand([6]))
    b = sample("b", dist.Normal(0.0, 2.0).expand([6]))
    sample("y", dist.Bernoulli(logits=a[ii] * (theta[jj] - b[ii])), obs=y)


def roaches(x, exposure, y):
    alpha = sample("alpha", dist.Normal(0.0, 5.0))
    beta = sample("beta", dist.Normal(0.0, 2.5).expand([3]))
    phi = sample("phi", dist.Exponential(1.0))
    mu = exposure * jnp.exp(alpha + x @ beta)
    sample("y", dist.GammaPoisson(phi, phi / mu), obs=y)


def rats(x, y):
    alpha_c = sample("alpha_c", dist.Normal(200.0, 100.0))
    beta_c = sample("beta_c", dist.Normal(0.0, 20.0))
    sigma_a = sample("sigma_a", dist.HalfCauchy(25.0))
    sigma_b = sample("sigma_b", dist.HalfCauchy(5.0))
    sigma = sample("sigma", dist.HalfCauchy(25.0))
    alpha = sample("alpha", dist.Normal(alpha_c, sigma_a).expand([30]))
    beta = sample("beta", dist.Normal(beta_c, sigma_b).expand([30]))
    mean = alpha[:, None] + beta[:, None] * (x - x.mean())
    sample("Y", dist.Normal(mean, sigma), obs=y)


def slopes(county, floor, y):
    sigma = sample("sigma", dist.Exponential(1.0))
    sds = sample("sds", dist.Exponential(jnp.ones(2)))
    factor = sample("L", dist.LKJCholesky(2, 2.0))
    mean = sample("mean", dist.Normal(jnp.zeros(2), 2.0))
    z = sample("z", dist.Normal(0.0, 1.0).expand([12, 2]))
    ab = numpyro.deterministic("ab", mean + z @ (sds[:, None] * factor).T)
    sample("y", dist.Normal(ab[county, 0] + ab[county, 1] * floor, sigma), obs=y)


def lkj(y):
    theta = sample("theta", dist.HalfCauchy(jnp.ones(5)))
    factor = sample("L_omega", dist.LKJCholesky(5, 1.0))
    scale_tril = jnp.sqrt(theta)[:, None] * factor
    sample("obs", dist.MultivariateNormal(jnp.zeros(5), scale_tril=scale_tril), obs=y)


def skim(x, y):
    rows, columns, large = *x.shape, 3
    sigma = sample("sigma", dist.HalfNormal(3.0))
    phi = sigma * (large / math.sqrt(rows)) / (columns - large)
    eta1 = sample("eta1", dist.HalfCauchy(phi))
    msq = sample("msq", dist.InverseGamma(3.0, 1.0))
    xisq = sample("xisq", dist.InverseGamma(3.0, 1.0))
    eta2 = eta1**2 * jnp.sqrt(xisq) / msq
    lam = sample("lambda", dist.HalfCauchy(jnp.ones(columns)))
    x = x * jnp.sqrt(msq) * lam / jnp.sqrt(msq + (eta1 * lam) ** 2)
    dot = x @ x.T
    k = 0.5 * eta2**2 * (1 + dot) ** 2 - 0.5 * eta2**2 * (x**2 @ (x**2).T)
    k = k + (eta1**2 - eta2**2) * dot + 1.0 + sigma**2 * jnp.eye(rows)
    sample("Y", dist.MultivariateNormal(jnp.zeros(rows), covariance_matrix=k), obs=y)


def process(x, y):
    var = sample("kernel_var", dist.LogNormal(0.0, 3.0))
    noise = sample("kernel_noise", dist.LogNormal(0.0, 3.0))
    length = sample("kernel_length", dist.LogNormal(0.0, 3.0))
    k = var * jnp.exp(-0.5 * ((x[:, None] - x) / length) ** 2)
    k = k + (noise + 1e-6) * jnp.eye(len(x))
    sample("Y", dist.MultivariateNormal(jnp.zeros(len(x)), covariance_matrix=k), obs=y)


def saas(x, y):
    outputscale = sample("outputscale", dist.Gamma(2.0, 0.15))
    mean = sample("mean", dist.Normal(0.0, 1.0))
    noise = sample("noise", dist.Gamma(0.9, 10.0))
    tausq = sample("kernel_tausq", dist.HalfCauchy(0.1))
    inverse = sample("_kernel_inv_length_sq", dist.HalfCauchy(jnp.ones(8)))
    scaled = x * jnp.sqrt(tausq * inverse)
    gap = scaled[:, None] - scaled[None]
    r = jnp.sqrt(5 * jnp.clip((gap**2).sum(-1), 1e-20))
    k = outputscale * (1 + r + r**2 / 3) * jnp.exp(-r) + noise * jnp.eye(len(x))
    sample("Y", dist.MultivariateNormal(mean * jnp.ones(len(x)), k), obs=y)


def volatility_walk(returns):
    step = sample("sigma", dist.Exponential(10.0))
    start = sample("start", dist.Normal(0.0, 2.0))
    s = sample("s", dist.Normal(jnp.zeros(len(returns)), 1.0))
    nu = sample("nu", dist.Exponential(0.1))
    sample("r", dist.StudentT(nu, 0.0, jnp.exp(start + step * jnp.cumsum(s))), obs=returns)


def volatility(y):
    mu = sample("mu", dist.Normal(0.0, 3.0))
    phi = sample("phi", dist.Uniform(-1.0, 1.0))
    sigma = sample("sigma", dist.HalfNormal(1.0))
    z = sample("z", dist.Normal(jnp.zeros(len(y)), 1.0))

    def next_one(h, noise):
        h = mu + phi * (h - mu) + sigma * noise
        return h, h

    first = mu + sigma * z[0] / jnp.sqrt(1 - phi**2)
    _, rest = lax.scan(next_one, first, z[1:])
    h = jnp.concatenate([first[None], rest])
    sample("y", dist.Normal(0.0, jnp.exp(h / 2)), obs=y)


def sir(cases):
    boys, steps = 763.0, 4
    beta = sample("beta", dist.LogNormal(0.5, 0.5))
    gamma = sample("gamma", dist.LogNormal(-0.9, 0.5))
    phi = 1 / sample("phi_inv", dist.Exponential(5.0))

    def step(state, _):
        s, i = state
        new, out = beta * i * s / boys / steps, gamma * i / steps
        state = s - new, i + new - out
        return state, state[1]

    _, ill = lax.scan(step, (boys - 1, 1.0), None, length=steps * len(cases))
    sample("cases", dist.GammaPoisson(phi, phi / ill[steps - 1 :: steps]), obs=cases)


def lynx(pelts):
    steps = 8
    alpha = sample("alpha", dist.LogNormal(jnp.log(0.55), 0.5))
    beta = sample("beta", dist.LogNormal(jnp.log(0.028), 0.5))
    gamma = sample("gamma", dist.LogNormal(jnp.log(0.8), 0.5))
    delta = sample("delta", dist.LogNormal(jnp.log(0.024), 0.5))
    sigma = sample("sigma", dist.LogNormal(jnp.full((2,), -1.0), 1.0))
    z0 = sample("z0", dist.LogNormal(jnp.full((2,), jnp.log(10.0)), 1.0))

    def step(z, _):
        u, v = z
        z = z + jnp.stack([(alpha - beta * v) * u, (-gamma + delta * u) * v]) / steps
        return z, z

    _, path = lax.scan(step, z0, None, length=steps * (len(pelts) - 1))
    z = jnp.concatenate([z0[None], path[steps - 1 :: steps]])
    sample("pelts", dist.LogNormal(jnp.log(z), sigma), obs=pelts)


def autoregression(y):
    alpha = sample("alpha", dist.Normal(0, 5))
    beta = sample("beta", dist.Normal(0, 5).expand([2]))
    sigma = sample("sigma", dist.HalfCauchy(2.5))
    sample("y", dist.Normal(alpha + beta[0] * y[1:-1] + beta[1] * y[:-2], sigma), obs=y[2:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--long", action="store_true", help="more chains, of smaller steps")
    options = parser.parse_args()
    numpyro.enable_x64()
    model = MODELS.get(options.name) or globals()[options.name]
    data = [jnp.asarray(value) for value in pickle.loads(options.data.read_bytes())]
    start = time.process_time()
    warm_up, kept, chains, accept = LONG if options.long else SHORT
    kernel = NUTS(model, init_strategy=init_to_median, target_accept_prob=accept)
    counts = {"num_warmup": warm_up, "num_samples": kept, "num_chains": chains}
    mcmc = MCMC(kernel, **counts, chain_method="sequential", progress_bar=False)
    mcmc.run(jax.random.PRNGKey(0), *data)
    draws = {name: np.asarray(value) for name, value in mcmc.get_samples(True).items()}
    print(time.process_time() - start)
    np.savez(options.out, **draws)


if __name__ == "__main__":
    main()
