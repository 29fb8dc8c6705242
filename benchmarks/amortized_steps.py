"""What a step of a deep latent Gaussian model costs, beside a hand-written guide, in one run.

    OMP_NUM_THREADS=1 python benchmarks/amortized_steps.py [--quick]

The model is that of benchmarks/dlgm.py on images of 28 x 28 pixels, in batches of 100. The guide
that is written by hand has the same encoder, the same linear functions of its features for
location, scale and parameters, and Pyro's conditional planar flows. The last row is a bound: what
all steps have in common.
"""

import argparse
import time
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from dlgm import DLGM, MNIST
from pyro.distributions.transforms import ConditionalPlanar
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from timing import race, table
from torch import nn

from pyro_nf import AmortizedFlowGuide
from pyro_nf.fitting.step import Step

PIXELS, BATCH, LAYERS = 784, 100, 10


class Planes(nn.Module):
    """The parameters of one of Pyro's planar flows, as linear functions of features."""

    def __init__(self, features, latents):
        super().__init__()
        self.sizes = [1, latents, latents]
        self.linear = nn.Linear(features, sum(self.sizes))

    def forward(self, features):
        return self.linear(features).split(self.sizes, -1)


class HandWritten(nn.Module):
    """A guide as one writes it with Pyro's transforms."""

    def __init__(self, dlgm, units, latents):
        super().__init__()
        self.encoder = dlgm.encoder
        self.base = nn.Linear(units, 2 * latents)
        self.flows = nn.ModuleList(ConditionalPlanar(Planes(units, latents)) for _ in range(LAYERS))

    def guide(self, x):
        pyro.module("guide", self)
        with pyro.plate("rows", x.shape[0]):
            features = self.encoder(x)
            loc, log_scale = self.base(features).chunk(2, -1)
            flows = [flow.condition(features) for flow in self.flows]
            base = dist.Normal(loc, log_scale.exp()).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, flows))


def least(units, latents, window=4):
    """What no way to run a step leaves out: its products of matrices, and Adam, by torch's own
    fused kernel."""
    numbers = LAYERS * (2 * latents + 1) + 2 * latents  # of the flow and its base
    layers = [
        (PIXELS, units * window),
        (units, numbers),
        (latents, units * window),
        (units, PIXELS),
    ]
    cells = [(torch.randn(BATCH, n), torch.randn(BATCH, m)) for n, m in layers]
    weights = [nn.Parameter(torch.randn(shape)) for shape in layers]
    adam = torch.optim.Adam(weights, lr=1e-4, fused=True)

    @torch.no_grad()
    def run():
        for (x, gradient), weight in zip(cells, weights, strict=True):
            torch.mm(x, weight)
            weight.grad = torch.mm(x.mT, gradient)
            if weight is not weights[0]:  # pixels need no gradient
                torch.mm(gradient, weight.mT)
        adam.step()

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds: does it run at all?")
    rounds = 2 if parser.parse_args().quick else 11
    torch.set_num_threads(1)
    pyro.set_rng_seed(0)
    x = torch.bernoulli(torch.full((BATCH, PIXELS), 0.2))
    units, latents = MNIST["units"], MNIST["latents"]
    runners, ready = {}, {}

    dlgm = DLGM(PIXELS, latents, units)
    guide = HandWritten(dlgm, units, latents).guide
    svi = SVI(dlgm.model, guide, Adam({"lr": 1e-4}), Trace_ELBO())
    runners["by hand, Pyro's planar, eager"] = partial(svi.step, x)

    dlgm = DLGM(PIXELS, latents, units)
    guide = AmortizedFlowGuide(dlgm.model, dlgm.encoder, f"planar*{LAYERS}")
    svi = SVI(dlgm.model, guide, Adam({"lr": 1e-4}), Trace_ELBO())
    runners["AmortizedFlowGuide, eager"] = partial(svi.step, x)

    for tier in ("quick", "full"):
        dlgm = DLGM(PIXELS, latents, units)
        guide = AmortizedFlowGuide(dlgm.model, dlgm.encoder, f"planar*{LAYERS}")
        start = time.perf_counter()
        step = Step(Trace_ELBO(), dlgm.model, guide, (x,))
        if not step.compile(tier):
            raise RuntimeError(step.reason)
        ready[tier] = time.perf_counter() - start
        runners[tier] = partial(step, 1e-4)

    runners["products of matrices and Adam alone"] = least(units, latents)

    times = race(runners, calls=10, rounds=rounds)
    base = next(iter(times.values()))
    rows = [["batch of 100, planar*10", "ready [s]", "step [ms]", "times cheaper", "wanted"]]
    wanted = {"AmortizedFlowGuide, eager": ">= 1", "quick": ">= 3", "full": ">= 3"}
    for name, seconds in times.items():
        start = f"{ready[name]:.1f}" if name in ready else ""
        ratio = f"{base / seconds:.2f}"
        rows.append([name, start, f"{seconds * 1e3:.1f}", ratio, wanted.get(name, "")])
    print(table(rows))


if __name__ == "__main__":
    main()
