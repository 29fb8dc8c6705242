"""Deep latent Gaussian models: the paper's Table 2 on MNIST, or in minutes on 8x8 digits.

    OMP_NUM_THREADS=1 python benchmarks/dlgm.py                       # digits, a few minutes
    python benchmarks/dlgm.py --mnist mnist_uint8.npz --out runs --posteriors diagonal planar-10

Each run is a line of the table: held-out -ln p(x) by importance sampling, in nats. With --out a
run that was interrupted goes on where it was, and one that is done is not run again. The file of
MNIST holds x_train and x_test, of shape (rows, 28, 28), from 0 to 255. Images are binarised anew
for each batch, and once for the test.
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from timing import table
from torch import nn

from pyro_nf import AmortizedFlowGuide, fit

DIGITS = {"latents": 8, "units": 50, "steps": 6000, "rows": None, "lr": 1e-2}
MNIST = {"latents": 40, "units": 400, "steps": 200_000, "rows": 1000, "lr": 1e-3}

# The flow, the size of its context if it has networks, and -ln p(x) of the paper's Table 2.
POSTERIORS = {
    "diagonal": ("diag", None, 89.9),
    "planar-10": ("planar*10", None, 87.5),
    "planar-20": ("planar*20", None, 86.5),
    "planar-40": ("planar*40", None, 85.7),
    "planar-80": ("planar*80", None, 85.1),
    "nice-10": ("additive_coupling*10", 32, 88.6),
    "nice-20": ("additive_coupling*20", 32, 87.9),
    "nice-40": ("additive_coupling*40", 32, 87.3),
    "nice-80": ("additive_coupling*80", 32, 87.2),
    "iaf": ("iaf(hidden=(64, 64))*4", None, None),
    "sylvester": ("sylvester*4", None, None),
}


class Maxout(nn.Module):
    """The largest of some linear functions, for each unit."""

    def __init__(self, inputs, units, window=4):
        super().__init__()
        self.linear, self.window = nn.Linear(inputs, units * window), window

    def forward(self, x):
        return self.linear(x).unflatten(-1, (-1, self.window)).amax(-1)


class DLGM(nn.Module):
    """One stochastic layer, one deterministic layer of maxout units."""

    def __init__(self, pixels, latents, units):
        super().__init__()
        self.latents = latents
        self.decoder = nn.Sequential(Maxout(latents, units), nn.Linear(units, pixels))
        self.encoder = Maxout(pixels, units)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("rows", x.shape[0]):
            zeros = x.new_zeros(self.latents)
            z = pyro.sample("z", dist.Normal(zeros, 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


class Binarised:
    """Batches of images, an epoch in a new order and with new binary pixels."""

    def __init__(self, images, batch):
        self.images, self.batch = images, batch

    def __len__(self):
        return len(self.images) // self.batch

    def __iter__(self):
        order = torch.randperm(len(self.images), device=self.images.device)
        for rows in order.split(self.batch)[: len(self)]:
            yield torch.bernoulli(self.images[rows])


def digits():
    from sklearn.datasets import load_digits

    images = torch.tensor(load_digits().data / 16, dtype=torch.float32)
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
    return images[:1500], images[1500:]


def mnist(path):
    with np.load(path) as file:
        return [torch.tensor(file[key]).flatten(1) / 255 for key in ("x_train", "x_test")]


def run(images, test, rig, posterior, seed, options):
    """Fit one model and evaluate it."""
    flow, context_dim, _ = POSTERIORS.get(posterior, (posterior, options.context, None))
    pyro.clear_param_store()
    torch.manual_seed(seed)
    dlgm = DLGM(images.size(1), rig["latents"], rig["units"]).to(images.device)
    guide = AmortizedFlowGuide(
        dlgm.model, dlgm.encoder, flow, context_dim=context_dim, gradient=options.gradient
    )
    stem = f"{options.data}-{posterior}-{seed}-{rig['steps']}"
    path = None if options.out is None else options.out / f"{stem}.checkpoint"
    anneal = {"anneal": options.anneal, "anneal_steps": options.anneal_steps or rig["steps"] // 5}
    start = time.perf_counter()
    posterior = fit(
        dlgm.model,
        batches=Binarised(images, options.batch),
        guide=guide,
        steps=rig["steps"],
        lr=rig["lr"],
        seed=seed,
        checkpoint=path,
        compile=options.compile,
        refine=False,
        **(anneal if options.anneal else {}),
    )
    seconds = time.perf_counter() - start
    torch.manual_seed(seed)
    nats = -float(posterior.log_evidence(test, n=options.draws).mean())
    bound = -float(posterior.log_evidence(test, n=1).mean())
    result = {"nats": nats, "bound": bound, "seconds": seconds, "message": posterior.message}
    print(
        f"{stem}: {nats:.2f}, bound {bound:.2f}, {seconds:.0f} s; {posterior.message}", flush=True
    )
    return result


def cached(images, test, rig, posterior, seed, options):
    """The result of a run, which is done if it is not there yet."""
    if options.out is None:
        return run(images, test, rig, posterior, seed, options)
    path = options.out / f"{options.data}-{posterior}-{seed}-{rig['steps']}.json"
    if not path.exists():
        path.write_text(json.dumps(run(images, test, rig, posterior, seed, options)))
    return json.loads(path.read_text())


def with_error(values):
    if len(values) == 1:
        return f"{values[0]:.2f}"
    error = statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):.2f} ± {error:.2f}"


def line(name, results, diagonal, rig, data):
    nats = [result["nats"] for result in results]
    gain = ""
    if diagonal and name != "diagonal":
        gain = with_error([d["nats"] - n for d, n in zip(diagonal, nats, strict=True)])
    paper = POSTERIORS[name][2] if name in POSTERIORS and data == "mnist" else None
    bound = statistics.mean(result["bound"] for result in results)
    seconds = statistics.mean(result["seconds"] for result in results)
    cells = [name, with_error(nats), gain, f"{bound:.2f}", f"{rig['steps']:,}", f"{seconds:.0f}"]
    return [*cells, "" if paper is None else f"{paper}"]


def parsed():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", help="the file of MNIST; by default scikit-learn's digits")
    parser.add_argument("--posteriors", nargs="+", help=f"of {', '.join(POSTERIORS)}, or formulas")
    parser.add_argument("--seeds", type=int, help="how many; by default 3 for digits and 1")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--draws", type=int, default=500, help="importance samples of a row")
    parser.add_argument("--rows", type=int, help="of the test; by default 1,000 of MNIST's")
    parser.add_argument("--anneal", choices=["energy", "kl"])
    parser.add_argument("--anneal-steps", type=int, help="by default a fifth of all")
    parser.add_argument("--gradient", choices=["path", "total"], default="path")
    parser.add_argument("--context", type=int, help="context_dim of flows given as formulas")
    parser.add_argument("--compile", choices=["auto", "quick", "full"], default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="folder of checkpoints and results")
    options = parser.parse_args()
    options.data = "digits" if options.mnist is None else "mnist"
    return options


def main():
    options = parsed()
    rig = dict(DIGITS if options.mnist is None else MNIST)
    given = {key: getattr(options, key) for key in ("steps", "lr", "rows")}
    rig |= {key: value for key, value in given.items() if value is not None}
    images, held_out = digits() if options.mnist is None else mnist(options.mnist)
    generator = torch.Generator().manual_seed(0)
    test = torch.bernoulli(held_out, generator=generator)[: rig["rows"]].to(options.device)
    images = images.to(options.device)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    names = options.posteriors or ["diagonal", "planar-10", "iaf"]
    seeds = range(options.seeds or (3 if options.mnist is None else 1))
    head = ["posterior", "-ln p(x)", "less than diagonal", "bound", "updates", "seconds", "paper"]
    rows, diagonal = [head], None
    for name in names:
        results = [cached(images, test, rig, name, seed, options) for seed in seeds]
        diagonal = results if name == "diagonal" else diagonal
        rows.append(line(name, results, diagonal, rig, options.data))
    print(table(rows))


if __name__ == "__main__":
    main()
