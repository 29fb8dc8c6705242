"""Is a verdict true? Fits that are made to fail, on posteriors with reference draws.

    OMP_NUM_THREADS=1 python benchmarks/verdicts.py FOLDER [NAME ...] [--seeds 0 1 2] [--ways W ...]

FOLDER is as for `posteriors.py`, and so are the errors, of means and log standard deviations. Each
way to fail is judged by `diagnose()`. A fit is wrong where an error is above 0.15, and right where
they are below 0.1 and 0.12; what lies between may be called either. Rows are printed as they come.
"""

import argparse
import sys
import time
import warnings
from pathlib import Path

import pyro
import torch
from pyro.infer.autoguide import AutoDiagonalNormal, AutoMultivariateNormal
from timing import table

from pyro_nf import AutoFlowGuide, Posterior, fit

DRAWS = 10_000
WRONG, RIGHT = (0.15, 0.15), (0.1, 0.12)
FEW = (5, 20, 60)  # steps
SHIFT = 0.1  # standard deviations
HEAD = ["posterior", "way", "seed", "mean", "log sd", "verdict", "seconds"]


def few_steps(steps, refine):
    """The default call, cut short."""

    def way(model, seed):
        return fit(model, steps=steps, seed=seed, progress=False, refine=refine)

    return way


def guided(make, refine):
    """A normal guide, which is the wrong family for most of them."""

    def way(model, seed):
        pyro.set_rng_seed(seed)
        guide = make(model)
        return fit(model, guide=guide, seed=seed, progress=False, refine=refine)

    return way


def one_mode(model):
    """A flow guide that starts, narrow, at a draw of its own: of several modes it knows one."""
    return AutoFlowGuide(model, "tril", init_scale=0.1)


def shifted(refine):
    """A normal guide that has been trained, and then moved by a tenth of a standard deviation."""

    def way(model, seed):
        guide = AutoMultivariateNormal(model)
        fit(model, guide=guide, seed=seed, progress=False, refine=False)
        place = seed % guide.latent_dim
        with torch.no_grad():
            guide.loc[place] += SHIFT * guide.get_posterior().stddev[place]
        posterior = Posterior(model, guide)
        return posterior.refine(seed=seed, progress=False) if refine else posterior

    return way


WAYS = {f"{steps} steps": few_steps(steps, None) for steps in FEW}
WAYS |= {f"{steps} steps, guide alone": few_steps(steps, False) for steps in FEW}
for name, make in (("mean field", AutoDiagonalNormal), ("normal", AutoMultivariateNormal)):
    WAYS |= {f"{name}, guide alone": guided(make, False), name: guided(make, None)}
WAYS |= {"one mode, guide alone": guided(one_mode, False), "one mode": guided(one_mode, None)}
WAYS |= {"shifted, guide alone": shifted(False), "shifted": shifted(True)}


def judged(load, score, name, way, seed):
    """The row of one fit."""
    model, reference = load.load(name)
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posterior = WAYS[way](model, seed)
        torch.manual_seed(seed)
        verdict = posterior.diagnose().verdict
    found = score.score(posterior.draws(DRAWS), reference, load.supports(name))
    seconds = time.process_time() - start
    errors = [found["mean_worst"], found["log_sd_worst"]]
    return [name, way, str(seed), *(f"{x:.3f}" for x in errors), verdict, f"{seconds:.1f}"]


def counted(rows):
    """For the fits with chains and for guides alone: how many are wrong, and right, and called."""
    lines = [["fits", "number", "wrong", "of these good", "right", "of these not good"]]
    for title, alone in (("default", False), ("guide alone", True)):
        chosen = [row for row in rows if row[1].endswith("guide alone") == alone]
        errors = [(float(row[3]), float(row[4])) for row in chosen]
        wrong = [row for row, e in zip(chosen, errors, strict=True) if _above(e, WRONG)]
        right = [row for row, e in zip(chosen, errors, strict=True) if not _above(e, RIGHT)]
        good = sum(row[5] == "good" for row in wrong)
        warned = sum(row[5] != "good" for row in right)
        counts = [len(chosen), len(wrong), good, len(right), warned]
        lines.append([title, *map(str, counts)])
    return lines


def _above(errors, marks):
    """Whether an error is above its mark, or no number."""
    return not all(error <= mark for error, mark in zip(errors, marks, strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    options = parser.parse_args()
    sys.path.insert(0, str(options.folder.resolve()))
    import load
    import score

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    rows = []
    for name in options.names or load.names():
        for seed in options.seeds:
            for way in options.ways:
                rows.append(judged(load, score, name, way, seed))
                print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    print(table([HEAD, *rows]))
    print()
    print(table(counted(rows)))


if __name__ == "__main__":
    main()
