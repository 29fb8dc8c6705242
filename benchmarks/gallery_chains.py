"""Reference moments of a model of the gallery: quadrature, or long chains from many starts.

The chains are Hamiltonian Monte Carlo in float64, in the coordinates that their own warm-up finds,
and know no guide: of pyro_nf they use the log density of a model, as it is over unconstrained
numbers. R-hat is that of the rank-free, split kind, of the worst number.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from gallery_models import Written
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to

from pyro_nf import AutoFlowGuide
from pyro_nf.model import traced_scores
from pyro_nf.model.target import Target

CHAINS = 32
WARM_UP = (50, 50, 100, 150)  # transitions between two looks at the covariance
BRIEF, KEPT = 50, 600  # transitions for the bounds of a grid, and for moments
LEAPS = 16  # at most
CLIMB, CLIMB_RATE = 150, 0.05  # steps from the starts, and their size
LOST = 10.0  # nats a number below the others
MIXED = 1.05  # R-hat, above which chains are no reference
WANTED = 0.85  # share of transitions to accept
READ = 6400  # states of the chains of which latents are read off
GRID = 80  # points a number, a quarter of a standard deviation apart

Latents = dict[str, Tensor]


def as_tensors(value: Any) -> Any:
    """Data as float64 and int64 tensors, wherever they lie; what is no data stays."""
    if isinstance(value, pd.Series):
        value = value.to_numpy(copy=True)
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.double()
    return value


def unconstrained(
    model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], draws: Latents
) -> Latents:
    """Draws of a model's continuous latents in unconstrained coordinates, by the supports of a run.

    Arguments:
        draws: Each of shape ``(n, *shape)``; names that are no latents are left out.
    """
    args = [as_tensors(value) for value in args]
    kwargs = {name: as_tensors(value) for name, value in kwargs.items()}
    first = {name: value[0] for name, value in draws.items()}
    with torch.no_grad(), poutine.block():
        nodes = poutine.trace(poutine.condition(model, first)).get_trace(*args, **kwargs).nodes
    return {
        name: biject_to(nodes[name]["fn"].support).inv(value)
        for name, value in draws.items()
        if name in nodes and not nodes[name]["fn"].support.is_discrete
    }


def reference(written: Written, seed: int) -> dict[str, Any]:
    """Means and standard deviations of what is compared, and how they were found."""
    torch.manual_seed(seed)
    args = [as_tensors(value) for value in written.args]
    kwargs = {name: as_tensors(value) for name, value in written.kwargs.items()}
    model = written.twin or written.model
    guide = AutoFlowGuide(model, "diag")
    with poutine.block():
        guide.setup(*args, **kwargs)
    target = Target.of(guide, args, kwargs)
    kept = BRIEF if target.dim <= 2 else KEPT
    draws, r_hat, accepted = _chains(target, kept)
    if target.dim <= 2:
        u, weights = _grid(target, draws.flatten(0, 1))
        how = f"quadrature, {GRID} points a number"
    else:
        if not r_hat < MIXED:
            raise RuntimeError(f"the chains are no reference: R-hat {r_hat:.3f}")
        every = len(draws) * CHAINS // READ
        u = draws.flatten(0, 1)[::every]
        weights = torch.ones(len(u))
        how = f"{CHAINS} chains of {kept}, R-hat {r_hat:.3f}, {accepted:.2f} accepted"
    found = _numbers(written, target, u)
    return {"how": how, "moments": _moments(found, weights)}


def of_nuts(written: Written, draws: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The same from draws of NumPyro's NUTS, each of shape ``(chains, n, *shape)``."""
    chains = {name: torch.as_tensor(value) for name, value in draws.items()}
    count, length = next(iter(chains.values())).shape[:2]
    values = {name: value.flatten(0, 1) for name, value in chains.items()}
    if written.numbers:
        found = written.numbers(values)
    else:
        found = unconstrained(written.model, written.args, written.kwargs, values)
    r_hat = max(
        _r_hat(value.reshape(count, length, -1).transpose(0, 1)) for value in found.values()
    )
    if not r_hat < MIXED:
        raise RuntimeError(f"NumPyro's NUTS is no reference: R-hat {r_hat:.3f}")
    how = f"NumPyro's NUTS, {count} chains of {length}, R-hat {r_hat:.3f}"
    return {"how": how, "moments": _moments(found, torch.ones(count * length))}


def _moments(found: Latents, weights: Tensor) -> dict[str, list[list[float]]]:
    """Means and standard deviations of each number."""
    weights = (weights / weights.sum()).double()[:, None]
    moments = {}
    for name, value in found.items():
        value = value.reshape(len(value), -1).double()
        mean = (weights * value).sum(0)
        sd = (weights * (value - mean) ** 2).sum(0).sqrt()
        moments[name] = [[round(x, 5) for x in part.tolist()] for part in (mean, sd)]
    return moments


