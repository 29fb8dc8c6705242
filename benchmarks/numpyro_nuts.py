"""NumPyro's NUTS on eight schools, 4 x (1000 + 1000): for benchmarks/whole.py, which starts it.

Prints the seconds that it took, compile time included and imports not.
"""

import time

import jax
import numpyro
from numpyro.infer import MCMC, NUTS
from numpyro_step import model


def main():
    numpyro.set_host_device_count(1)
    start = time.perf_counter()
    mcmc = MCMC(
        NUTS(model),
        num_warmup=1000,
        num_samples=1000,
        num_chains=4,
        chain_method="sequential",
        progress_bar=False,
    )
    mcmc.run(jax.random.PRNGKey(0))
    mcmc.get_samples()["tau"].block_until_ready()
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
