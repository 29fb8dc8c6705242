"""Is the default call right? Fits posteriors that have reference draws, and scores the result.

    OMP_NUM_THREADS=1 python benchmarks/posteriors.py FOLDER [NAME ...] [--seeds 0 1 2] [--flow F]

FOLDER holds posteriors with `load.py` (`names()`, `load(name)`, `supports(name)`) and `score.py`
(`score(draws, reference, supports)`). Errors are those of the worst unconstrained coordinate: of
the mean, in reference standard deviations, and of the logarithm of the standard deviation; sw2 is
the sliced Wasserstein distance, and its floor that between two halves of the reference draws. The
draws are those that the call ends with: its guide's, corrected by weights, or of chains, and only
the first can be resampled. k-hat and ESS are always of the guide's weights.
"""

import argparse
import statistics
import sys
import time
import warnings
from pathlib import Path

import torch
from timing import table

from pyro_nf import fit

DRAWS = 10_000
HEAD = [
    *("posterior", "D", "seed", "seconds", "mean", "log sd", "sw2", "floor"),
    *("k-hat", "ESS", "verdict", "mean, resampled", "log sd, resampled"),
]


def judged(load, score, name, seed, **options):
    """The numbers and the row of one fit, with options of fit's."""
    model, reference = load.load(name)
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posterior = fit(model, seed=seed, progress=False, **options)
    seconds = time.process_time() - start
    torch.manual_seed(seed)  # of the draws to judge, which the fit's seed leaves alone
    supports = load.supports(name)
    plain = score.score(posterior.draws(DRAWS), reference, supports)
    better = score.score(posterior.resample(DRAWS), reference, supports)
    diagnosis = posterior.diagnose(DRAWS)
    numbers = {
        "seconds": seconds,
        "mean": plain["mean_worst"],
        "log sd": plain["log_sd_worst"],
        "sw2": plain["sw2"],
        "floor": plain["sw2_floor"],
        "k-hat": diagnosis.k_hat,
        "ESS": diagnosis.ess,
        "mean, resampled": better["mean_worst"],
        "log sd, resampled": better["log_sd_worst"],
    }
    dim = str(posterior.guide.latent_dim)
    text = {"posterior": name, "D": dim, "seed": str(seed), "verdict": diagnosis.verdict}
    return numbers, text | {key: f"{value:.3f}" for key, value in numbers.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--flow", help="a formula; the default of fit if none is given")
    options = parser.parse_args()
    sys.path.insert(0, str(options.folder.resolve()))
    import load
    import score

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    rows, found = [HEAD], []
    for name in options.names or load.names():
        for seed in options.seeds:
            numbers, text = judged(load, score, name, seed, flow=options.flow)
            found.append(numbers)
            rows.append([text[column] for column in HEAD])
            print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    print(table(rows))
    seconds = [numbers["seconds"] for numbers in found]
    print(f"\nmedian {statistics.median(seconds):.1f} s, longest {max(seconds):.1f} s")


if __name__ == "__main__":
    main()