@torch.no_grad()
def _numbers(written: Written, target: Target, u: Tensor) -> Latents:
    """What is compared, at the points u, read off runs of the twin."""
    runs: dict[str, list[Tensor]] = {}
    supports = {}
    with poutine.block():
        for point in u:
            trace, _ = target.trace(point)
            for name, node in trace.nodes.items():
                if node["type"] == "sample" and not site_is_subsample(node):
                    told = node["infer"].get("_deterministic")
                    if told or not node["is_observed"]:
                        runs.setdefault(name, []).append(node["value"])
                        supports[name] = None if told else node["fn"].support
    values = {name: torch.stack(value) for name, value in runs.items()}
    if written.numbers:
        return written.numbers(values)
    return {
        name: value if supports[name] is None else biject_to(supports[name]).inv(value)
        for name, value in values.items()
        if value.is_floating_point()
    }


def _grid(target: Target, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Points of a grid around draws, and weights by the density there; the least are left out."""
    low, high = draws.min(0).values, draws.max(0).values
    room = (high - low) / 2
    axes = [
        torch.linspace(float(a), float(b), GRID)
        for a, b in zip(low - room, high + room, strict=True)
    ]
    points = torch.cartesian_prod(*axes).reshape(-1, target.dim)
    density = torch.cat([target(part) for part in points.split(4000)]).nan_to_num(-torch.inf)
    keep = density > density.max() - 16
    return points[keep], (density[keep] - density.max()).exp()


def _chains(target: Target, kept: int) -> tuple[Tensor, float, float]:
    """States of many chains, of shape ``(kept, CHAINS, D)``, their R-hat, the share accepted."""
    dim = target.dim
    u = target.start + torch.rand(CHAINS, dim) * 2 - 1
    scores = traced_scores(target, u)
    for _ in range(100):  # to where the density is finite
        value, slope = scores(u)
        lost = ~(value.isfinite() & slope.isfinite().all(-1))
        if not lost.any():
            break
        u = torch.where(lost[:, None], target.start + 0.5 * torch.randn(CHAINS, dim), u)
    u = _climb(scores, u)
    value, slope = scores(u)
    factor, size = torch.eye(dim), 0.1
    for length in WARM_UP if kept == KEPT else WARM_UP[:2]:
        u, value, slope, path, size, _ = _run(scores, u, value, slope, factor, size, length, True)
        seen = path[length // 2 :].flatten(0, 1)
        if dim < 200:
            covariance = seen.T.cov().reshape(dim, dim)
            factor = torch.linalg.cholesky(
                covariance + 1e-9 * covariance.diag().mean() * torch.eye(dim)
            )
        else:
            factor = seen.std(0).diag()
        size = 0.5
    *_, path, _, rate = _run(scores, u, value, slope, factor, size, kept, False)
    return path, _r_hat(path), rate


def _climb(scores: Any, u: Tensor) -> Tensor:
    """Up from far starts, where no step suits all, to about where the mass is; each to its own."""
    rise = torch.optim.Adam([u], CLIMB_RATE)
    for _ in range(CLIMB):
        u.grad = -scores(u)[1].nan_to_num(0.0)
        rise.step()
    # One chain that is lost far away would give all of them its width.
    height = scores(u)[0].nan_to_num(-torch.inf)
    lost = height < height.median() - LOST * u.shape[-1]
    return torch.where(lost[:, None], u[~lost][torch.randint(int((~lost).sum()), (len(u),))], u)


def _run(scores, u, value, slope, factor, size, length, adapt):
    """So many transitions of all chains; the size of a step follows the rate of acceptance."""
    kept, rates = [], []
    for index in range(length):
        speed = torch.randn_like(u)
        before = value - speed.square().sum(-1) / 2
        step = size * (0.7 + 0.6 * torch.rand(len(u), 1))
        new, new_value, new_slope = u, value, slope
        for _ in range(int(torch.randint(1, LEAPS + 1, ()))):
            speed = speed + step / 2 * (new_slope @ factor)
            new = new + step * (speed @ factor.T)
            new_value, new_slope = scores(new)
            speed = speed + step / 2 * (new_slope @ factor)
        chance = (
            (new_value - speed.square().sum(-1) / 2 - before).clamp(max=0.0).exp().nan_to_num(0.0)
        )
        taken = torch.rand_like(chance) < chance
        u = torch.where(taken[:, None], new, u)
        slope = torch.where(taken[:, None], new_slope, slope)
        value = torch.where(taken, new_value, value)
        rates.append(float(chance.mean()))
        if adapt:
            size *= 2.0 ** ((rates[-1] - WANTED) / (1 + index) ** 0.5)
        kept.append(u)
    return u, value, slope, torch.stack(kept), size, sum(rates) / length


def _r_hat(path: Tensor) -> float:
    """The worst split R-hat of chains of shape ``(n, chains, D)``."""
    halves = torch.cat(path.tensor_split(2), 1)
    n = len(halves)
    within = halves.var(0).mean(0)
    between = halves.mean(0).var(0)
    return float((((n - 1) / n * within + between) / within).sqrt().max())
