"""The pictures of the README: `OMP_NUM_THREADS=1 python benchmarks/pictures.py`.

The first shows what a flow does: draws of a normal distribution on their way through sixteen
trained planes, and the density that they were trained for. The second shows what that is good for:
in eight schools, the spread of the effects beside the effect in the first school, as found by mean
field, by `fit` and by Markov chains.
"""

from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from energies import ring
from matplotlib import pyplot
from pyro.infer import MCMC, NUTS

from pyro_nf import AutoFlowGuide, fit
from pyro_nf.examples import EIGHT_SCHOOLS, eight_schools
from pyro_nf.flows import Diag
from pyro_nf.posterior.figures import INK

FOLDER = Path(__file__).parents[1] / "tutorials" / "pictures"
POINTS = 400_000
SIDE = 4.0
BINS = 160
DRAWS = 4_000
PARTS = "planar*4 + diag + planar*4 + diag + planar*4 + diag + planar*4"


def crescents():
    """The first energy of the planar paper, on a wide normal distribution."""
    x, y = pyro.sample("z", dist.Normal(torch.zeros(2), 10.0).to_event(1)).unbind(-1)
    pyro.factor("energy", ring(x, y))


def method():
    """A normal distribution on its way through the parts of a trained flow."""
    guide = AutoFlowGuide(crescents, PARTS, init_scale=1.0).setup()
    annealed = {"anneal": "energy", "anneal_steps": 4000, "steps": 8000}  # or it finds one half
    fit(crescents, guide=guide, seed=0, refine=False, **annealed)
    with torch.no_grad():
        points = torch.randn(POINTS, 2)
        panels = {"normal noise": points}
        planes = 0
        for part in guide.get_transform():
            points = part(points)
            if isinstance(part, Diag):
                planes += 4
                panels[f"after {planes} planes"] = points
    figure, row = pyplot.subplots(1, 6, figsize=(12, 2.3), layout="constrained")
    for axes, (title, points) in zip(row, panels.items(), strict=False):
        middle, reach = points.mean(0), max(SIDE, 2.2 * float(points.std(0).max()))
        limits = torch.stack([middle - reach, middle + reach], -1).tolist()
        axes.hist2d(*points.numpy().T, bins=BINS, range=limits, cmap="Blues")
        axes.set_title(title, fontsize=9)
    side = torch.linspace(-SIDE, SIDE, BINS)
    density = torch.exp(ring(*torch.meshgrid(side, side, indexing="xy")))
    row[-1].pcolormesh(side, side, density, cmap="Blues", rasterized=True)
    row[-1].set_title("the posterior", fontsize=9)
    for axes in row:
        axes.set(xticks=[], yticks=[], aspect="equal")
    return figure


def result():
    """Three answers to eight schools."""
    data = EIGHT_SCHOOLS.data
    chains = MCMC(NUTS(eight_schools, jit_compile=True, ignore_jit_warnings=True), DRAWS, 1000)
    pyro.set_rng_seed(0)
    chains.run(*data)
    normal = AutoFlowGuide(eight_schools, "diag")
    mean_field = fit(eight_schools, *data, guide=normal, seed=0, refine=False)
    answers = {
        "mean field": mean_field.draws(DRAWS),
        "fit": fit(eight_schools, *data, seed=0).draws(DRAWS),
        "NUTS": chains.get_samples(),
    }
    figure, row = pyplot.subplots(1, 3, figsize=(9, 3.2), layout="constrained", sharey=True)
    for axes, (title, draws) in zip(row, answers.items(), strict=True):
        effect = draws["mu"] + draws["tau"] * draws["z"][:, 0]
        axes.scatter(effect, draws["tau"].log(), 3, color=INK, alpha=0.35, lw=0)
        axes.set(title=title, xlabel="effect in school 1", xlim=(-20, 40), ylim=(-5, 4))
        axes.spines[["top", "right"]].set_visible(False)
    row[0].set_ylabel("log of the spread tau")
    return figure


def main():
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for make in (method, result):
        make().savefig(FOLDER / f"{make.__name__}.png", dpi=110)


if __name__ == "__main__":
    main()
