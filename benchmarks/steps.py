"""What a step costs: ours beside Pyro's and NumPyro's, on eight schools, in one run.

    OMP_NUM_THREADS=1 python benchmarks/steps.py [--quick] [--numpyro PYTHON]

PYTHON is an interpreter of an environment of its own in which NumPyro is installed.
"""

import argparse
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.transforms import affine_autoregressive, iterated, planar, radial
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormalizingFlow
from pyro.optim import Adam
from timing import race, table

from pyro_nf import AutoFlowGuide, make_flow
from pyro_nf.engines import quick
from pyro_nf.examples import EIGHT_SCHOOLS, eight_schools
from pyro_nf.fitting.step import Step

DATA = EIGHT_SCHOOLS.data


def elbo(particles):
    return Trace_ELBO(particles, vectorize_particles=True, max_plate_nesting=1)


def svi_step(guide, particles):
    svi = SVI(eight_schools, guide, Adam({"lr": 1e-3}), elbo(particles))
    return lambda: svi.step(*DATA)


def eager(rounds):
    rows = [["eager SVI step", "particles", "Pyro [ms]", "pyro_nf [ms]", "ratio", "wanted"]]
    for name, transform in (("planar", planar), ("radial", radial)):
        for particles in (1, 64):
            theirs = AutoNormalizingFlow(eight_schools, partial(iterated, 8, transform))
            # A second AutoNormalizingFlow under the same name would train the first one's tensors.
            theirs._pyro_name = f"rival_{name}_{particles}"
            ours = AutoFlowGuide(eight_schools, f"{name}*8")
            times = race(
                {"pyro": svi_step(theirs, particles), "ours": svi_step(ours, particles)},
                calls=10,
                rounds=rounds,
            )
            ratio = times["ours"] / times["pyro"]
            cells = [f"{times[key] * 1e3:.2f}" for key in ("pyro", "ours")]
            rows.append([f"{name}*8", str(particles), *cells, f"{ratio:.2f}", "<= 0.70"])
    return rows


def compiled(rounds):
    theirs = AutoNormalizingFlow(eight_schools, partial(iterated, 8, planar))
    theirs._pyro_name = "rival_compiled"
    runners = {"Pyro, eager": svi_step(theirs, 64)}
    ready = {}
    for tier in ("quick", "full"):
        guide = AutoFlowGuide(eight_schools, "planar*8").setup(*DATA)
        start = time.perf_counter()
        step = Step(elbo(64), eight_schools, guide, DATA)
        if not step.compile(tier):
            raise RuntimeError(step.reason)
        step(1e-3)
        ready[tier] = time.perf_counter() - start
        runners[tier] = partial(step, 1e-3)
    times = race(runners, calls=20, rounds=rounds)
    rows = [["step, planar*8, 64 particles", "ready [s]", "step [ms]", "times cheaper", "wanted"]]
    base = times["Pyro, eager"]
    rows.append(["Pyro, eager", "", f"{base * 1e3:.2f}", "1", ""])
    for tier, wanted in (("quick", ">= 5"), ("full", ">= 30")):
        cells = [f"{ready[tier]:.1f}", f"{times[tier] * 1e3:.3f}", f"{base / times[tier]:.1f}"]
        rows.append([f"pyro_nf, {tier}", *cells, wanted])
    return rows


