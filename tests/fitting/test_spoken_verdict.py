"""A fit says by itself whether it is any good."""

import warnings

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoDelta, AutoNormal

from pyro_nf import Posterior, fit

Y = torch.tensor([0.5, -1.0, 2.0, 0.1])


def pair(y):
    """Two means of which the data know the sum alone."""
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(a + b, 0.1), obs=y)


def quiet(model, *args, **options):
    """A fit, and what it has warned of."""
    pyro.clear_param_store()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        posterior = fit(model, *args, seed=0, progress=False, **options)
    return posterior, [str(warning.message) for warning in caught]


def test_the_default_is_good_and_says_so():
    posterior, told = quiet(pair, Y)
    assert not told
    assert posterior.diagnosis.verdict == "good"
    assert posterior.message.endswith("; good")
    assert repr(posterior).startswith("Posterior(good; ")
    assert "<b>good</b>: the draws stand for the posterior" in posterior._repr_html_()
    again = posterior.diagnose()
    assert posterior.diagnosis is again


def test_a_poor_one_warns_once_with_what_to_do(tmp_path):
    posterior, told = quiet(pair, Y, guide=AutoNormal(pair), refine=False, steps=200)
    (warning,) = told
    assert warning.startswith("the posterior is poor (k-hat ")
    assert "use refine()" in warning
    assert repr(posterior).startswith("Posterior(poor; AutoNormal; a (), b ()")
    assert "poor: k-hat" in posterior.message
    posterior.save(tmp_path / "posterior.pt")
    loaded = Posterior.load(tmp_path / "posterior.pt", pair, Y, guide=AutoNormal(pair))
    assert (loaded.diagnosis, loaded.message) == (posterior.diagnosis, posterior.message)


def test_chains_that_have_not_arrived_are_not_warned_of_twice(monkeypatch):
    monkeypatch.setattr("pyro_nf.sampling.refine.ARRIVED", 0.0)
    monkeypatch.setattr("pyro_nf.posterior.judging.CLOSE", 0.0)
    posterior, told = quiet(pair, Y, refine=True, steps=20, seconds=5.0)
    assert posterior.diagnosis.verdict == "poor"
    assert len(told) == 1
    assert "not yet refined" in told[0]


def test_nothing_is_said_of_points():
    posterior, told = quiet(pair, Y, guide=AutoDelta(pair), steps=20)
    assert (posterior.diagnosis, told) == (None, [])
    assert repr(posterior).startswith("Posterior(AutoDelta")


def test_nothing_is_said_of_batches():
    def part(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 4, subsample_size=len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    posterior, told = quiet(part, batches=Y, batch_size=2, steps=20)
    assert (posterior.diagnosis, told) == (None, [])


def test_a_verdict_that_nobody_asked_for_costs_few_runs_of_a_model_that_loops():
    runs = []

    def looped(y):
        runs.append(1)
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mean, 1.0 + float(mean > 9)).expand([4]).to_event(1), obs=y)

    _, told = quiet(looped, Y, steps=5)
    assert sum("runs one draw at a time" in words for words in told) <= 1
    assert len(runs) < 1500
