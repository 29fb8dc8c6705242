"""Does compare pick the model that made the data? Straight lines and quintics, a seed each.

python benchmarks/comparison.py
"""

import argparse

import pyro
import pyro.distributions as dist
import torch

from pyro_nf import Comparison, compare, fit

ROWS, SEEDS = 40, 20
GAP = 3.0  # of log evidences, above which the better model should be found


def powers(degree: int):
    """The regression on powers of x, with prior N(0, 1) for each coefficient."""

    def model(x, y):
        with pyro.plate("powers", degree + 1):
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        basis = torch.stack([x**k for k in range(degree + 1)], -1)
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(basis @ b, scale), obs=y)

    return model


MODELS = {"line": powers(1), "quintic": powers(5)}


def compared(seed: int) -> tuple[str, Comparison]:
    """The model that made the data, and what compare says of them."""
    pyro.set_rng_seed(seed)
    name = list(MODELS)[seed % 2]
    x = torch.linspace(-1.5, 1.5, ROWS)
    y = pyro.poutine.trace(MODELS[name]).get_trace(x, None).nodes["y"]["value"]
    fits = {each: fit(model, x, y, progress=False) for each, model in MODELS.items()}
    return name, compare(fits)


def counted(seeds: int) -> str:
    """How often the model that made the data is the best, by evidence and by leaving one out."""
    right = sure = by_loo = 0
    for seed in range(seeds):
        name, found = compared(seed)
        columns = found.columns
        if -columns["less the best"][1] > GAP:
            sure += 1
            right += found.best == name
            by_loo += (columns["LOO less"][1] < 0) == (found.best == name)
        print(
            f"| {seed} | {name} | {found.best} | {-columns['less the best'][1]:.2f} |", flush=True
        )
    return f"gap above {GAP:.0f}: {sure} of {seeds} seeds; right {right}; by LOO {by_loo}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=SEEDS)
    torch.set_num_threads(1)
    print("| seed | made by | best | gap |\n|---|---|---|---|")
    print(counted(parser.parse_args().seeds))