def scripted(rounds):
    """The quick tier beside torch.jit.trace, which it was before torch ended that."""
    rows = [["quick, 64 particles", "nodes", "ready [s]", "step [ms]", "TorchScript [ms]", "ratio"]]
    models = {"eight schools": (eight_schools, DATA), "D = 1": (one, (torch.arange(20.0),))}
    models["26 coefficients"] = regression, (torch.randn(200, 26), torch.arange(200.0) % 2)
    for name, (model, data) in models.items():
        pyro.clear_param_store()
        step = Step(elbo(64), model, AutoFlowGuide(model).setup(*data), data)
        inputs, graph = step._inputs, step._trace()
        start = time.perf_counter()
        ours = quick(graph, inputs)
        ready = time.perf_counter() - start
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the end of TorchScript
            copies = tuple(tensor.clone() for tensor in inputs)
            theirs = torch.jit.trace(lambda *t, g=graph: g(*t)[0], copies, check_trace=False)
        runners = {"ours": partial(ours, inputs), "script": partial(theirs, *inputs)}
        times = race(runners, calls=20, rounds=2 * rounds)
        cells = [f"{times[key] * 1e3:.3f}" for key in ("ours", "script")]
        ratio = f"{times['ours'] / times['script']:.2f}"
        rows.append([name, str(len(graph.calls)), f"{ready:.2f}", *cells, ratio])
    return rows


def one(x):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


def regression(covariates, y):
    with pyro.plate("coefficients", 26):
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        logits = (b.unsqueeze(-2) @ covariates.T).squeeze(-2)
        pyro.sample("y", dist.Bernoulli(logits=logits), obs=y)


class Rival:
    """NumPyro in a process of its own, which times a block of steps whenever it is told to."""

    def __init__(self, python, guide):
        script = Path(__file__).with_name("numpyro_step.py")
        self.process = subprocess.Popen(
            [python, str(script), guide],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ready = float(self.process.stdout.readline())

    def __call__(self):
        """Seconds a step."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


def numpyro(python, rounds):
    flows = {
        "AutoIAFNormal": [partial(affine_autoregressive, hidden_dims=[32, 32])] * 2,
        "AutoDiagonalNormal": "diag",
    }
    rows = [["64 particles", "NumPyro ready [s]", "ready [s]", "NumPyro [ms]", "[ms]", "ratio"]]
    for name, flow in flows.items():
        rival = Rival(python, name)
        guide = AutoFlowGuide(eight_schools, flow).setup(*DATA)
        start = time.perf_counter()
        step = Step(elbo(64), eight_schools, guide, DATA)
        if not step.compile("full"):
            raise RuntimeError(step.reason)
        ready = time.perf_counter() - start
        theirs, ours = [], []
        for _ in range(rounds):
            theirs.append(rival())
            ours.append(race({"ours": partial(step, 1e-3)}, calls=200, rounds=1)["ours"])
        pair = sorted(theirs)[rounds // 2], sorted(ours)[rounds // 2]
        cells = [f"{rival.ready:.1f}", f"{ready:.1f}", *(f"{t * 1e3:.3f}" for t in pair)]
        rows.append([name, *cells, f"{pair[1] / pair[0]:.2f}"])
    return rows


def inverse(rounds):
    torch.manual_seed(0)
    flow = make_flow("planar", 10).double()
    with torch.no_grad():
        flow.params.theta.add_(torch.randn_like(flow.params.theta))
        x = torch.randn(10_000, 10, dtype=torch.float64)
        y = flow(x)
        error = float((flow.inverse_and_log_det(y)[0] - x).abs().max())
        runners = {
            "forward": lambda: flow.forward_and_log_det(x),
            "inverse": lambda: flow.inverse_and_log_det(y),
        }
        times = race(runners, calls=20, rounds=rounds)
    ratio = times["inverse"] / times["forward"]
    return [
        ["planar, 10,000 points, D = 10, float64", "inverse / forward", "wanted", "error"],
        ["", f"{ratio:.2f}", "<= 5", f"{error:.0e}"],
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds: does it run at all?")
    parser.add_argument("--numpyro", help="the interpreter of an environment with NumPyro")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pyro.set_rng_seed(0)
    rounds = 2 if options.quick else 15
    print(table(eager(rounds)), "\n")
    print(table(inverse(rounds)), "\n")
    print(table(compiled(rounds)), "\n", flush=True)
    print(table(scripted(rounds)), "\n", flush=True)
    if options.numpyro:
        print(table(numpyro(options.numpyro, rounds)))
    else:
        print("NumPyro was not measured: name its interpreter with --numpyro", file=sys.stderr)


if __name__ == "__main__":
    main()
