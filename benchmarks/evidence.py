"""Are the evidence of a refined posterior and the shares of its modes right? On known densities.

    OMP_NUM_THREADS=1 python benchmarks/evidence.py [NAME ...] [--seeds N] [--folder FOLDER]

Each posterior has a log evidence that is known, in double precision:

- `funnel`: Neal's, v ~ N(0, 3) and nine x ~ N(0, exp(v / 2));
- `student`: a multivariate Student-t variable of ten dimensions and three degrees of freedom;
- `two`: two normal modes in five dimensions, of shares 0.9 and 0.1, eight to eleven of their
  standard deviations apart;
- `five`: five normal modes in ten dimensions, of shares 0.35, 0.25, 0.2, 0.15 and 0.05, some 18
  apart;
- `wells8`, `wells32`: pairs of a double well and a normal variable (Midgley et al., 2023,
  https://arxiv.org/abs/2208.01893), in 8 dimensions of 2^4 modes and in 32 of 2^16;
- `two_modes`, `dual_moon`: those of FOLDER, which is as for `posteriors.py`.

`error` is that of the log evidence, `se` its own standard error; `share` is the largest error of
the share of a mode among the draws. Seconds are of CPU, of the whole fit.
"""

import argparse
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from timing import table
from torch import Tensor
from torch.distributions import constraints

from pyro_nf import fit

DRAWS = 10_000
HEAD = ["posterior", "runs", "error, rms", "worst", "se", "above 3 se", "share", "seconds"]


@dataclass(frozen=True)
class Known:
    """A model, its log evidence, and the shares of the modes of which the site has the middles."""

    model: Callable[[], None]
    log_evidence: float = 0.0
    site: str = "x"
    middles: Tensor | None = None
    shares: Tensor | None = None


def funnel() -> Known:
    def model() -> None:
        v = pyro.sample("v", dist.Normal(torch.zeros(()), 3.0))
        with pyro.plate("rows", 9):
            pyro.sample("x", dist.Normal(0.0, (v / 2).exp()))

    return Known(model)


def student() -> Known:
    def model() -> None:
        pyro.sample("x", dist.MultivariateStudentT(3.0, torch.zeros(10), torch.eye(10)))

    return Known(model)


def mixture(middles: Tensor, widths: Tensor, shares: Tensor) -> Known:
    """Normal modes with independent coordinates."""

    def model() -> None:
        flat = dist.ImproperUniform(constraints.real_vector, (), middles.shape[-1:])
        x = pyro.sample("x", flat)
        parts = dist.Normal(middles, widths).log_prob(x.unsqueeze(-2)).sum(-1)
        pyro.factor("mixture", (shares.log() + parts).logsumexp(-1))

    return Known(model, middles=middles, shares=shares)


def two() -> Known:
    middles = torch.tensor([-3.0, 3.0]).unsqueeze(-1).expand(2, 5)
    widths = torch.tensor([1.0, 0.7]).unsqueeze(-1).expand(2, 5)
    return mixture(middles, widths, torch.tensor([0.9, 0.1]))


def five() -> Known:
    generator = torch.Generator().manual_seed(1)
    middles = 4 * torch.randn(5, 10, generator=generator)
    widths = 0.5 + torch.rand(5, 10, generator=generator)
    return mixture(middles, widths, torch.tensor([0.35, 0.25, 0.2, 0.15, 0.05]))


def wells(pairs: int) -> Known:
    def model() -> None:
        flat = dist.ImproperUniform(constraints.real_vector, (), (2 * pairs,))
        x = pyro.sample("x", flat)
        a, b = x[..., 0::2], x[..., 1::2]
        pyro.factor("wells", (-(a**4) + 6 * a**2 + a / 2 - b**2 / 2).sum(-1))

    return Known(model, pairs * (math.log(11784.50927) + math.log(2 * math.pi) / 2))


def of_folder(folder: Path, name: str) -> Known:
    sys.path.insert(0, str(folder.resolve()))
    import load

    model, _ = load.load(name)
    if name == "two_modes":
        shares = load.load_data(name)["weight"]
        return Known(model, 0.0, "x", load.modes(name), shares)
    grid = torch.linspace(-8, 8, 1601)
    r1, r2 = torch.meshgrid(grid, grid, indexing="ij")
    height = [-((r1 + c) / 0.6).square() / 2 for c in (-2, 2)]
    log_p = torch.logaddexp(*height) - ((torch.hypot(r1, r2) - 2) / 0.4).square() / 2
    truth = float(log_p.flatten().logsumexp(0)) + 2 * math.log(0.01)
    return Known(model, truth, "z", load.modes(name), torch.tensor([0.5, 0.5]))


def known(folder: Path | None) -> dict[str, Callable[[], Known]]:
    found = {
        "funnel": funnel,
        "student": student,
        "two": two,
        "five": five,
        "wells8": lambda: wells(4),
        "wells32": lambda: wells(16),
    }
    if folder is not None:
        found["two_modes"] = lambda: of_folder(folder, "two_modes")
        found["dual_moon"] = lambda: of_folder(folder, "dual_moon")
    return found


def judged(case: Known, seed: int, **options: object) -> tuple[float, float, float, float, str]:
    """Error of the log evidence, its own, the largest of a share, seconds, and the verdict."""
    pyro.clear_param_store()
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posterior = fit(case.model, seed=seed, refine=True, progress=False, **options)
    seconds = time.process_time() - start
    torch.manual_seed(seed)
    diagnosis = posterior.diagnose(search=False)
    error, share = diagnosis.log_evidence - case.log_evidence, math.nan
    if case.middles is not None:
        nearest = torch.cdist(posterior.draws(DRAWS)[case.site], case.middles).argmin(-1)
        counts = torch.bincount(nearest, minlength=len(case.middles)) / DRAWS
        share = float((counts - case.shares).abs().max())
    return error, diagnosis.log_evidence_se, share, seconds, str(posterior.refinement)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    cases = known(options.folder)
    rows = [HEAD]
    for name in options.names or cases:
        case, found = cases[name](), []
        for seed in range(options.seeds):
            error, se, share, seconds, words = judged(case, seed)
            found.append((error, se, share, seconds))
            line = f"{name} {seed}: {error:+.4f} ± {se:.4f}, share {share:.4f}, {seconds:.1f} s"
            print(f"{line}, {words}", file=sys.stderr, flush=True)
        errors, ses, shares, times = zip(*found, strict=True)
        above = sum(abs(error) > 3 * se for error, se in zip(errors, ses, strict=True))
        rms = math.sqrt(statistics.mean(error**2 for error in errors))
        row = [name, str(len(found)), f"{rms:.4f}"]
        row += [f"{max(map(abs, errors)):.4f}", f"{statistics.median(ses):.4f}", str(above)]
        row += ["" if math.isnan(shares[0]) else f"{max(shares):.4f}"]
        rows.append([*row, f"{statistics.median(times):.1f}"])
    print(table(rows))


if __name__ == "__main__":
    main()
