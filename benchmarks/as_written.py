"""Does it matter how a model is written? Each as its author would write it, and for a plate.

    OMP_NUM_THREADS=1 python benchmarks/as_written.py [NAME ...] [--repeats 3] [--float64 | --frame]

A plate of particles adds a dimension on the left to all that a model draws, and of the usual ways
to write a model many do not stand it. Both forms of each have the same density and the same data:

- `linear`: a regression, `x @ b`, and `b @ x.T`;
- `logistic`: a vector of effects, `b @ x.T` beside rows in a plate, and effects in a plate too;
- `groups`: eighty-five of them, `a[group]`, and `a[..., group]`;
- `funnel`: Neal's, v ~ N(0, 3) and one hundred x ~ N(0, exp(v / 2)), and `.unsqueeze(-1)`;
- `process`: a Gaussian process with a length and a scale, and `[..., None, None]`;
- `path`: a loop over thirty moments, `z[t]`, and `z[..., t]`;
- `module`: a `PyroModule` with a linear layer, and a function.

The two take turns in one process, with one seed, each first in every other round; what must be
traced or compiled is in their seconds, and imports are not.

With `--frame` the model as written is fitted to columns of a data frame in float64, and to the same
numbers as clean float32 tensors, once each.
"""

import argparse
import itertools
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroSample
from timing import table
from torch import Tensor, nn

from pyro_nf import Posterior, fit

DRAWS = 10_000
WARM_UP = 20  # steps of a fit before the first that counts, which loads what fits load
HEAD = [
    *("model", "D", "as written [s]", "for a plate [s]", "ratio", "without ties", "vectorized"),
    *("verdict", "ESS", "gap", "warnings"),
]

Model = Callable[..., Any]


class Pair(NamedTuple):
    """One model in two forms, and its data."""

    written: Model
    plated: Model
    data: tuple[Tensor, ...] = ()


