"""What does the path gradient buy? Its noise, and what a guide reaches with it in equal time.

    OMP_NUM_THREADS=1 python benchmarks/gradients.py [FOLDER [NAME ...]] [--flows F ...] [--seeds 0]

`noise` is the trace of a gradient's covariance, of 64 draws, over that of the total gradient at the
same place, where a fit has ended. Then two guides start from one warm start and are trained by one
schedule of so many steps, and of as many more for the total gradient as its steps are cheaper;
`gap` is log p(data) - ELBO, with the evidence by importance sampling from the better guide.
"""

import argparse
import math
import statistics
import sys
import time
import warnings
from pathlib import Path

import pyro
import torch
from timing import table

from pyro_nf import AutoFlowGuide, fit
from pyro_nf.fitting.elbo import ManyParticles
from pyro_nf.fitting.step import Step

HERE = Path(__file__).parent / "posteriordb"
FLOWS = ["affine_coupling*6 + tails + tril + tails", "planar*16"]
KINDS = ("path", "total")
STEPS, REPEATS, MANY = 2_000, 200, 100_000
TIMED = 200  # steps by which those of both are compared


def trained(model, flow, kind, steps, seed):
    """A posterior, and the seconds that a fit took."""
    pyro.clear_param_store()
    guide = AutoFlowGuide(model, flow, gradient=kind)
    start = time.perf_counter()
    alone = {"progress": False, "refine": False}
    posterior = fit(model, guide=guide, steps=steps, compile="quick", seed=seed, **alone)
    return posterior, time.perf_counter() - start


def noise(model, guide):
    """The trace of the covariance of each kind of gradient, where the guide is."""
    found = {}
    for kind in KINDS:
        guide.gradient = kind
        step = Step(ManyParticles(num_particles=64), model, guide)
        drawn = torch.stack([step.gradient()[1] for _ in range(REPEATS)])
        found[kind] = float(drawn.var(0).sum())
    return found


def compared(model, flow, seed):
    """The ratio of the noises, and for each kind of gradient steps, seconds and gap."""
    per_step = {}
    for kind in KINDS:
        # The difference of two fits, without what both take to begin and to end.
        short, long = (trained(model, flow, kind, n * TIMED, seed)[1] for n in (1, 3))
        per_step[kind] = (long - short) / (2 * TIMED)
    more = max(1.0, per_step["path"] / per_step["total"])
    counts = {"path": STEPS, "total": int(more * STEPS)}
    results = {kind: trained(model, flow, kind, counts[kind], seed) for kind in KINDS}
    torch.manual_seed(seed)
    weights = {kind: result[0].log_weights(MANY) for kind, result in results.items()}
    best = min(weights.values(), key=lambda values: float(values.var()))
    evidence = float(best.logsumexp(0)) - math.log(MANY)
    gaps = {kind: float(evidence - values.mean()) for kind, values in weights.items()}
    size = noise(model, results["path"][0].guide)
    return size["path"] / size["total"], counts, results, gaps


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=HERE)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--flows", nargs="+", default=FLOWS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    sys.path.insert(0, str(options.folder.resolve()))
    import load

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    warnings.simplefilter("ignore")
    head = ["posterior", "flow", "noise", "gradient", "steps", "seconds", "gap, median", "worst"]
    rows = [head]
    for name in options.names or load.names():
        model, _ = load.load(name)
        for flow in options.flows:
            found = [compared(model, flow, seed) for seed in options.seeds]
            ratio = statistics.median(ratio for ratio, *_ in found)
            for kind in KINDS:
                gaps = [gaps[kind] for *_, gaps in found]
                steps = statistics.median(counts[kind] for _, counts, *_ in found)
                seconds = statistics.median(results[kind][1] for *_, results, _ in found)
                shown = f"{ratio:.2g}" if kind == "path" else "1"
                cells = [f"{steps:.0f}", f"{seconds:.1f}"]
                cells += [f"{statistics.median(gaps):.5f}", f"{max(gaps):.5f}"]
                rows.append([name, flow, shown, kind, *cells])
                print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
