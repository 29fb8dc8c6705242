"""Is anything better in the same time? Each posterior by `fit`, and by others in as many seconds.

    OMP_NUM_THREADS=1 python benchmarks/rivals.py FOLDER [NAME ...] [--numpyro PYTHON] [--methods M]

FOLDER is as for posteriors.py. Pyro's guides are trained eagerly with 16 particles and Adam, whose
rate falls from 1e-2 to zero by the end of their time; NumPyro's with Adam at 1e-2, compile time
included. NUTS takes the time that it takes, 4 x (1000 + 1000). After it comes the first of fits of
200, 400 and more steps that is as near as NUTS in mean and log sd, or the last, of 6,400: the time
to an equal error, without that of the fits before. `sw2` is the sliced Wasserstein distance to the
reference draws, whose floor is that between two halves of these.
"""

import argparse
import math
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pyro
import torch
from pyro.distributions import transforms
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoIAFNormal, AutoMultivariateNormal, AutoNormalizingFlow
from timing import table

from pyro_nf import Posterior, fit
from pyro_nf.model.target import Target

DRAWS = 10_000
PARTICLES = 16
LR = 1e-2
NUMPYRO = ["AutoIAFNormal", "AutoBNAFNormal", "NUTS"]
TRANSLATED = ["eight_schools_noncentered", "arK", "german_credit", "sonar", "student_t2"]
HEAD = ["posterior", "method", "seconds", "times ours", "mean", "log sd", "sw2", "floor"]


def planar(model):
    """Pyro's flow guide with sixteen of Pyro's planar flows."""
    return AutoNormalizingFlow(model, partial(transforms.iterated, 16, transforms.planar))


SHORTEST, LONGEST = 200, 6400  # steps of the fits that are to be as near as NUTS

GUIDES = {
    "Pyro AutoMultivariateNormal": AutoMultivariateNormal,
    "Pyro AutoIAFNormal": lambda model: AutoIAFNormal(model, num_transforms=3),
    "Pyro AutoNormalizingFlow": planar,
}


def trained(model, make, seconds):
    """A posterior by one of Pyro's guides."""
    start = time.perf_counter()
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    guide = make(model)
    guide()
    target = Target.of(guide)
    elbo = Trace_ELBO(
        num_particles=PARTICLES,
        vectorize_particles=target.vectorized,
        max_plate_nesting=target.nesting,
    )
    parameters = list(guide.parameters())
    optimizer = torch.optim.Adam(parameters, LR)
    while (spent := (time.perf_counter() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = LR * (1 + math.cos(math.pi * spent)) / 2
        optimizer.zero_grad()
        try:
            elbo.differentiable_loss(model, guide).backward()
        except (RuntimeError, ValueError):  # numerics of the model, for these draws
            continue
        if all(p.grad is None or bool(p.grad.isfinite().all()) for p in parameters):
            optimizer.step()
    return Posterior(model, guide).draws(DRAWS), time.perf_counter() - start


def elsewhere(python, function, data, method, seconds):
    """What numpyro_rivals.py finds."""
    script = Path(__file__).with_name("numpyro_rivals.py")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "draws.npz"
        command = [python, str(script), function, str(data), method, str(seconds), str(out)]
        done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
        with np.load(out) as file:
            draws = {site: torch.as_tensor(file[site]) for site in file.files}
    return draws, float(done.stdout)


def answers(model, name, options):
    """Each method's draws and seconds, of those whose names contain what is wanted."""
    start = time.perf_counter()
    draws = fit(model, seed=0, progress=False).draws(DRAWS)
    seconds = time.perf_counter() - start
    yield "fit", draws, seconds
    for method, make in GUIDES.items():
        if any(part in method for part in options.methods):
            yield method, *trained(model, make, seconds)
    function = name.split("-")[-1]
    if options.numpyro and function in TRANSLATED:
        data = next((options.folder / "data").glob(f"{name}.json*"))
        for method in NUMPYRO:
            if any(part in f"NumPyro {method}" for part in options.methods):
                draws, spent = elsewhere(options.numpyro, function, data, method, seconds)
                yield f"NumPyro {method}", draws, spent


def as_near(model, errors, wanted):
    """The first fit that is as near as wanted, or else the last: its name, seconds and errors."""
    steps = SHORTEST
    while True:
        start = time.perf_counter()
        draws = fit(model, steps=steps, seed=0, progress=False).draws(DRAWS)
        seconds = time.perf_counter() - start
        found = errors(draws)
        if steps == LONGEST or (found[0] <= wanted[0] and found[1] <= wanted[1]):
            return f"fit, {steps} steps", seconds, found
        steps *= 2


def compared(load, score, name, options):
    """The rows of one posterior."""
    model, reference = load.load(name)

    def errors(draws):
        sites = {site: draws[site] for site in reference}
        scores = score.score(sites, reference, load.supports(name))
        return [scores[key] for key in ("mean_worst", "log_sd_worst", "sw2", "sw2_floor")]

    def row(method, seconds, found):
        numbers = [f"{seconds:.1f}", f"{seconds / ours:.2f}", *(f"{x:.3f}" for x in found)]
        return [name, method, *numbers]

    ours = None
    for method, draws, seconds in answers(model, name, options):
        ours = ours or seconds
        found = errors(draws)
        yield row(method, seconds, found)
        if method == "NumPyro NUTS":
            yield row(*as_near(model, errors, found))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--numpyro", help="a Python interpreter that has NumPyro")
    parser.add_argument(
        "--methods", nargs="+", default=[""], help="parts of their names; all if none"
    )
    options = parser.parse_args()
    sys.path.insert(0, str(options.folder.resolve()))
    import load
    import score

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    warnings.simplefilter("ignore")
    rows = [HEAD]
    for name in options.names or load.names():
        for row in compared(load, score, name, options):
            rows.append(row)
            print(" ".join(row), file=sys.stderr, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
