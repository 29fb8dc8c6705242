"""What calibrate finds: faults of known size, by their ranks and by whole fits, and eight schools.

python benchmarks/calibration.py                # ranks, and exact fits that are made wrong
python benchmarks/calibration.py --schools 100  # so many fits of eight schools, in seconds of CPU
"""

import argparse
import time
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal

import pyro_nf
from pyro_nf import Calibration, calibrate
from pyro_nf.examples import EIGHT_SCHOOLS, eight_schools

FAULTS = {"right": {}, "10 % too narrow": {"width": 0.9}, "shifted by 0.2 sd": {"shift": 0.2}}
SIZES = ((100, 1), (100, 10), (300, 1), (300, 10), (1000, 1))  # simulations, numbers
SEEDS = 10
GROUPS, ROWS = 5, 4


def ranks(seed: int, simulations: int, numbers: int, shift: float = 0.0, width: float = 1.0):
    """Ranks of standard normal true values among 199 draws, off by as many deviations."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.randn(simulations, numbers, generator=generator)
    draws = torch.randn(199, simulations, numbers, generator=generator)
    return (shift + width * draws < true).sum(0)


def means(x):
    """Normal means, of which the posterior is known."""
    with pyro.plate("groups", GROUPS):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", ROWS):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


class Exact:
    """The posterior of `means`, off by as many deviations."""

    def __init__(self, model, x, shift=0.0, width=1.0):
        seen = poutine.trace(model).get_trace(x).nodes["x"]["value"]
        sd = (ROWS + 1) ** -0.5
        self.mean, self.sd = seen.sum(0) / (ROWS + 1) + shift * sd, width * sd

    def draws(self, n):
        return {"mean": self.mean + self.sd * torch.randn(n, GROUPS)}


def of_means(seed: int, simulations: int = 300, **fault: float) -> Calibration:
    """Of an exact fit, which is made wrong."""
    fit, data = partial(Exact, **fault), torch.zeros(ROWS, GROUPS)
    return calibrate(means, data, fit=fit, simulations=simulations, seed=seed, progress=False)


def mean_field(model, *args):
    """A normal guide whose draws stay as they are."""
    return pyro_nf.fit(model, *args, guide=AutoNormal(model), refine=False, progress=False)


def table(seeds: int = SEEDS) -> list[str]:
    """How many seeds of so many are called off."""
    lines = [f"| off, of {seeds} seeds | " + " | ".join(FAULTS) + " |", "|---|---|---|---|"]
    for simulations, numbers in SIZES:
        found = [
            sum(
                Calibration({"x": ranks(s, simulations, numbers, **fault)}, 199).verdict == "off"
                for s in range(seeds)
            )
            for fault in FAULTS.values()
        ]
        name = f"ranks, {simulations} simulations, {numbers} numbers"
        lines.append(f"| {name} | " + " | ".join(map(str, found)) + " |")
    found = [
        sum(of_means(seed, **fault).verdict == "off" for seed in range(seeds))
        for fault in FAULTS.values()
    ]
    lines.append(f"| fits, 300 simulations, {GROUPS} numbers | {' | '.join(map(str, found))} |")
    return lines


def schools(simulations: int) -> None:
    """Fits of eight schools by the default call, around a posterior, and by mean field."""
    posterior = pyro_nf.fit(eight_schools, *EIGHT_SCHOOLS.data, seed=0, progress=False)
    ways = {
        "fit": {},
        "fit, around its posterior": {"posterior": posterior},
        "mean field": {"fit": mean_field},
    }
    for name, way in ways.items():
        start = time.process_time()
        found = calibrate(
            eight_schools,
            *EIGHT_SCHOOLS.data,
            simulations=simulations,
            seed=0,
            progress=False,
            **way,
        )
        print(f"\n{name}: {time.process_time() - start:.0f} s of CPU\n{found}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--schools", type=int, metavar="SIMULATIONS")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.schools:
        schools(args.schools)
    else:
        print("\n".join(table()))