def numbers() -> Callable[..., Tensor]:
    """Standard normal numbers, always the same, of torch's default dtype."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        return drawn.to(torch.get_default_dtype())

    return normal


# ---------------------------------------------------------------- the models


def linear() -> Pair:
    normal = numbers()
    design = normal(300, 8)
    response = 1 + design @ normal(8) + 0.5 * normal(300)

    def written(x, y):
        a = pyro.sample("a", dist.Normal(0.0, 10.0))
        with pyro.plate("columns", 8):
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
        sd = pyro.sample("sd", dist.HalfNormal(1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(a + x @ b, sd), obs=y)

    def plated(x, y):
        a = pyro.sample("a", dist.Normal(0.0, 10.0))
        with pyro.plate("columns", 8):
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
        sd = pyro.sample("sd", dist.HalfNormal(1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(a + b @ x.T, sd), obs=y)

    return Pair(written, plated, (design, response))


def logistic() -> Pair:
    normal = numbers()
    design = normal(300, 8)
    outcome = (design @ normal(8) + 2 * normal(300) > 0).to(design.dtype)

    def written(x, y):
        a = pyro.sample("a", dist.Normal(0.0, 3.0))
        b = pyro.sample("b", dist.Normal(torch.zeros(8), 1.0).to_event(1))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=a + b @ x.T), obs=y)

    def plated(x, y):
        a = pyro.sample("a", dist.Normal(0.0, 3.0))
        with pyro.plate("columns", 8):
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=a + b @ x.T), obs=y)

    return Pair(written, plated, (design, outcome))


def groups() -> Pair:
    normal = numbers()
    of = torch.arange(900) % 85
    response = 1 + 0.5 * normal(85)[of] + 0.8 * normal(900)

    def written(group, y):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        tau = pyro.sample("tau", dist.HalfNormal(1.0))
        sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
        with pyro.plate("groups", 85):
            a = pyro.sample("a", dist.Normal(mu, tau))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(a[group], sigma), obs=y)

    def plated(group, y):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        tau = pyro.sample("tau", dist.HalfNormal(1.0))
        sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
        with pyro.plate("groups", 85):
            a = pyro.sample("a", dist.Normal(mu, tau))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(a[..., group], sigma), obs=y)

    return Pair(written, plated, (of, response))


def funnel() -> Pair:
    def written():
        v = pyro.sample("v", dist.Normal(0.0, 3.0))
        pyro.sample("x", dist.Normal(torch.zeros(100), (v / 2).exp()).to_event(1))

    def plated():
        v = pyro.sample("v", dist.Normal(0.0, 3.0))
        pyro.sample("x", dist.Normal(torch.zeros(100), (v / 2).exp().unsqueeze(-1)).to_event(1))

    return Pair(written, plated)


def process() -> Pair:
    at = torch.linspace(0, 10, 30)
    heights = at.sin() + 0.3 * numbers()(30)

    def written(x, y):
        length = pyro.sample("length", dist.LogNormal(0.0, 1.0))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        noise = pyro.sample("noise", dist.LogNormal(-1.0, 1.0))
        apart = (x[:, None] - x[None]) ** 2
        kernel = scale**2 * (-apart / (2 * length**2)).exp()
        covariance = kernel + (noise**2 + 1e-4) * torch.eye(len(x))
        pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), covariance), obs=y)

    def plated(x, y):
        length = pyro.sample("length", dist.LogNormal(0.0, 1.0))[..., None, None]
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))[..., None, None]
        noise = pyro.sample("noise", dist.LogNormal(-1.0, 1.0))[..., None, None]
        apart = (x[:, None] - x[None]) ** 2
        kernel = scale**2 * (-apart / (2 * length**2)).exp()
        covariance = kernel + (noise**2 + 1e-4) * torch.eye(len(x))
        pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), covariance), obs=y)

    return Pair(written, plated, (at, heights))


def path() -> Pair:
    normal = numbers()
    places = [normal()]
    for _ in range(29):
        places.append(0.8 * places[-1] + 0.7 * normal())
    seen = torch.stack(places) + 0.3 * normal(30)

    def written(y):
        rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
        sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
        z = pyro.sample("z", dist.Normal(torch.zeros(len(y)), 1.0).to_event(1))
        x = 0.0
        for t in range(len(y)):
            x = rho * x + sigma * z[t]
            pyro.sample(f"y_{t}", dist.Normal(x, 0.3), obs=y[t])

    def plated(y):
        rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
        sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
        z = pyro.sample("z", dist.Normal(torch.zeros(len(y)), 1.0).to_event(1))
        x = 0.0
        for t in range(len(y)):
            x = rho * x + sigma * z[..., t]
            pyro.sample(f"y_{t}", dist.Normal(x, 0.3), obs=y[t])

    return Pair(written, plated, (seen,))


class Regression(PyroModule):
    """A linear layer whose weights are latents, and the noise around it."""

    def __init__(self):
        super().__init__()
        self.layer = PyroModule[nn.Linear](8, 1)
        self.layer.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 8]).to_event(2))
        self.layer.bias = PyroSample(dist.Normal(0.0, 10.0).expand([1]).to_event(1))
        self.sd = PyroSample(dist.HalfNormal(1.0))

    def forward(self, x, y):
        mean, sd = self.layer(x).squeeze(-1), self.sd
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(mean, sd), obs=y)


def module() -> Pair:
    def plated(x, y):
        weight = pyro.sample("layer.weight", dist.Normal(torch.zeros(1, 8), 1.0).to_event(2))
        bias = pyro.sample("layer.bias", dist.Normal(torch.zeros(1), 10.0).to_event(1))
        sd = pyro.sample("sd", dist.HalfNormal(1.0))
        mean = (weight @ x.T).squeeze(-2) + bias
        pyro.sample("y", dist.Normal(mean, sd.unsqueeze(-1)).to_event(1), obs=y)

    return Pair(Regression(), plated, linear().data)


PAIRS = {made.__name__: made for made in (linear, logistic, groups, funnel, process, path, module)}


# ---------------------------------------------------------------- fits


class Fitted(NamedTuple):
    """A fit, its seconds, and what it warned of."""

    posterior: Posterior
    seconds: float
    said: list[str]


def fitted(model: Model, data: tuple[Tensor, ...], seed: int, steps: int | None) -> Fitted:
    pyro.clear_param_store()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        start = time.perf_counter()
        posterior = fit(model, *data, steps=steps, seed=seed, progress=False)
        seconds = time.perf_counter() - start
    return Fitted(posterior, seconds, [str(warning.message) for warning in caught])


def gap(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """How far means are apart in standard deviations, for the worst number of any latent."""
    apart = []
    for name, value in first.items():
        ours, theirs = value.double(), second[name].double()
        spread = ((ours.var(0) + theirs.var(0)) / 2).sqrt()
        apart.append(float(((ours.mean(0) - theirs.mean(0)).abs() / spread).max()))
    return max(apart)


class Row(NamedTuple):
    """A row of the table, its ratio, and draws of both posteriors."""

    cells: list[str]
    ratio: float
    draws: list[dict[str, Tensor]]


def row(name: str, repeats: int, seed: int, steps: int | None, notes: list[str]) -> Row:
    """Fits of both forms in turns; the last of each is judged, and `notes` gains its warnings."""
    pair = PAIRS[name]()
    models = (pair.written, pair.plated)
    found: list[list[Fitted]] = [[], []]
    for repeat in range(repeats):
        for which in (0, 1) if repeat % 2 == 0 else (1, 0):
            one = fitted(models[which], pair.data, seed, steps)
            found[which].append(one)
            form = ("as written", "for a plate")[which]
            print(f"{name}, {form}: {one.seconds:.1f} s", file=sys.stderr, flush=True)
    seconds = [statistics.median(one.seconds for one in fits) for fits in found]
    ties, together, verdicts, shares, marks, draws = [], [], [], [], [], []
    for fits in found:
        posterior = fits[-1].posterior
        torch.manual_seed(seed)  # of the draws to judge, which the fit's seed leaves alone
        draws.append(posterior.draws(DRAWS))
        diagnosis = posterior.diagnose(DRAWS)
        ties.append("yes" if "without ties" in repr(posterior.guide) else "no")
        together.append("yes" if posterior.vectorized else "no")
        verdicts.append(diagnosis.verdict)
        shares.append(f"{diagnosis.ess:.2f}")
        said = dict.fromkeys(itertools.chain.from_iterable(one.said for one in fits))
        notes.extend(text for text in said if text not in notes)
        marks.append(" ".join(str(notes.index(text) + 1) for text in said) or "none")
    ratio = seconds[0] / seconds[1]
    dim = str(found[0][-1].posterior.guide.latent_dim)
    cells = [name, dim, *(f"{part:.1f}" for part in seconds), f"{ratio:.2f}"]
    cells += [", ".join(both) for both in (ties, together, verdicts, shares)]
    cells += [f"{gap(*draws):.3f}", ", ".join(marks)]
    return Row(cells, ratio, draws)


def frame_of(tensor: Tensor) -> Any:
    """A column, or a data frame, of the same numbers."""
    return (pd.DataFrame if tensor.dim() == 2 else pd.Series)(tensor.numpy())


def frame_row(name: str, seed: int, steps: int | None) -> list[str]:
    """A row of the table of a data frame beside clean tensors."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    wide = PAIRS[name]().data
    torch.set_default_dtype(default)
    clean = tuple(x.to(default) if x.is_floating_point() else x for x in wide)
    draws, seconds, verdicts = [], [], []
    for data in (clean, tuple(frame_of(x) for x in wide)):
        one = fitted(PAIRS[name]().written, data, seed, steps)
        torch.manual_seed(seed)
        draws.append(one.posterior.draws(DRAWS))
        verdicts.append(one.posterior.diagnose(DRAWS).verdict)
        seconds.append(f"{one.seconds:.1f}")
        print(f"{name}: {one.seconds:.1f} s", file=sys.stderr, flush=True)
    values = list(zip(draws[0].values(), draws[1].values(), strict=True))
    wider = max(float((b.std(0) / a.std(0)).log().abs().max()) for a, b in values)
    kinds = ", ".join(sorted({str(x.dtype).removeprefix("torch.") for x in wide}))
    dim = str(sum(value[0].numel() for value in draws[0].values()))
    return [name, dim, kinds, *seconds, ", ".join(verdicts), f"{gap(*draws):.4f}", f"{wider:.4f}"]


