"""What the processes of rivals.py share: data, clocks and files. Needs NumPy alone.

Each of the scripts that rivals.py starts, in an environment of its own, is called as

    python SCRIPT FOLDER NAME METHOD SECONDS OUT

and answers the posterior NAME of FOLDER by METHOD: cold, with nothing compiled yet, and warm, on
the second data set, if what has been compiled is good for it. SECONDS are what a method has that
would not end by itself. Draws, seconds and a note go to the folder OUT: `cold.npz`, `cold.json`,
`warm.npz`, `warm.json`. With `density` as METHOD nothing is drawn: `density.npz` has the log joint
density at the points of `points.npz` in OUT.
"""

import argparse
import gzip
import importlib.util
import json
import os
import time
from pathlib import Path

import numpy as np

OBSERVED = {"diamonds": "Y", "gp_pois_regr": "k", "radon_hierarchical": "log_radon"}  # else y
COUNTS = ["gp_pois_regr"]
NOISE = 0.1  # sds that are added to real data
FLIPPED = 0.05  # the share of binary data


def arguments():
    """Of one of the scripts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument("method")
    parser.add_argument("seconds", type=float)
    parser.add_argument("out", type=Path)
    return parser.parse_args()


def function(name):
    """The model of a posterior: posteriordb has names of data set and model."""
    return name.split("-")[-1]


def observed(name):
    """Which of the data the model observes."""
    return OBSERVED.get(function(name), "y")


def holder(folders, name):
    """The folder that has a posterior."""
    return next(f for f in folders if list((f / "data").glob(f"{name}.json*")))


def module(folder, stem):
    """A file of one of the folders, all of which have a load.py and a score.py."""
    file = folder / f"{stem}.py"
    spec = importlib.util.spec_from_file_location(f"{folder.name}_{stem}", file)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def read(folder, name):
    """The data of a posterior, as arrays of float64, as load.py has them."""
    file = next((folder / "data").glob(f"{name}.json*"))
    raw = file.read_bytes()
    data = json.loads(gzip.decompress(raw) if file.suffix == ".gz" else raw)
    return {key: np.asarray(value, dtype=float) for key, value in data.items()}


def second(name, data):
    """What is observed the second time, in the shape of the first: the same, and noise."""
    rng, y = np.random.default_rng(0), data[observed(name)]
    if function(name) in COUNTS:
        return rng.poisson(y).astype(float)
    if set(np.unique(y)) <= {0, 1}:
        return np.abs(y - (rng.random(y.shape) < FLIPPED))
    return y + NOISE * y.std() * rng.standard_normal(y.shape)


def now():
    """Seconds of wall and of CPU, with those of compilers that were started and have ended."""
    cpu = os.times()
    used = cpu.user + cpu.system + cpu.children_user + cpu.children_system
    return np.array([time.perf_counter(), used])


def write(out, start, draws, note=""):
    """Draws, and the seconds since start, to OUT.npz and OUT.json, the latter last."""
    wall, cpu = now() - start
    np.savez(out.with_suffix(".npz"), **{key: np.asarray(value) for key, value in draws.items()})
    found = {"wall": wall, "cpu": cpu, "note": note}
    out.with_suffix(".json").write_text(json.dumps(found) + "\n")
