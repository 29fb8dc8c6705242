"""Calibration of fits that are right or wrong by construction, on models with known posteriors."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal

import pyro_nf
from pyro_nf import calibrate
from pyro_nf.studies.calibration import LIKELIHOOD

GROUPS, ROWS = 5, 4
DATA = torch.zeros(ROWS, GROUPS)
SIMULATIONS = 200


def means(x):
    """The posterior of each mean after r rows of sum s is N(s / (r + 1), 1 / sqrt(r + 1))."""
    with pyro.plate("groups", GROUPS):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", ROWS):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


class Exact:
    """The posterior of `means`, by all rows that a model observes, off by as many deviations."""

    def __init__(self, model, x, *, shift=0.0, width=1.0, of=("x", "x_replicated")):
        nodes = poutine.trace(model).get_trace(x).nodes
        rows = torch.cat([nodes[name]["value"] for name in of if name in nodes])
        sd = (len(rows) + 1) ** -0.5
        self.mean, self.sd = rows.sum(0) / (len(rows) + 1) + shift * sd, width * sd

    def draws(self, n):
        return {"mean": self.mean + self.sd * torch.randn(n, GROUPS)}


def of_means(fit, **options):
    options = {"simulations": SIMULATIONS, "seed": 0, "progress": False} | options
    return calibrate(means, DATA, fit=fit, **options)


def test_a_right_fit_is_calibrated():
    found = of_means(Exact)
    assert found.verdict == "calibrated"
    assert found.ranks["mean"].shape == (SIMULATIONS, GROUPS)
    assert not found.failed
    assert not found.warned


@pytest.mark.parametrize("fault", [{"width": 0.8}, {"shift": 0.3}])
def test_a_wrong_fit_is_found(fault):
    assert of_means(partial(Exact, **fault)).verdict == "off"


def test_the_prior_in_place_of_the_posterior_is_found_by_the_likelihood():
    class Prior:
        def __init__(self, model, x):
            pass

        def draws(self, n):
            return {"mean": torch.randn(n, GROUPS)}

    found = of_means(Prior)
    assert found.worst == LIKELIHOOD
    assert float(found.levels[:-1].min()) > found.level  # by their own ranks they are right


def test_with_a_posterior_the_data_count_and_those_that_are_drawn():
    data = torch.randn(ROWS, GROUPS) + 2  # where no prior would put them
    posterior = Exact(means, data)
    right = calibrate(
        means, data, posterior=posterior, fit=Exact, simulations=SIMULATIONS, seed=0, progress=False
    )
    assert right.verdict == "calibrated"
    forgets = partial(Exact, of=("x_replicated",))
    wrong = calibrate(
        means,
        data,
        posterior=posterior,
        fit=forgets,
        simulations=SIMULATIONS,
        seed=0,
        progress=False,
    )
    assert wrong.verdict == "off"


def test_ties_of_discrete_latents_are_broken_at_random():
    def coin(x):
        z = pyro.sample("z", dist.Bernoulli(0.3))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    class Coin:
        def __init__(self, model, x):
            seen = poutine.trace(model).get_trace(x).nodes["x"]["value"]
            odds = 0.3 / 0.7 * torch.exp(seen - 0.5)  # N(x; 1, 1) / N(x; 0, 1)
            self.chance = odds / (1 + odds)

        def draws(self, n):
            return {"z": torch.bernoulli(self.chance.expand(n))}

    found = calibrate(coin, torch.tensor(0.0), fit=Coin, simulations=400, seed=0, progress=False)
    assert found.verdict == "calibrated"


def test_fits_that_fail_are_counted():
    calls = iter(range(1000))

    def sometimes(model, x):
        if next(calls) % 4 == 0:
            raise pyro_nf.FitError("no start")
        return Exact(model, x)

    found = of_means(sometimes, simulations=40)
    assert found.failed == ("FitError: no start",) * 10
    assert found.ranks["mean"].shape == (30, GROUPS)


def test_where_all_fail_the_error_flies():
    def never(model, x):
        raise pyro_nf.FitError("no start")

    with pytest.raises(pyro_nf.FitError, match="no start"):
        of_means(never, simulations=20)


class Interrupted(Exact):
    ended = "interrupted after 3 steps"


@pytest.mark.parametrize("count", [5, 30])
@pytest.mark.parametrize("caught", [False, True])
def test_ctrl_c_ends_it_with_what_there_is(count, caught):
    calls = iter(range(1000))

    def fit(model, x):
        if next(calls) < count:
            return Exact(model, x)
        if caught:  # by the fit, which returns what it has reached
            return Interrupted(model, x)
        raise KeyboardInterrupt

    if count < 20:
        with pytest.raises(KeyboardInterrupt):
            of_means(fit)
    else:
        assert of_means(fit).ranks["mean"].shape == (count, GROUPS)


def test_warnings_of_fits_are_kept():
    import warnings

    def careful(model, x):
        warnings.warn("perhaps", stacklevel=2)
        return Exact(model, x)

    assert of_means(careful, simulations=20).warned == ("perhaps",) * 20


def test_the_same_seed_gives_the_same_ranks_and_nothing_is_left():
    before = torch.get_rng_state()
    one, other = (of_means(Exact, simulations=20, seed=3) for _ in range(2))
    assert torch.equal(one.ranks["mean"], other.ranks["mean"])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("with_posterior", [False, True])
def test_a_guide_of_ones_own_is_fitted_and_leaves_nothing(with_posterior):
    def fit(model, x):
        return pyro_nf.fit(
            model, x, guide=AutoNormal(model), steps=20, refine=False, progress=False
        )

    posterior = fit(means, DATA) if with_posterior else None
    before = set(pyro.get_param_store())
    found = of_means(fit, simulations=20, posterior=posterior)
    assert not found.failed
    assert found.ranks["mean"].shape == (20, GROUPS)
    assert set(pyro.get_param_store()) == before


def test_replicated_data_are_scored_beside_the_models_own():
    from pyro_nf.studies.simulation import Simulation

    values = {"mean": torch.randn(2, GROUPS)}
    simulation = Simulation(means, (DATA,), {}, values)
    _, data = simulation(1)
    held = poutine.condition(simulation.model_of(data), {"mean": values["mean"][0]})
    total = poutine.trace(held).get_trace(DATA).log_prob_sum()
    mean = values["mean"][0]
    normal = torch.distributions.Normal
    expected = normal(0.0, 1.0).log_prob(mean).sum()
    expected = expected + normal(mean, 1.0).log_prob(torch.cat([DATA, data["x"]])).sum()
    assert torch.allclose(total, expected)


def scaled(x):
    with poutine.scale(scale=0.5):
        pyro.sample("x", dist.Normal(pyro.sample("a", dist.Normal(0.0, 1.0)), 1.0), obs=x)


def with_factor(x):
    pyro.factor("extra", -pyro.sample("a", dist.Normal(0.0, 1.0)).square())


def with_parameter(x):
    scale = pyro.param("scale", torch.tensor(1.0))
    pyro.sample("x", dist.Normal(pyro.sample("a", dist.Normal(0.0, 1.0)), scale), obs=x)


def in_part(x):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 10, subsample_size=2):
        pyro.sample("x", dist.Normal(a, 1.0), obs=x[:2])


def improper(x):
    a = pyro.sample("a", dist.ImproperUniform(dist.constraints.real, (), ()))
    pyro.sample("x", dist.Normal(a, 1.0).expand(x.shape).to_event(1), obs=x)


def blind(x):
    pyro.sample("a", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (scaled, "is scaled"),
        (with_factor, "nothing is drawn from it"),
        (with_parameter, "parameters of its own, such as 'scale'"),
        (in_part, "takes 2 of its 10 rows"),
        (improper, "type posterior="),
        (blind, "observes nothing"),
    ],
)
def test_what_makes_no_data_is_refused(model, words):
    x = torch.zeros(10) if model is not scaled else torch.tensor(0.0)
    with pytest.raises(ValueError, match=words):
        calibrate(model, x, fit=Exact, progress=False)


def test_few_simulations_are_refused():
    with pytest.raises(ValueError, match="must be 20 or more"):
        of_means(Exact, simulations=5)
