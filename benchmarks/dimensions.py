"""What does a dimension cost? Normal posteriors and a hierarchical regression.

    OMP_NUM_THREADS=1 python benchmarks/dimensions.py [--dims 10 100 500] [--flows default F ...]

A normal posterior of D dimensions has a random correlation, that of W W' for a D x 2 D matrix W of
standard normal numbers, and standard deviations from 0.1 to 10. The regression has two coefficients
in each of 98 groups, with normal distributions above them, and five parameters of these: 201
dimensions; its reference is a long run of the Gibbs sampler. Errors are those of the worst
coordinate: of the mean, in standard deviations, and of the logarithm of the standard deviation.
It is the guide that is judged (`refine=False`). Each row is a process of its own, whose memory
counts all that it has loaded.
"""

import argparse
import resource
import subprocess
import sys
import time
import warnings

import pyro
import pyro.distributions as dist
import torch
from timing import table

from pyro_nf import fit

HEAD = [
    *("posterior", "flow", "D", "parameters", "steps", "seconds", "MiB", "mean", "log sd", "ESS"),
]
DRAWS = 10_000
SWEEPS, BURN = 22_000, 2_000  # of the Gibbs sampler
GROUPS, ROWS = 98, 8


def normal(dim):
    """A model, and the exact mean and standard deviation of each coordinate."""
    factor = torch.randn(dim, 2 * dim)
    covariance = factor @ factor.T
    scale = torch.logspace(-1, 1, dim) / covariance.diagonal().sqrt()
    covariance = scale[:, None] * covariance * scale
    mean = torch.randn(dim) * covariance.diagonal().sqrt()
    root = torch.linalg.cholesky(covariance)

    def model():
        pyro.sample("x", dist.MultivariateNormal(mean, scale_tril=root))

    return model, mean, covariance.diagonal().sqrt()


def regression():
    """A model, and what the Gibbs sampler finds: means and sds of unconstrained coordinates."""
    x = torch.stack([torch.ones(GROUPS, ROWS), torch.randn(GROUPS, ROWS)], -1)
    truth = torch.tensor([1.0, -0.5]) + torch.tensor([1.0, 0.5]) * torch.randn(GROUPS, 2)
    y = (x @ truth.unsqueeze(-1)).squeeze(-1) + torch.randn(GROUPS, ROWS)

    def model():
        above = pyro.sample("above", dist.Normal(torch.zeros(2), 10.0).to_event(1))
        spread = pyro.sample("spread", dist.InverseGamma(2.0 * torch.ones(2), 1.0).to_event(1))
        noise = pyro.sample("noise", dist.InverseGamma(torch.tensor(2.0), 1.0))
        with pyro.plate("groups", GROUPS, dim=-2):
            beta = pyro.sample(
                "beta", dist.Normal(above.unsqueeze(-2), spread.sqrt().unsqueeze(-2)).to_event(1)
            )
            with pyro.plate("rows", ROWS, dim=-1):
                pyro.sample("y", dist.Normal((beta * x).sum(-1), noise.sqrt()), obs=y)

    draws = gibbs(x, y)
    return model, draws.mean(0), draws.std(0)


def gibbs(x, y):
    """Draws of above, log spread, log noise and beta, one row each."""
    above, spread, noise = torch.zeros(2), torch.ones(2), torch.ones(())
    square, cross = x.mT @ x, (x.mT @ y.unsqueeze(-1)).squeeze(-1)
    rows = []
    for _ in range(SWEEPS):
        precision = square / noise + torch.diag(1 / spread)
        root = torch.linalg.cholesky(precision)
        half = torch.linalg.solve_triangular(
            root, (cross / noise + above / spread).unsqueeze(-1), upper=False
        )
        half = half + torch.randn_like(half)
        beta = torch.linalg.solve_triangular(root.mT, half, upper=True).squeeze(-1)
        weight = GROUPS / spread + 1 / 100
        above = beta.sum(0) / spread / weight + torch.randn(2) / weight.sqrt()
        squares = (beta - above).square().sum(0)
        spread = dist.InverseGamma(2 + GROUPS / 2, 1 + squares / 2).sample()
        squares = (y - (x @ beta.unsqueeze(-1)).squeeze(-1)).square().sum()
        noise = dist.InverseGamma(2 + y.numel() / 2, 1 + squares / 2).sample()
        rows.append(torch.cat([above, spread.log(), noise.log().reshape(1), beta.reshape(-1)]))
    return torch.stack(rows[BURN:])


def row(name, dim, flow):
    """Fit one posterior, and print its row."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    model, mean, sd = normal(dim) if name == "normal" else regression()
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posterior = fit(model, flow=flow, seed=0, progress=False, refine=False)
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with torch.no_grad():
        free = posterior.guide.get_posterior().sample(torch.Size([DRAWS]))
    parameters = sum(p.numel() for p in posterior.guide.parameters())
    numbers = [
        f"{seconds:.1f}",
        f"{memory:.0f}",
        f"{((free.mean(0) - mean) / sd).abs().max():.3f}",
        f"{(free.std(0) / sd).log().abs().max():.3f}",
        f"{posterior.diagnose(DRAWS).ess:.3f}",
    ]
    print(*(name, flow or "default", len(mean), parameters, len(posterior.losses)), *numbers)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dims", type=int, nargs="*", default=[10, 100, 500])
    parser.add_argument("--flows", nargs="+", default=["default"], help="formulas, or default")
    parser.add_argument("--row", nargs=3, metavar=("POSTERIOR", "D", "FLOW"), help="one row only")
    options = parser.parse_args()
    if options.row:
        name, dim, flow = options.row
        row(name, int(dim), None if flow == "default" else flow)
        return
    rows = [HEAD]
    jobs = [("normal", dim) for dim in options.dims] + [("regression", 201)]
    for flow in options.flows:
        for name, dim in jobs:
            command = [sys.executable, __file__, "--row", name, str(dim), flow]
            shown = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
            rows.append(shown.replace(flow, flow.replace(" ", "")).split())
            print(shown, end="", file=sys.stderr, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
