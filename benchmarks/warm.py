"""What does a second fit cost? The same model, again and on a bootstrap of its data.

    OMP_NUM_THREADS=1 python benchmarks/warm.py [FOLDER] [NAME ...] [--refine | --no-refine]
        [--compile auto full]

FOLDER holds posteriors with `load.py` (`load_data(name)`, and `models` with a function of the data
for each name); without one there are eight schools alone. Cold is the first fit, in a process of
its own for each row, with nothing of inductor's on the disk; again is the same fit with the same
seed, which takes the engines of the first and comes to the same draws, to the last bit; other is a
fit to rows of the data that were drawn with replacement. Seconds are of CPU, which other processes
do not change much.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from timing import table

from pyro_nf import fit
from pyro_nf.examples import EIGHT_SCHOOLS, eight_schools

NAMES = ["sonar", "german_credit"]
OWN = "eight_schools"
HEAD = ["posterior", "compile", "cold [s]", "again [s]", "other [s]", "cold / again", "same draws"]


def bootstrap(data):
    """As many rows, drawn with replacement."""
    sizes = {len(part) for part in data.values() if part.dim()}
    (size,) = sizes
    rows = torch.randint(size, (size,))
    return {name: part[rows] if part.dim() else part for name, part in data.items()}


def problem(folder, name):
    """A function from data to a model, and the data."""
    if name == OWN:
        effect, error = EIGHT_SCHOOLS.data
        return lambda data: lambda: eight_schools(**data), {"effect": effect, "error": error}
    sys.path.insert(0, str(folder.resolve()))
    import load

    torch.set_default_dtype(torch.float64)
    return getattr(load.models, name), load.load_data(name)


def fitted(model, **options):
    """The CPU seconds of a fit, and draws."""
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posterior = fit(model, seed=0, progress=False, **options)
    seconds = time.process_time() - start
    torch.manual_seed(0)
    return seconds, posterior.draws(100)


def raced(folder, name, options):
    """The row of one posterior."""
    make, data = problem(folder, name)
    torch.manual_seed(0)
    (cold, draws), (again, same), (other, _) = (
        fitted(make(each), **options) for each in (data, data, bootstrap(data))
    )
    equal = all(torch.equal(draws[site], same[site]) for site in draws)
    numbers = [f"{seconds:.2f}" for seconds in (cold, again, other)]
    last = [f"{cold / again:.1f}", "yes" if equal else "no"]
    return [name, options["compile"], *numbers, *last]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--refine", action=argparse.BooleanOptionalAction)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--compile", nargs="+", default=["auto", "full"])
    asked = parser.parse_args()
    names = [OWN] + ([] if asked.folder is None else asked.names or NAMES)
    rows = [HEAD]
    context = multiprocessing.get_context("spawn")  # a process that has compiled nothing
    for name in names:
        for mode in asked.compile:
            options = {"compile": mode, "refine": asked.refine, "steps": asked.steps}
            with tempfile.TemporaryDirectory() as empty, ProcessPoolExecutor(1, context) as pool:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty  # which the process inherits
                rows.append(pool.submit(raced, asked.folder, name, options).result())
            print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