FRAME_HEAD = [
    *("model", "D", "columns", "clean [s]", "frame [s]", "verdict", "gap of means", "of log sd"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(PAIRS), metavar="NAME")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of a fit; as many as it needs if not given")
    parser.add_argument("--float64", action="store_true", help="in place of torch's default")
    parser.add_argument("--frame", action="store_true", help="a data frame beside clean tensors")
    options = parser.parse_args()
    unknown = sorted({*options.names} - {*PAIRS})
    if unknown:
        parser.error(f"no model {', '.join(unknown)}; there are {', '.join(PAIRS)}")
    torch.set_num_threads(1)
    if options.float64:
        torch.set_default_dtype(torch.float64)
    first = linear()
    fitted(first.plated, first.data, options.seed, WARM_UP)
    if options.frame:
        names = [name for name in options.names if PAIRS[name]().data]
        found = [frame_row(name, options.seed, options.steps) for name in names]
        print(table([FRAME_HEAD, *found]))
        return
    notes: list[str] = []
    rows = {
        name: row(name, options.repeats, options.seed, options.steps, notes)
        for name in options.names
    }
    print(table([HEAD, *(one.cells for one in rows.values())]))
    print("\nWhere there are two: as written, for a plate.")
    for number, note in enumerate(notes, 1):
        print(f"{number}: {note}")
    if "funnel" in rows:
        spreads = ", ".join(f"{float(draws['v'].std()):.2f}" for draws in rows["funnel"].draws)
        print(f"The funnel's sd of v, which is 3: {spreads}")
    worst = max(rows, key=lambda name: rows[name].ratio)
    print(f"largest ratio {rows[worst].ratio:.2f}, {worst}")


if __name__ == "__main__":
    main()
