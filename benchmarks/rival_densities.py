"""Are the models of rivals.py the same? Their log joint densities, at the same points.

    python benchmarks/rival_densities.py FOLDER [FOLDER ...] [--numpyro PYTHON] [--nutpie PYTHON]

Folders and interpreters are as for rivals.py. The points are ten of the reference draws, and ten
whose sites are of different draws. The table has the largest difference from Pyro's log joint, up
to a constant, relative to its size.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pyro.poutine as poutine
import torch
from rival_files import holder, module
from rivals import NAMES, command
from timing import table

COUNT = 10


def points(reference):
    """Draws, and mixtures of draws: arrays by site."""
    rng = np.random.default_rng(0)
    whole = rng.choice(len(next(iter(reference.values()))), COUNT, replace=False)
    found = {}
    for site, value in reference.items():
        value = value.numpy()
        found[site] = value[np.concatenate([whole, rng.choice(len(value), COUNT)])]
    return found


def densities(model, at):
    """Pyro's log joint density at each of the points."""
    found = []
    for k in range(2 * COUNT):
        point = {site: torch.as_tensor(value[k]) for site, value in at.items()}
        found.append(poutine.trace(poutine.condition(model, point)).get_trace().log_prob_sum())
    return torch.stack(found).numpy()


def gap(ours, theirs):
    """The largest difference but for a constant, relative to the size."""
    apart = theirs - ours
    return np.max(np.abs(apart - np.median(apart)) / (1 + np.abs(ours)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--names", nargs="+", default=NAMES)
    parser.add_argument("--numpyro", help="a Python interpreter that has NumPyro")
    parser.add_argument("--nutpie", help="a Python interpreter that has nutpie and PyMC")
    options = parser.parse_args()
    pythons = {rival: getattr(options, rival) for rival in ("numpyro", "nutpie")}
    rows = [["posterior", *(rival for rival, python in pythons.items() if python)]]
    for name in options.names:
        folder = holder(options.folders, name)
        model, reference = module(folder, "load").load(name)
        at = points(reference)
        ours, row = densities(model, at), [name]
        for rival, python in pythons.items():
            if not python:
                continue
            with tempfile.TemporaryDirectory() as out:
                np.savez(Path(out) / "points.npz", **at)
                line = command(python, rival, folder, name, "density", 0, out)
                subprocess.run(line, check=True)
                with np.load(Path(out) / "density.npz") as found:
                    row.append(f"{gap(ours, found['density']):.0e}")
        rows.append(row)
        print(" ".join(row), flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
