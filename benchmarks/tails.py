"""Do tails reach heavy tails, and does the default call a funnel?

    OMP_NUM_THREADS=1 python benchmarks/tails.py [--seeds 0 1 2] [--flows default F ...]

Three posteriors whose densities are normalised, so that the ELBO is -KL(q || p):

- `location`: five locations, of which one observation each tells, of a Student-t(2) variable;
- `scales`: five half-Cauchy scales, of which nothing tells;
- `funnel`: Neal's funnel, v ~ N(0, 3) and nine x ~ N(0, exp(v / 2)).

`sd` is the standard deviation of v over the exact one.
"""

import argparse
import statistics
import time
import warnings

import pyro
import pyro.distributions as dist
import torch
from timing import table
from torch.distributions import constraints

from pyro_nf import fit

DRAWS = 10_000
MANY = 100_000  # for the ELBO
DIM = 5
FLOWS = ["default", "affine_coupling*6 + tril", "planar*16"]


def location():
    flat = dist.ImproperUniform(constraints.real_vector, (), (DIM,))
    x = pyro.sample("x", flat)
    with pyro.plate("rows", DIM):
        pyro.sample("y", dist.StudentT(2.0, x, 1.0), obs=torch.zeros(DIM))


def scales():
    pyro.sample("tau", dist.HalfCauchy(torch.ones(DIM)).to_event(1))


def funnel():
    v = pyro.sample("v", dist.Normal(torch.zeros(()), 3.0))
    with pyro.plate("rows", 9):
        pyro.sample("x", dist.Normal(0.0, (v / 2).exp()))


def judged(model, flow, seed):
    """ELBO, sd(v) over 3 for the funnel, k-hat and seconds of one fit."""
    pyro.clear_param_store()
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posterior = fit(model, flow=flow, seed=seed, progress=False, refine=False)
    seconds = time.perf_counter() - start
    torch.manual_seed(seed)
    elbo = float(posterior.log_weights(MANY).mean())
    k_hat = posterior.diagnose(DRAWS).k_hat
    spread = float(posterior.draws(MANY)["v"].std()) / 3 if model is funnel else float("nan")
    return elbo, k_hat, spread, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--flows", nargs="+", default=FLOWS, help="formulas, or default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    rows = [["posterior", "flow", "ELBO", "k-hat", "sd", "seconds"]]
    for model in (location, scales, funnel):
        for flow in options.flows:
            formula = None if flow == "default" else flow
            found = [judged(model, formula, seed) for seed in options.seeds]
            elbos, k_hats, spreads, seconds = zip(*found, strict=True)
            cells = [", ".join(f"{x:.2f}" for x in part) for part in (elbos, k_hats)]
            cells.append(", ".join(f"{x:.2f}" for x in spreads) if model is funnel else "")
            rows.append([model.__name__, flow, *cells, f"{statistics.median(seconds):.0f}"])
            print(" ".join(rows[-1]), flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
