"""NumPyro's answer to a posterior: for rivals.py, whose processes rival_files.py describes.

METHOD is NUTS, 4 x (1000 + 1000) one after the other, or a guide, trained for SECONDS. Time of
compilation is in the seconds, that of imports is not.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import rival_models_numpyro as models
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO, autoguide, init_to_median
from numpyro.infer.util import log_density
from rival_files import arguments, function, now, read, write

DRAWS = 10_000
BLOCK = 100  # steps between two looks at the clock
PARTICLES = 16


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


def densities(model, data, points):
    """The log joint density at each of the points."""
    found = []
    for k in range(len(next(iter(points.values())))):
        point = {site: jnp.asarray(value[k]) for site, value in points.items()}
        found.append(log_density(model, (data,), {}, point)[0])
    return np.array(found)


def main():
    options = arguments()
    numpyro.enable_x64()
    data = read(options.folder, options.name)
    data = {key: jnp.asarray(value) for key, value in data.items()}
    model = getattr(models, function(options.name))
    if options.method == "density":
        with np.load(options.out / "points.npz") as points:
            found = densities(model, data, points)
        np.savez(options.out / "density.npz", density=found)
        return
    start = now()
    if options.method == "NUTS":
        draws = by_nuts(model, data)
    else:
        draws = by_guide(model, data, options.method, options.seconds)
    draws = {key: np.asarray(value) for key, value in draws.items()}
    write(options.out / "cold", start, draws)


if __name__ == "__main__":
    main()
