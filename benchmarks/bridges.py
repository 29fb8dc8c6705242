"""What are leapfrog steps worth? Bounds on published targets, beside published rows.

    OMP_NUM_THREADS=1 python benchmarks/bridges.py [FOLDER] [--names seeds funnel sonar]
        [--flows default diag] [--steps 0 8] [--auxiliary 0] [--seeds 0] [--cold] [--price]

Targets, in the form in which they were published:

- `seeds`: a logistic regression with an effect for each of 21 plates (Crowder, 1978), in log tau;
- `funnel`: v ~ N(0, 3) and nine x ~ N(0, exp(v / 2)), of log evidence 0;
- `sonar`: a logistic regression of 61 weights w ~ N(0, 1) on standardised columns and a one; FOLDER
  has its data, by `load_data` of its `load.py`;

and two shapes in the plane, which no bijection of few planes makes of a normal distribution:

- `ring`: exp(-8 (|u| - 2)^2), of log evidence 2.06;
- `modes`: two normal distributions of variance 1/2 around (1.5, 1.5) and its opposite, the first of
  a share of 0.62, of log evidence 1.62.

Each guide is trained by `fit(..., refine=False)`, whose warm start makes of `diag` a normal
distribution with all its correlations, freed from ties to parents; with `--cold` there is no warm
start, and `diag` stays diagonal in the model's coordinates. Seconds are of CPU, of training
alone; ELBO and log Z are by 20,000 draws. Published ELBOs are of 150,000 steps for a diagonal
normal distribution in the model's coordinates, the start, and 150,000 for the rest, with K
gradients of the model for each draw: the best of all methods for K = 8 and for K = 256, and UHA,
the method of the steps here (Vargas et al., 2024, https://arxiv.org/abs/2307.01050, by the outputs
of their notebooks).

With `--price` it is the CPU time of a compiled step of 64 draws instead, of the guide alone and
with leapfrog steps, on eight schools and, of FOLDER, on `german_credit`.
"""

import argparse
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from timing import table

from pyro_nf import AutoFlowGuide, fit
from pyro_nf.examples import EIGHT_SCHOOLS, eight_schools
from pyro_nf.fitting.elbo import ManyParticles
from pyro_nf.fitting.objectives import drawn
from pyro_nf.fitting.step import Step
from pyro_nf.model import Target

DRAWS = 20_000
PARTICLES, CALLS, ROUNDS = 64, 20, 5  # of a step whose price is asked for
HEAD = ["target", "D", "flow", "K", "A", "seed", "CPU [s]", "ELBO", "log Z", "ESS"]
PUBLISHED = [
    ["target", "best, K = 8", "best, K = 256", "UHA, K = 8", "16", "32", "log Z"],
    ["seeds", "-74.53", "-73.59", "-74.89", "-74.54", "-74.27", "-73.40 ± 0.07"],
    ["funnel", "-0.86", "-0.21", "", "", "", "0"],
    ["sonar", "-112.27", "-108.90", "-120.03", "-116.73", "-114.00", "-108.38"],
]
GERMINATED = [10, 23, 23, 26, 17, 5, 53, 55, 32, 46, 10, 8, 10, 8, 23, 0, 3, 22, 15, 32, 3]
SOWN = [39, 62, 81, 51, 39, 6, 74, 72, 51, 79, 13, 16, 30, 28, 45, 4, 12, 41, 30, 51, 7]
FIRST = [0] * 11 + [1] * 10  # the kind of seed
SECOND = [0] * 5 + [1] * 6 + [0] * 5 + [1] * 5  # the extract of roots
DOUBLE = torch.float64


def seeds(_):
    counts, sown, kind, root = (
        torch.tensor(x, dtype=DOUBLE) for x in (GERMINATED, SOWN, FIRST, SECOND)
    )
    columns = torch.stack([torch.ones(21, dtype=DOUBLE), kind, root, kind * root], -1)
    one = torch.ones((), dtype=DOUBLE)

    def model():
        flat = dist.ImproperUniform(dist.constraints.real, (), ())
        log_tau = one * pyro.sample("log_tau", flat)
        tau = log_tau.exp()
        pyro.factor("prior", dist.Gamma(0.01 * one, 0.01 * one).log_prob(tau) + log_tau)
        a = pyro.sample("a", dist.Normal(torch.zeros(4, dtype=DOUBLE), 10.0).to_event(1))
        with pyro.plate("plates", 21):
            b = pyro.sample("b", dist.Normal(0 * one, tau.rsqrt()))
            logits = (columns * a.unsqueeze(-2)).sum(-1) + b
            pyro.sample("r", dist.Binomial(sown, logits=logits), obs=counts)

    return model


def funnel(_):
    def model():
        v = pyro.sample("v", dist.Normal(torch.zeros((), dtype=DOUBLE), 3.0))
        with pyro.plate("rows", 9):
            pyro.sample("x", dist.Normal(0 * v, (v / 2).exp()))

    return model


