"""NumPyro's jitted SVI step on eight schools: for benchmarks/steps.py, which starts it.

Prints the seconds until the first step was done, then for every line read the seconds a step.
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, Trace_ELBO, autoguide

EFFECT = jnp.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERROR = jnp.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
STEPS = 200


def model():
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", 8):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("effect", dist.Normal(mu + tau * z, ERROR), obs=EFFECT)


def main(name):
    options = {"num_flows": 2, "hidden_dims": [32, 32]} if name == "AutoIAFNormal" else {}
    guide = getattr(autoguide, name)(model, **options)
    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), Trace_ELBO(num_particles=64))
    start = time.perf_counter()
    state = svi.init(jax.random.PRNGKey(0))
    update = jax.jit(svi.update)
    state, loss = update(state)
    loss.block_until_ready()
    print(time.perf_counter() - start, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(STEPS):
            state, loss = update(state)
        loss.block_until_ready()
        print((time.perf_counter() - start) / STEPS, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
