"""Our answer to a posterior, and Pyro's own: for rivals.py; rival_files.py describes its processes.

METHOD is fit, the default call and 10,000 draws, cold and warm; or disk, the same where files of an
earlier process are found, as `disk.npz` and `disk.json`; or NUTS, 4 x (1000 + 1000) one after the
other and eagerly, until SECONDS of CPU are over, which a note tells; or one of GUIDES, trained
eagerly for SECONDS with 16 particles and Adam, whose rate falls from 1e-2 to zero by then.
"""

import math
import time
import warnings
from functools import partial

import pyro
import torch
from pyro.distributions import transforms
from pyro.infer import MCMC, NUTS, Trace_ELBO
from pyro.infer.autoguide import AutoIAFNormal, AutoMultivariateNormal, AutoNormalizingFlow
from rival_files import arguments, function, module, now, observed, read, second, write

from pyro_nf import Posterior, fit
from pyro_nf.model.target import Target

DRAWS = 10_000
WARMUP, KEPT, CHAINS = 1000, 1000, 4
PARTICLES = 16
LR = 1e-2


def planar(model):
    """Pyro's flow guide with sixteen of Pyro's planar flows."""
    return AutoNormalizingFlow(model, partial(transforms.iterated, 16, transforms.planar))


GUIDES = {
    "AutoMultivariateNormal": AutoMultivariateNormal,
    "AutoIAFNormal": lambda model: AutoIAFNormal(model, num_transforms=3),
    "AutoNormalizingFlow": planar,
}


def observing(folder, name):
    """A posterior's model, of what it observes, and that."""
    make = getattr(module(folder, "load").models, function(name))
    data = {key: torch.as_tensor(value) for key, value in read(folder, name).items()}
    key = observed(name)

    def model(y):
        make(data | {key: y})()

    return model, data[key]


class OverError(Exception):
    """The time is over."""


def by_nuts(model, seconds):
    """Draws of the chains that have ended, and a note: how far they came, if not to the end."""
    start, transitions, ended = now()[1], 0, []

    def watch(*_):
        nonlocal transitions
        transitions += 1
        if now()[1] - start > seconds:
            raise OverError

    for chain in range(CHAINS):
        pyro.set_rng_seed(chain)
        mcmc = MCMC(NUTS(model), KEPT, WARMUP, hook_fn=watch, disable_progbar=True)
        try:
            mcmc.run()
        except OverError:
            break
        ended.append(mcmc.get_samples())
    draws = {site: torch.cat([chain[site] for chain in ended]) for site in (ended or [{}])[0]}
    whole = CHAINS * (WARMUP + KEPT)
    return draws, "" if len(ended) == CHAINS else f"{transitions} of {whole} transitions"


def by_guide(model, make, seconds):
    """Draws of one of Pyro's guides."""
    start = time.perf_counter()
    pyro.set_rng_seed(0)
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
    return Posterior(model, guide).draws(DRAWS)


def by_fit(model, y):
    """Draws of the default call, whose seed leaves the draws that come after alone."""
    torch.manual_seed(0)
    return fit(model, y, seed=0, progress=False).draws(DRAWS)


def main():
    options = arguments()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    warnings.simplefilter("ignore")
    if options.method in ("fit", "disk"):
        model, y = observing(options.folder, options.name)
        again = torch.as_tensor(second(options.name, read(options.folder, options.name)))
        kinds = {"cold": y, "warm": again} if options.method == "fit" else {"disk": y}
        for out, values in kinds.items():
            start = now()
            write(options.out / out, start, by_fit(model, values))
        return
    model, _ = module(options.folder, "load").load(options.name)
    start = now()
    if options.method == "NUTS":
        draws, note = by_nuts(model, options.seconds)
    else:
        draws, note = by_guide(model, GUIDES[options.method], options.seconds), ""
    write(options.out / "cold", start, draws, note)


if __name__ == "__main__":
    main()
