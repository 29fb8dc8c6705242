"""Which recipe should be the default? Posteriors with reference draws, one choice at a time.

    OMP_NUM_THREADS=1 python benchmarks/sweep.py FOLDER [NAME ...] [--only N ...]

FOLDER is as for posteriors.py. A row is a recipe; `within` counts the posteriors whose worst mean
is off by no more than 0.05 standard deviations and whose worst log standard deviation is off by no
more than 0.05. It is the guide that a recipe trains, and that is judged: `refine=False`.
"""

import argparse
import statistics
import sys
from pathlib import Path

import torch
from posteriors import judged
from timing import table

RECIPES = [
    {},
    {"flow": "diag"},
    {"flow": "planar*16"},
    {"flow": "affine_coupling*2 + tails + tril + tails"},
    {"flow": "affine_coupling*12 + tails + tril + tails"},
    {"flow": "affine_coupling(hidden=(32,))*6 + tails + tril + tails"},
    {"flow": "(affine_coupling*2 + permute)*3 + tails + tril + tails"},
    {"flow": "affine_coupling*6"},
    {"flow": "affine_coupling*6 + tril + tails"},
    {"flow": "spline_coupling*4 + tails + tril + tails"},
    {"flow": "iaf*2 + tails + tril + tails"},
    {"particles": 16},
    {"particles": 256},
    {"lr": 3e-3},
    {"lr": 3e-2},
]
HEAD = ["recipe", "within", "mean, worst", "log sd, worst", "ESS, median", "k-hat < 0.7"]
HEAD += ["seconds, median", "longest"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--only", type=int, nargs="+", help="recipes, by their place in the list")
    options = parser.parse_args()
    sys.path.insert(0, str(options.folder.resolve()))
    import load
    import score

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    rows = [HEAD]
    names = options.names or load.names()
    for place in options.only or range(len(RECIPES)):
        recipe = RECIPES[place]
        found = [judged(load, score, name, 0, refine=False, **recipe)[0] for name in names]
        within = sum(max(f["mean"], f["log sd"]) <= 0.05 for f in found)
        shown = ", ".join(f"{key}={value}" for key, value in recipe.items()) or "default"
        numbers = [
            f"{max(f['mean'] for f in found):.3f}",
            f"{max(f['log sd'] for f in found):.3f}",
            f"{statistics.median(f['ESS'] for f in found):.3f}",
            f"{sum(f['k-hat'] < 0.7 for f in found)}",
            f"{statistics.median(f['seconds'] for f in found):.1f}",
            f"{max(f['seconds'] for f in found):.1f}",
        ]
        rows.append([shown, f"{within} of {len(found)}", *numbers])
        print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
