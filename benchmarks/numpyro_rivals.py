"""NumPyro's answer to a posterior: for benchmarks/rivals.py, which starts it in its environment.

    python numpyro_rivals.py NAME DATA.json[.gz] METHOD SECONDS OUT.npz

METHOD is a guide, trained for so many seconds with compile time included, or NUTS, 4 x (1000 +
1000). The draws go to OUT, and the seconds are printed; those of the imports do not count.
"""

import gzip
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO, autoguide, init_to_median

DRAWS = 10_000
BLOCK = 100  # steps between two looks at the clock
PARTICLES = 16


def standardised(x, sd=1.0):
    return sd * (x - x.mean(0)) / x.std(0)


def eight_schools_noncentered(data):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", len(data["y"])):
        z = numpyro.sample("theta_trans", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu + tau * z, data["sigma"]), obs=data["y"])


def arK(data):  # noqa: N802  # the posterior's name
    y, order = data["y"], 5
    lags = jnp.stack([y[order - k : len(y) - k] for k in range(1, order + 1)], -1)
    alpha = numpyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = numpyro.sample("beta", dist.Normal(0.0, 10.0).expand([order]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    numpyro.sample("y", dist.Normal(alpha + lags @ beta, sigma), obs=y[order:])


def german_credit(data):
    x = standardised(data["X"])
    alpha = numpyro.sample("alpha", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(1.0))
    z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=alpha + tau * (x @ z)), obs=data["y"])


def sonar(data):
    x = standardised(data["X"], 0.5)
    alpha = numpyro.sample("alpha", dist.Normal(0.0, 20.0))
    beta = numpyro.sample("beta", dist.Normal(0.0, 5.0).expand([x.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=alpha + x @ beta), obs=data["y"])


def student_t2(data):
    x = data["X"]
    flat = dist.ImproperUniform(dist.constraints.real, (), (x.shape[1],))
    beta = numpyro.sample("beta", flat)
    log_sigma = numpyro.sample("log_sigma", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.sample("y", dist.StudentT(2.0, x @ beta, jnp.exp(log_sigma)), obs=data["y"])


def by_nuts(model, data):
    kernel = NUTS(model, init_strategy=init_to_median)
    counts = {"num_warmup": 1000, "num_samples": 1000, "num_chains": 4}
    mcmc = MCMC(kernel, **counts, chain_method="sequential", progress_bar=False)
    mcmc.run(jax.random.PRNGKey(0), data)
    return mcmc.get_samples()


def by_guide(model, data, name, seconds):
    start = time.perf_counter()
    guide = getattr(autoguide, name)(model)
    svi = SVI(model, guide, numpyro.optim.Adam(1e-2), Trace_ELBO(num_particles=PARTICLES))
    state = svi.init(jax.random.PRNGKey(0), data)

    @jax.jit
    def block(state):
        return jax.lax.fori_loop(0, BLOCK, lambda _, s: svi.stable_update(s, data)[0], state)

    while time.perf_counter() - start < seconds:
        state = jax.block_until_ready(block(state))
    key = jax.random.PRNGKey(1)
    return guide.sample_posterior(key, svi.get_params(state), sample_shape=(DRAWS,))


def main():
    name, file, method, seconds, out = sys.argv[1:]
    numpyro.enable_x64()
    raw = Path(file).read_bytes()
    data = json.loads(gzip.decompress(raw) if file.endswith(".gz") else raw)
    data = {key: jnp.asarray(value, dtype=float) for key, value in data.items()}
    model = globals()[name]
    start = time.perf_counter()
    if method == "NUTS":
        draws = by_nuts(model, data)
    else:
        draws = by_guide(model, data, method, float(seconds))
    draws = {key: np.asarray(value) for key, value in draws.items()}
    print(time.perf_counter() - start)
    np.savez(out, **draws)


if __name__ == "__main__":
    main()
