"""What does refinement make of a short fit? Posteriors that have reference draws.

    OMP_NUM_THREADS=1 python benchmarks/refine.py FOLDER [NAME ...] [--seeds 0 1 2] [--steps 400]

FOLDER is as for `posteriors.py`, and so are the errors: of the worst unconstrained coordinate, of
the mean, in reference standard deviations, and of the logarithm of the standard deviation. Seconds
are of CPU, which other processes do not change much.
"""

import argparse
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
    *("refine [s]", "mean", "log sd", "chains", "R-hat", "verdict"),
]


def refined(load, score, name, seed, steps):
    """The row of one fit."""
    model, reference = load.load(name)
    supports = load.supports(name)

    def errors(posterior):
        torch.manual_seed(seed)
        found = score.score(posterior.draws(DRAWS), reference, supports)
        return [f"{found['mean_worst']:.3f}", f"{found['log_sd_worst']:.3f}"]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.process_time()
        before = fit(model, seed=seed, steps=steps, progress=False)
        middle = time.process_time()
        after = before.refine(DRAWS, seed=seed, progress=False)
        end = time.process_time()
        verdict = after.diagnose().verdict
    found = after.refinement
    row = [name, str(before.guide.latent_dim), str(seed)]
    row += [f"{middle - start:.1f}", *errors(before), f"{end - middle:.1f}", *errors(after)]
    row += [f"{found.chains} x {found.transitions}", f"{found.worst:.4f}", verdict]
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=400, help="of the fit before")
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
