"""How near do flows come to hard shapes? The four two-dimensional energies of the planar paper.

    OMP_NUM_THREADS=1 python benchmarks/energies.py [--energies U1 U2 U3 U4] [--flows planar*32 ...]
        [--seeds 0 1 2 3 4] [--steps 5000] [--particles 1024] [--lr 5e-3] [--rise 0.5]
        [--picture FILE]

Fits q to p = exp(-U) / Z and prints KL(q || p) = log Z - ELBO, on 10^6 fresh draws. U2, U3 and U4
are improper on the plane; a penalty beyond |z| = 6 makes them proper, and log Z is known by
quadrature. The plane is cut into regions, the modes of U1 and the stretches and branches of the
others; `least` is the smallest share that any of them has of its true mass, over all seeds, and a
fit covers p where that is above a half.

All fits have one recipe: from a wide normal distribution, annealed as in the paper: the weight of
the energy rises to one over the first of the steps, half of them by default.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import init_to_value
from timing import table
from torch import Tensor, logaddexp
from torch.distributions import constraints

from pyro_nf import AutoFlowGuide, fit

# The first coordinate given the noise of the second, then the second given the first: each through
# splines, with bins enough for two branches, and then by shifts and scales, the bends that branches
# have in common. All change quickly from place to place, hence the kinks. The other order, both
# splines first, divides U4's mass wrongly between its branches with some seeds.
BEST = (
    "spline_coupling(flip=True, bins=24, hidden=(32,), kinks=2)"
    " + affine_coupling(flip=True, hidden=(32, 32), kinks=2)"
    " + spline_coupling(bins=24, hidden=(64, 64), kinks=2)"
    " + affine_coupling(hidden=(64, 64), kinks=2)"
)
FLOWS = ["planar*2", "planar*8", "planar*32", 'nice(mix="orthogonal")*8 + diag', BEST]
STEPS = 5_000
WIDTH = 2.0  # standard deviation of the normal distribution at the start
LR = 5e-3
RISE = 0.5  # share of the steps in which the weight of the energy rises
PARTICLES = 1024  # in two dimensions they cost little, and splines need them
DRAWS, CHUNK = 1_000_000, 100_000
SIDE, POINTS = 12.0, 2401  # of the grid for the true masses


def bump(x: Tensor) -> Tensor:
    return -x * x / 2


def wave(x: Tensor) -> Tensor:
    return torch.sin(2 * math.pi * x / 4)


def dip(x: Tensor) -> Tensor:
    return 3 * bump((x - 1) / 0.6).exp()


def step(x: Tensor) -> Tensor:
    return 3 * torch.sigmoid((x - 1) / 0.3)


def ring(x: Tensor, y: Tensor) -> Tensor:
    sides = logaddexp(bump((x - 2) / 0.6), bump((x + 2) / 0.6))
    return bump((torch.hypot(x, y) - 2) / 0.4) + sides


def ribbon(x: Tensor, y: Tensor) -> Tensor:
    return bump((y - wave(x)) / 0.4)


def eye(x: Tensor, y: Tensor) -> Tensor:
    above = y - wave(x)
    return logaddexp(bump(above / 0.35), bump((above + dip(x)) / 0.35))


def fork(x: Tensor, y: Tensor) -> Tensor:
    above = y - wave(x)
    return logaddexp(bump(above / 0.4), bump((above + step(x)) / 0.35))


class Energy(NamedTuple):
    """-U, log Z with the penalty, and a function of a point that tells its region, from 0."""

    log_density: Callable[[Tensor, Tensor], Tensor]
    log_z: float
    region: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, z: Tensor) -> Tensor:
        x, y = z.unbind(-1)
        return self.log_density(x, y) - torch.relu(z.abs() - 6).square().sum(-1)


ENERGIES = {
    "U1": Energy(ring, 1.877502, lambda x, y: 0 + (x > 0)),
    "U2": Energy(ribbon, 2.625318, lambda x, y: 0 + (x > -2) + (x > 2)),
    # Left, right, and where the dip is deep the upper and the lower branch.
    "U3": Energy(
        eye,
        3.184934,
        lambda x, y: torch.where(dip(x) > 1.5, 2 + (y < wave(x) - dip(x) / 2), 0 + (x > 1)),
    ),
    "U4": Energy(
        fork,
        3.253927,
        lambda x, y: torch.where(step(x) > 1.5, 1 + (y < wave(x) - step(x) / 2), 0),
    ),
}


def shares(energy: Energy, z: Tensor, weight: Tensor) -> Tensor:
    """The share of the weight in each region."""
    mass = torch.bincount(energy.region(*z.unbind(-1)), weight.double())
    return mass / mass.sum()


def true_shares(energy: Energy) -> Tensor:
    side = torch.linspace(-SIDE, SIDE, POINTS)
    z = torch.cartesian_prod(side, side)
    return shares(energy, z, energy(z).exp())


def fitted(
    energy: Energy, flow: str, steps: int, seed: int, particles: int, lr: float, rise: float
) -> AutoFlowGuide:
    """A guide for the energy, trained; the weight rises over a share of the steps."""

    def model() -> None:
        with pyro.plate_stack("batch", ()):
            flat = dist.ImproperUniform(constraints.real_vector, (), (2,))
            z = pyro.sample("z", flat)
        pyro.factor("energy", energy(z))

    pyro.set_rng_seed(seed)
    start = init_to_value(values={"z": torch.zeros(2)})
    guide = AutoFlowGuide(model, flow, init_loc_fn=start, init_scale=WIDTH).setup()
    annealing = {"anneal": "energy", "anneal_steps": int(rise * steps)}
    options = {"lr": lr, "particles": particles, "seed": seed, "progress": False}
    options["refine"] = False  # it is the guide that is looked at
    fit(model, guide=guide, steps=steps, **annealing, **options)
    return guide


@torch.no_grad()
def judged(guide: AutoFlowGuide, energy: Energy, draws: int) -> tuple[float, Tensor]:
    """KL(q || p) and the share of each region."""
    q, gap, parts = guide.get_posterior(), [], []
    for _ in range(max(1, draws // CHUNK)):
        z = q.rsample((min(draws, CHUNK),))
        gap.append((q.log_prob(z) - energy(z)).double().mean())
        parts.append(shares(energy, z, torch.ones(len(z))))
    return energy.log_z + float(torch.stack(gap).mean()), torch.stack(parts).mean(0)


def picture(guides: dict[tuple[str, str], AutoFlowGuide], names: list[str], file: str) -> None:
    """The densities as a grid: a row for each energy; the target, then each flow."""
    from matplotlib.figure import Figure

    flows = list(dict.fromkeys(flow for _, flow in guides))
    side = torch.linspace(-7, 7, 281)
    z = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1)
    figure = Figure(figsize=(2 * len(flows) + 2, 2 * len(names)), layout="constrained")
    grid = figure.subplots(len(names), len(flows) + 1, squeeze=False)
    for row, name in zip(grid, names, strict=True):
        panels = {"target": ENERGIES[name](z).exp()}
        with torch.no_grad():
            for flow in flows:
                panels[flow] = guides[name, flow].get_posterior().log_prob(z).exp()
        for axes, (title, density) in zip(row, panels.items(), strict=True):
            axes.imshow(density.numpy(), origin="lower", extent=(-7, 7, -7, 7), cmap="viridis")
            axes.set(xticks=[], yticks=[])
            # Of a formula with options the first name; they would not fit.
            axes.set_title(title.partition("(")[0] if name == names[0] else "", fontsize=8)
        row[0].set_ylabel(name)
    figure.savefig(file, dpi=150)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--energies", nargs="+", default=list(ENERGIES), choices=list(ENERGIES))
    parser.add_argument("--flows", nargs="+", default=FLOWS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--particles", type=int, default=PARTICLES)
    parser.add_argument("--lr", type=float, default=LR)
    parser.add_argument("--rise", type=float, default=RISE, help="share of annealed steps")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--picture", metavar="FILE", help="densities of the first seed's fits")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    guides = {}
    rows = [["energy", "flow", "KL, mean", "KL, worst", "covered", "least", "seconds"]]
    for name in options.energies:
        energy = ENERGIES[name]
        truth = true_shares(energy)
        for flow in options.flows:
            gaps, least, seconds = [], [], []
            for seed in options.seeds:
                pyro.clear_param_store()
                begin = time.perf_counter()
                recipe = options.particles, options.lr, options.rise
                guide = fitted(energy, flow, options.steps, seed, *recipe)
                seconds.append(time.perf_counter() - begin)
                gap, found = judged(guide, energy, options.draws)
                gaps.append(gap)
                least.append(float((found / truth).min()))
                guides.setdefault((name, flow), guide)
            covered = sum(share > 0.5 for share in least)
            cells = [f"{statistics.mean(gaps):.4f}", f"{max(gaps):.4f}"]
            cells += [f"{covered} of {len(gaps)}", f"{min(least):.2f}"]
            rows.append([name, flow, *cells, f"{statistics.median(seconds):.0f}"])
            print(" ".join(rows[-1]), flush=True)
    print(table(rows))
    if options.picture:
        picture(guides, options.energies, options.picture)


if __name__ == "__main__":
    main()
