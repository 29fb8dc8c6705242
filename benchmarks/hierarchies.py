"""What is won by untying hierarchies? Centred models, by the default call with and without it.

- `horseshoe`: fifteen effects, each with a scale of its own times one of all.
- `nested`: six towns in each of five regions, four measurements of each town.
- `poisson`: counts in twenty groups, and a slope.
- `parabola`: twenty points near a parabola, both of whose coordinates are measured with errors.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from timing import table
from torch import Tensor

import pyro_nf.guides.auto_flow
from pyro_nf import fit

DRAWS = 10_000
ZERO, ONE = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
GROUP, REGION, TOWN = torch.arange(120) % 20, torch.arange(30) // 6, torch.arange(120) // 4


def models() -> dict[str, Callable[[], None]]:
    """The models by name, with data that are always the same."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(120)
    counts = torch.poisson((0.5 + 0.4 * x + 0.5 * normal(20)[GROUP]).exp(), generator=generator)
    places = 1 + 0.6 * normal(5)[REGION] + 0.3 * normal(30)
    measured = (places.unsqueeze(-1) + 0.8 * normal(30, 4)).reshape(-1)
    design = normal(60, 15)
    response = 2 * design[:, 0] - design[:, 1] + normal(60)
    at = 1.5 * normal(20)
    seen, heights = at + 0.3 * normal(20), 0.5 + at.square() + 0.4 * normal(20)

    def horseshoe() -> None:
        overall = pyro.sample("overall", dist.HalfCauchy(0.1 * ONE))
        with pyro.plate("columns", 15):
            own = pyro.sample("own", dist.HalfCauchy(ONE))
            effect = pyro.sample("effect", dist.Normal(ZERO, overall * own))
        with pyro.plate("rows", 60):
            pyro.sample("y", dist.Normal(effect @ design.T, 1.0), obs=response)

    def nested() -> None:
        mean = pyro.sample("mean", dist.Normal(ZERO, 3.0))
        outer, inner, noise = (
            pyro.sample(name, dist.HalfNormal(ONE)) for name in ("outer", "inner", "noise")
        )
        with pyro.plate("regions", 5):
            region = pyro.sample("region", dist.Normal(mean, outer))
        with pyro.plate("towns", 30):
            town = pyro.sample("town", dist.Normal(region[..., REGION], inner))
        with pyro.plate("measurements", 120):
            pyro.sample("y", dist.Normal(town[..., TOWN], noise), obs=measured)

    def poisson() -> None:
        level = pyro.sample("level", dist.Normal(ZERO, 2.0))
        slope = pyro.sample("slope", dist.Normal(ZERO, 2.0))
        spread = pyro.sample("spread", dist.HalfCauchy(ONE))
        with pyro.plate("groups", 20):
            effect = pyro.sample("effect", dist.Normal(ZERO, spread))
        with pyro.plate("rows", 120):
            rate = (level + slope * x + effect[..., GROUP]).exp()
            pyro.sample("y", dist.Poisson(rate), obs=counts)

    def parabola() -> None:
        level = pyro.sample("level", dist.Normal(ZERO, 1.0))
        spread = pyro.sample("spread", dist.HalfNormal(ONE))
        with pyro.plate("points", 20):
            place = pyro.sample("place", dist.Normal(seen, 0.3))
            height = pyro.sample("height", dist.Normal(level + place.square(), spread))
            pyro.sample("y", dist.Normal(height, 0.2), obs=heights)

    found = (horseshoe, nested, poisson, parabola)
    return {model.__name__: model for model in found}


def judged(model: Callable[[], None], keep: bool, seed: int, steps: int | None) -> list[str]:
    """ELBO, k-hat, effective share, verdict and seconds of one fit."""
    untied = pyro_nf.guides.auto_flow.untied
    if keep:
        pyro_nf.guides.auto_flow.untied = lambda target, hierarchy, found: found
    try:
        start = time.perf_counter()
        posterior = fit(model, steps=steps, seed=seed, progress=False, refine=False)
        seconds = time.perf_counter() - start
    finally:
        pyro_nf.guides.auto_flow.untied = untied
    torch.manual_seed(seed)
    found = posterior.diagnose(DRAWS)
    numbers = [f"{value:.2f}" for value in (found.elbo, found.k_hat, found.ess)]
    return [*numbers, found.verdict, f"{seconds:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=list(models()))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, help="of a fit; as many as it needs if not given")
    options = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    rows = [["posterior", "seed", "ties", "ELBO", "k-hat", "ESS", "verdict", "seconds"]]
    for name, seed, keep in itertools.product(options.names, options.seeds, (True, False)):
        rest = judged(models()[name], keep, seed, options.steps)
        rows.append([name, str(seed), "kept" if keep else "taken out", *rest])
        print(*rows[-1], file=sys.stderr, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
