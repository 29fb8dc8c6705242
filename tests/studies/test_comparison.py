"""Models side by side, against evidences and predictions that are known in closed form."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_nf import Comparison, compare, fit

X = torch.tensor([-0.3, 0.4, 1.1, 0.2, -0.9, 0.6])


def around(centre, name="x"):
    def model(x):
        mean = pyro.sample("mean", dist.Normal(centre, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample(name, dist.Normal(mean, 1.0), obs=x)

    return model


def log_evidence(centre):
    """Of X, normal with covariance 1 + 1 1'."""
    n = len(X)
    covariance = torch.eye(n) + torch.ones(n, n)
    normal = torch.distributions.MultivariateNormal(torch.full((n,), centre), covariance)
    return float(normal.log_prob(X))


def log_predictive(centre):
    """The log density of each number given the others: their mean is N(m, 1 / n)."""
    n = len(X)
    mean = (X.sum() - X + centre) / n
    return torch.distributions.Normal(mean, math.sqrt(1 + 1 / n)).log_prob(X)


@pytest.fixture(scope="module")
def fits():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = {}
        for name, centre, site in (("far", 4.0, "x"), ("near", 0.5, "y")):
            made[name] = fit(around(centre, site), X, progress=False, seed=0)
        return made


def test_the_best_comes_first_with_its_evidence(fits):
    found = compare(fits)
    assert found.best == "near"
    table = found.columns
    exact = log_evidence(0.5), log_evidence(4.0)
    assert table["log evidence"] == pytest.approx(exact, abs=0.02)
    assert table["less the best"] == pytest.approx([0.0, exact[1] - exact[0]], abs=0.03)
    assert table["± less"][0] == 0.0
    assert table["verdict"] == ["good", "good"]
    assert f"larger by {exact[0] - exact[1]:.1f}" in found.message


def test_leaving_one_out_is_that_of_the_formula(fits):
    pytest.importorskip("arviz")
    table = compare(fits, n=4000).columns
    near, far = log_predictive(0.5), log_predictive(4.0)
    assert table["LOO"] == pytest.approx([float(near.sum()), float(far.sum())], abs=0.1)
    assert table["LOO less"][1] == pytest.approx(float((far - near).sum()), abs=0.1)
    errors = [float((6 * each.var(correction=0)).sqrt()) for each in (near, far - near)]
    assert table["± LOO"][0] == pytest.approx(errors[0], abs=0.1)
    assert table["± LOO less"][1] == pytest.approx(errors[1], abs=0.1)


def test_it_prints_and_becomes_a_data_frame(fits):
    found = compare(fits)
    lines = str(found).split("\n")
    assert lines[0] == found.message
    assert [line.split()[0] for line in lines[2:]] == ["near", "far"]
    assert "<th" in found._repr_html_()
    assert "near" in found._repr_html_()
    pytest.importorskip("pandas")
    assert list(found.to_pandas().index) == ["near", "far"]


def test_a_poor_posterior_comes_last_whatever_its_evidence(fits):
    from dataclasses import replace

    verdicts = {name: each.diagnosis for name, each in fits.items()}
    verdicts["far"] = replace(verdicts["far"], verdict="poor", log_evidence=100.0)
    order = sorted(verdicts, key=lambda n: (verdicts[n].verdict == "poor", n))
    found = Comparison({n: verdicts[n] for n in order}, dict.fromkeys(order))
    assert found.message == "near is the only model whose posterior is not poor"
    assert math.isnan(found.columns["LOO"][0])


def test_other_data_are_refused(fits):
    other = fit(around(0.0), X + 1, steps=1, refine=False, progress=False, seed=0)
    with pytest.raises(ValueError, match="the same data only"):
        compare(fits | {"other": other})
    fewer = fit(around(0.0), X[:3], steps=1, refine=False, progress=False, seed=0)
    with pytest.raises(ValueError, match="has 3 others"):
        compare(fits | {"fewer": fewer})
    with pytest.raises(ValueError, match="nothing to compare"):
        compare({})
