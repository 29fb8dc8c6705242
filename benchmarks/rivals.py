"""Is anything better in the same time? Each posterior by `fit`, and by others in as many seconds.

    OMP_NUM_THREADS=1 python benchmarks/rivals.py FOLDER [NAME ...] [--numpyro PYTHON] [--methods M]

FOLDER is as for posteriors.py. Pyro's guides are trained eagerly with 16 particles and Adam, whose
rate falls from 1e-2 to zero by the end of their time; NumPyro's with Adam at 1e-2, compile time
included. NUTS takes the time that it takes, 4 x (1000 + 1000). `sw2` is the sliced Wasserstein
distance to the reference draws, whose floor is that between two halves of these.
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
from pyro_nf.target import Target

DRAWS = 10_000
PARTICLES = 16
LR = 1e-2
NUMPYRO = ["AutoIAFNormal", "AutoBNAFNormal", "NUTS"]
TRANSLATED = ["eight_schools_noncentered", "arK", "german_credit", "sonar", "student_t2"]
HEAD = ["posterior", "method", "seconds", "times ours", "mean", "log sd", "sw2", "floor"]


def planar(model):
    """Pyro's flow guide with sixteen of Pyro's planar flows."""
    return AutoNormalizingFlow(model, partial(transforms.iterated, 16, transforms.planar))


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
    target = Target(guide)
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


def answers(load, folder, name, python, wanted):
    """Each method's draws and seconds, of those whose names contain what is wanted."""
    model, _ = load.load(name)
    start = time.perf_counter()
    draws = fit(model, seed=0, progress=False).draws(DRAWS)
    seconds = time.perf_counter() - start
    yield "fit", draws, seconds
    for method, make in GUIDES.items():
        if any(part in method for part in wanted):
            yield method, *trained(model, make, seconds)
    function = name.split("-")[-1]
    if python and function in TRANSLATED:
        data = next((folder / "data").glob(f"{name}.json*"))
        for method in (m for m in NUMPYRO if any(part in f"NumPyro {m}" for part in wanted)):
            yield f"NumPyro {method}", *elsewhere(python, function, data, method, seconds)


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
        _, reference = load.load(name)
        ours = None
        found = answers(load, options.folder, name, options.numpyro, options.methods)
        for method, draws, seconds in found:
            ours = ours or seconds
            sites = {site: draws[site] for site in reference}
            scores = score.score(sites, reference, load.supports(name))
            errors = [scores[key] for key in ("mean_worst", "log_sd_worst", "sw2", "sw2_floor")]
            numbers = [f"{seconds:.1f}", f"{seconds / ours:.2f}", *(f"{x:.3f}" for x in errors)]
            rows.append([name, method, *numbers])
            print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
