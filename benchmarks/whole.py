"""A whole fit of eight schools beside the eager loop and beside NumPyro's NUTS, in one run.

    OMP_NUM_THREADS=1 python benchmarks/whole.py [--steps 2000] [--rounds 3] [--numpyro PYTHON]

PYTHON is an interpreter of an environment of its own in which NumPyro is installed. All times
include what must be traced or compiled first.
"""

import argparse
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pyro
import torch
from pyro.distributions.transforms import iterated, planar
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormalizingFlow
from pyro.optim import Adam
from timing import table

from pyro_nf import fit
from pyro_nf.examples import EIGHT_SCHOOLS, eight_schools

DATA = EIGHT_SCHOOLS.data


def eager(steps):
    pyro.clear_param_store()
    guide = AutoNormalizingFlow(eight_schools, partial(iterated, 8, planar))
    elbo = Trace_ELBO(64, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(eight_schools, guide, Adam({"lr": 1e-2}), elbo)
    for _ in range(steps):
        svi.step(*DATA)


def ours(steps):
    pyro.clear_param_store()
    fit(eight_schools, *DATA, flow="planar*8", steps=steps, progress=False, refine=False)


def nuts(python):
    """The seconds that the script reports, which has its imports behind it."""
    script = Path(__file__).with_name("numpyro_nuts.py")
    done = subprocess.run([python, str(script)], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--numpyro", help="the interpreter of an environment with NumPyro")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runners = {
        "pyro_nf.fit": partial(ours, options.steps),
        "Pyro's SVI, AutoNormalizingFlow": partial(eager, options.steps),
    }
    if options.numpyro:
        runners["NumPyro NUTS, 4 x (1000 + 1000)"] = partial(nuts, options.numpyro)
    else:
        print("NUTS was not measured: name NumPyro's interpreter with --numpyro", file=sys.stderr)
    times = {name: [] for name in runners}
    for _ in range(options.rounds):
        for name, run in runners.items():
            start = time.perf_counter()
            reported = run()
            times[name].append(reported or time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    base = medians["pyro_nf.fit"]
    rows = [[f"eight schools, {options.steps} steps", "seconds", "times ours"]]
    rows += [[name, f"{value:.1f}", f"{value / base:.1f}"] for name, value in medians.items()]
    print(table(rows))


if __name__ == "__main__":
    main()
