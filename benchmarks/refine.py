"""Is fit(refine=True) right? A round of training, and chains, on posteriors with reference draws.

    OMP_NUM_THREADS=1 python benchmarks/refine.py FOLDER [NAME ...] [--seeds 0 1 2] [--steps N]

FOLDER is as for `posteriors.py`, and so are the errors: of the worst unconstrained coordinate, of
the mean, in reference standard deviations, and of the logarithm of the standard deviation. Seconds
are of CPU, which other processes do not change much.
"""

import argparse
import itertools
import sys
import time
import warnings
from pathlib import Path

import torch
from timing import table

from pyro_nf import fit

DRAWS = 10_000
HEAD = [
    *("posterior", "D", "seed", "fit [s]", "mean", "log sd"),
    *("chains", "R-hat", "verdict", "diagnose [s]"),
]


def refined(load, score, name, seed, steps):
    """The row of one fit."""
    model, reference = load.load(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        times = [time.process_time()]
        posterior = fit(model, seed=seed, steps=steps, refine=True, progress=False)
        times.append(time.process_time())
        torch.manual_seed(seed)
        verdict = posterior.diagnose().verdict
        times.append(time.process_time())
    errors = score.score(posterior.draws(DRAWS), reference, load.supports(name))
    fitted, diagnosed = (f"{b - a:.1f}" for a, b in itertools.pairwise(times))
    found = posterior.refinement
    row = [name, str(posterior.guide.latent_dim), str(seed), fitted]
    row += [f"{errors['mean_worst']:.3f}", f"{errors['log_sd_worst']:.3f}"]
    row += [f"{found.chains} x {found.transitions}", f"{found.worst:.4f}", verdict, diagnosed]
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, help="of the fit before, by default one round")
    options = parser.parse_args()
    sys.path.insert(0, str(options.folder.resolve()))
    import load
    import score

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    rows = [HEAD]
    for name in options.names or load.names():
        for seed in options.seeds:
            rows.append(refined(load, score, name, seed, options.steps))
            print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
