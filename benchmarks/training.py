"""Does plain SVI train the flow? The ELBO of guides after equal steps, on eight schools.

    OMP_NUM_THREADS=1 python benchmarks/training.py [--steps 4000] [--long 20000]

Prints the ELBO of each guide, on 20,000 fresh draws, and its gap to what a long run of the same
flow reaches.
"""

import argparse
import time
from functools import partial

import pyro
import torch
from pyro.distributions.transforms import iterated, planar
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoIAFNormal, AutoMultivariateNormal, AutoNormalizingFlow
from pyro.optim import CosineAnnealingLR
from timing import table

from pyro_nf import AutoFlowGuide, fit
from pyro_nf.examples import EIGHT_SCHOOLS, eight_schools

DATA = EIGHT_SCHOOLS.data
GUIDES = {
    "AutoFlowGuide, planar*16": lambda: AutoFlowGuide(eight_schools, "planar*16"),
    "Pyro AutoNormalizingFlow, planar*16": lambda: AutoNormalizingFlow(
        eight_schools, partial(iterated, 16, planar)
    ),
    "Pyro AutoIAFNormal": lambda: AutoIAFNormal(eight_schools, hidden_dim=[32], num_transforms=2),
    "Pyro AutoMultivariateNormal": lambda: AutoMultivariateNormal(eight_schools),
}


def elbo(particles):
    return Trace_ELBO(particles, vectorize_particles=True, max_plate_nesting=1)


@torch.no_grad()
def reached(guide):
    return -elbo(20_000).loss(eight_schools, guide, *DATA)


def train(guide, steps):
    """Plain SVI: 64 particles, Adam at 0.02, falling to zero."""
    optim = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.02}, "T_max": steps}
    scheduler = CosineAnnealingLR(optim)
    svi = SVI(eight_schools, guide, scheduler, elbo(64))
    for _ in range(steps):
        svi.step(*DATA)
        scheduler.step()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--long", type=int, default=20_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pyro.set_rng_seed(0)
    longest = AutoFlowGuide(eight_schools, "planar*16")
    alone = {"progress": False, "refine": False}
    fit(eight_schools, *DATA, guide=longest, steps=options.long, lr=0.02, **alone)
    best = reached(longest)
    rows = [["guide", "steps", "seconds", "ELBO", "below the long run"]]
    rows.append(["planar*16, the long run", str(options.long), "", f"{best:.3f}", ""])
    for name, make in GUIDES.items():
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        guide, start = make(), time.perf_counter()
        train(guide, options.steps)
        seconds = time.perf_counter() - start
        value = reached(guide)
        cells = [str(options.steps), f"{seconds:.0f}", f"{value:.3f}", f"{best - value:.3f}"]
        rows.append([name, *cells])
    print(table(rows))


if __name__ == "__main__":
    main()