def sonar(folder):
    sys.path.insert(0, str(folder.resolve()))
    import load

    data = load.load_data("sonar")
    x, y = data["X"], data["y"]
    x = (x - x.mean(0)) / x.std(0, correction=0)
    x = torch.cat([torch.ones(len(x), 1, dtype=DOUBLE), x], -1)

    def model():
        w = pyro.sample("w", dist.Normal(torch.zeros(x.size(-1), dtype=DOUBLE), 1.0).to_event(1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=(x * w.unsqueeze(-2)).sum(-1)), obs=y)

    return model


def shape(log_density):
    def model():
        flat = dist.ImproperUniform(dist.constraints.real_vector, (), (2,))
        u = pyro.sample("u", flat)
        pyro.factor("shape", log_density(u))

    return model


def ring(_):
    return shape(lambda u: -8 * (u.square().sum(-1).sqrt() - 2).square())


def modes(_):
    def log_density(u):
        first, second = ((u - middle).square().sum(-1) for middle in (1.5, -1.5))
        return torch.logaddexp(-first, -second - 0.5)

    return shape(log_density)


TARGETS = {"seeds": seeds, "funnel": funnel, "sonar": sonar, "ring": ring, "modes": modes}


def row(name, model, flow, steps, more, seed, cold=False):
    """One fit: what it took, and its bound."""
    pyro.clear_param_store()
    given = None if flow == "default" else flow
    guide = AutoFlowGuide(model, given, hamiltonian=steps, auxiliary=more)
    if cold:
        torch.manual_seed(seed)
        guide.setup()  # no longer new
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posterior = fit(model, guide=guide, seed=seed, progress=False, refine=False)
    seconds = time.process_time() - start
    torch.manual_seed(seed)
    log_w = posterior.log_weights(DRAWS)
    error = log_w.std() / DRAWS**0.5
    w = (log_w - log_w.max()).exp()
    log_z = log_w.max() + w.mean().log()
    z_error = w.std() / w.mean() / DRAWS**0.5
    ess = w.sum().square() / w.square().sum() / DRAWS
    counts = [str(part) for part in (guide.latent_dim, flow, steps, more, seed)]
    numbers = [f"{log_w.mean():.2f} ± {error:.2f}", f"{log_z:.2f} ± {z_error:.2f}", f"{ess:.2f}"]
    return [name, *counts, f"{seconds:.0f}", *numbers]


def priced(name, model, flow, counts):
    """CPU milliseconds of a step, for some numbers of leapfrog steps."""
    rows = []
    for count in counts:
        pyro.clear_param_store()
        torch.manual_seed(0)
        guide = AutoFlowGuide(model, flow, hamiltonian=count).setup()
        target = Target.of(guide)
        step = Step(ManyParticles(num_particles=PARTICLES), model, guide)
        step.use_objective(lambda q=guide, p=target: drawn(p, q.get_posterior(), PARTICLES))
        assert step.compile("quick"), step.reason
        best = min(timed(step) for _ in range(ROUNDS))
        first = best if not rows else float(rows[0][4])
        rows.append([name, flow, str(count), str(step.nodes), f"{best:.3f}", f"{best / first:.1f}"])
    return rows


def timed(step):
    start = time.process_time()
    for _ in range(CALLS):
        step(0.0)
    return 1000 * (time.process_time() - start) / CALLS


def prices(folder):
    """The rows of all models and flows."""
    models = {"eight_schools": partial(eight_schools, *EIGHT_SCHOOLS.data)}
    if folder is not None:
        sys.path.insert(0, str(folder.resolve()))
        import load

        models["german_credit"] = load.load("german_credit", torch.float32)[0]
    return [
        line
        for name, model in models.items()
        for flow in ("diag", "affine_coupling*6")
        for line in priced(name, model, flow, [0, 4, 8])
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--names", nargs="+", choices=TARGETS, default=["seeds", "funnel"])
    parser.add_argument("--flows", nargs="+", default=["default", "diag"])
    parser.add_argument("--steps", nargs="+", type=int, default=[0, 8])
    parser.add_argument("--auxiliary", nargs="+", type=int, default=[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--price", action="store_true")
    options = parser.parse_args()
    if options.price:
        head = ["model", "flow", "K", "nodes", "step [ms]", "times that of 0"]
        print(table([head, *prices(options.folder)]))
        return
    rows = [HEAD]
    for name in options.names:
        model = TARGETS[name](options.folder)
        for flow in options.flows:
            kinds = [(steps, 0) for steps in options.steps]
            kinds += [(0, more) for more in options.auxiliary if more]
            for steps, more in kinds:
                for seed in options.seeds:
                    rows.append(row(name, model, flow, steps, more, seed, options.cold))
                    print(" | ".join(rows[-1]), flush=True)
    print("\n" + table(rows))
    print("\n" + table(PUBLISHED))


if __name__ == "__main__":
    main()
