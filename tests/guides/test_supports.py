"""Supports that depend on other latents are those of the run, and the posterior is right."""

import copy
import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.reparam import NeuTraReparam
from pyro.optim import Adam

from pyro_nf import AmortizedFlowGuide, AutoFlowGuide, Posterior, fit

DOUBLE = torch.float64
ONE = torch.ones((), dtype=DOUBLE)
DATA = torch.tensor(1.1, dtype=DOUBLE)


def shares(x):
    """Two shares, of which the second is of what the first has left."""
    alpha = pyro.sample("alpha", dist.Uniform(0 * ONE, ONE))
    beta = pyro.sample("beta", dist.Uniform(0 * ONE, 1 - alpha))
    pyro.sample("x", dist.Normal(alpha + 2 * beta, 0.3 * ONE), obs=x)


def on_a_grid(sides=600):
    """Means and standard deviations of both, by quadrature over alpha and beta / (1 - alpha)."""
    middles = (torch.arange(sides, dtype=DOUBLE) + 0.5) / sides
    alpha, part = torch.meshgrid(middles, middles, indexing="ij")
    beta = part * (1 - alpha)
    weight = torch.softmax(-((DATA - alpha - 2 * beta) / 0.3).square().reshape(-1) / 2, 0)
    found = {}
    for name, value in (("alpha", alpha), ("beta", beta)):
        mean = (weight * value.reshape(-1)).sum()
        found[name] = mean, (weight * (value.reshape(-1) - mean).square()).sum().sqrt()
    evidence = (-((DATA - alpha - 2 * beta) / 0.3).square() / 2).exp().mean()
    return found, float((evidence / (0.3 * math.sqrt(2 * math.pi))).log())


@pytest.fixture(scope="module")
def fitted():
    with torch.random.fork_rng(devices=[]):
        return fit(shares, DATA, seed=0, progress=False)


def close(draws):
    exact, _ = on_a_grid()
    for name, (mean, sd) in exact.items():
        value = draws[name]
        assert abs(float(value.mean() - mean) / sd) < 0.06, name  # 10,000 draws: 0.01 is noise
        assert abs(float((value.std() / sd).log())) < 0.05, name
    assert bool((draws["alpha"] + draws["beta"] < 1).all())


def test_fit_is_right(fitted):
    close(fitted.draws(10_000))
    diagnosis = fitted.diagnose()
    assert diagnosis.verdict == "good"
    assert diagnosis.missed == 0.0  # the search has packed and unpacked by the run's supports
    assert diagnosis.log_evidence == pytest.approx(on_a_grid()[1], abs=0.02)


def test_plain_svi_is_right():
    torch.manual_seed(0)
    guide = AutoFlowGuide(shares, "affine_coupling*4 + tails")
    elbo = Trace_ELBO(num_particles=64, vectorize_particles=True, max_plate_nesting=0)
    svi = SVI(shares, guide, Adam({"lr": 1e-2}), elbo)
    for _ in range(800):
        svi.step(DATA)
    for group in (3e-3, 1e-3):
        svi.optim = Adam({"lr": group})
        for _ in range(400):
            svi.step(DATA)
    close(Posterior(shares, guide, DATA).draws(10_000))
    # The same with particles one by one.
    alone = Trace_ELBO(num_particles=8).loss(shares, guide, DATA)
    together = Trace_ELBO(num_particles=512, vectorize_particles=True, max_plate_nesting=0).loss(
        shares, guide, DATA
    )
    assert alone == pytest.approx(together, abs=0.3)


def test_the_density_of_given_values_is_that_of_the_draws(fitted):
    """By quadrature: it integrates to one over the triangle, and is zero outside of it."""
    sides = 300
    middles = (torch.arange(sides, dtype=DOUBLE) + 0.5) / sides
    alpha, part = (side.reshape(-1) for side in torch.meshgrid(middles, middles, indexing="ij"))
    density = fitted.log_prob({"alpha": alpha, "beta": part * (1 - alpha)}).exp()
    assert float((density * (1 - alpha)).mean()) == pytest.approx(1.0, abs=0.01)
    outside = {"alpha": torch.tensor([0.7]), "beta": torch.tensor([0.4])}
    assert fitted.log_prob(outside).tolist() == [-math.inf]


def test_files_copies_and_quantiles(fitted, tmp_path):
    fitted.save(tmp_path / "p.pt")
    again = Posterior.load(tmp_path / "p.pt", shares, DATA)
    torch.manual_seed(1)
    expected = fitted.draws(50)
    torch.manual_seed(1)
    torch.testing.assert_close(again.draws(50), expected)
    copied = copy.deepcopy(fitted.guide)
    median = fitted.guide.median(DATA)
    torch.testing.assert_close(copied.median(DATA), median)
    assert float(median["alpha"] + median["beta"]) < 1
    assert fitted.guide.dependent_sites == {"beta"}


def test_neutra_takes_it(fitted):
    neutra = NeuTraReparam(fitted.guide)
    straight = neutra.reparam(shares)
    trace = pyro.poutine.trace(straight).get_trace(DATA)
    (name,) = [name for name in trace.nodes if name.endswith("_shared_latent")]
    z = trace.nodes[name]["value"]
    values = neutra.transform_sample(z)
    for site in ("alpha", "beta"):
        torch.testing.assert_close(values[site], trace.nodes[site]["value"])


def in_plates():
    shift = pyro.sample("shift", dist.Normal(0 * ONE, 0.3))
    with pyro.plate("rows", 3):
        first = pyro.sample("first", dist.Pareto(shift.exp(), 3 * ONE))
        pyro.sample("second", dist.Uniform(0 * ONE, first))


def hidden_sizes():
    size = pyro.sample("size", dist.Gamma(3 * ONE, ONE).expand([2]).to_event(1))
    pyro.sample("below", dist.Uniform(torch.zeros(2, dtype=DOUBLE), size).to_event(1))


@pytest.mark.parametrize("model", [in_plates, hidden_sizes])
def test_a_prior_is_fitted_whatever_its_plates(model):
    """Each second site, over its bound, is uniform and independent of all others."""
    posterior = fit(model, seed=0, progress=False)
    draws = posterior.draws(4000)
    low, high = ("first", "second") if model is in_plates else ("size", "below")
    part = draws[high] / draws[low]
    assert bool(((part > 0) & (part < 1)).all())
    error = math.sqrt(1 / 12 / 4000)
    assert bool(((part.mean(0) - 0.5).abs() < 5 * error + 0.01).all())
    assert posterior.diagnose(1000).verdict == "good"


def test_the_amortized_guide_still_wants_supports_that_are_fixed():
    def rows(x):
        with pyro.plate("rows", len(x)):
            first = pyro.sample("first", dist.HalfNormal(1.0))
            pyro.sample("second", dist.Uniform(0.0, first))

    guide = AmortizedFlowGuide(rows, torch.nn.Linear(1, 4), "planar*2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="depends on another latent site"):
            guide.setup(torch.randn(5, 1))
