"""Posterior.refine: draws by chains that go on from those of a guide."""

import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal

from pyro_nf import AmortizedFlowGuide, AutoFlowGuide, Posterior, fit
from pyro_nf.posterior import refinement as module

DATA = torch.tensor([1.0, 2.0, 0.5, 1.5])
PRECISION = 1 + len(DATA)  # of the mean, a normal prior and unit noise
MEAN, SD = float(DATA.sum()) / PRECISION, PRECISION**-0.5


def normal(data=DATA):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(data)):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=data)


def scale_of(values):
    scale = pyro.sample("scale", dist.HalfNormal(2.0))
    with pyro.plate("values", len(values)):
        pyro.sample("x", dist.Normal(0.0, scale), obs=values)


def off(model, *args, shift=0.7, scale=0.3, guide=AutoDiagonalNormal):
    """A posterior of a guide that is far too narrow, and beside the point."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    made = guide(model)
    made(*args)
    with torch.no_grad():
        made.loc.add_(shift)
    made.scale = torch.full_like(made.loc, scale)
    return Posterior(model, made, *args)


@pytest.fixture(scope="module")
def refined():
    return off(normal).refine(seed=0, progress=False)


def test_a_guide_beside_the_posterior_is_put_right(refined):
    """10,000 draws and more, of which 1,024 at least are independent: errors of 0.03 sd."""
    draws = refined.draws(10_000)["mean"]
    assert abs(float(draws.mean()) - MEAN) / SD < 0.1
    assert abs(math.log(float(draws.std()) / SD)) < 0.1
    assert refined.refinement.arrived
    assert len(refined.refinement) >= 10_000
    assert "refined by 1024 chains" in refined.message


def test_its_evidence_is_right_where_that_of_the_guide_is_not(refined):
    """Of normal data with a normal mean: N(data; 0, I + 1 1')."""
    noise = torch.eye(len(DATA)) + 1
    truth = dist.MultivariateNormal(torch.zeros(len(DATA)), noise).log_prob(DATA)
    found = refined.refinement
    assert found.temperatures > 1
    assert found.log_evidence_se < 0.05
    assert abs(found.log_evidence - float(truth)) < 3 * found.log_evidence_se
    pyro.set_rng_seed(0)
    diagnosis = refined.diagnose(search=False)
    assert diagnosis.log_evidence == found.log_evidence
    assert diagnosis.log_evidence_se == pytest.approx(found.log_evidence_se, abs=1e-4)
    assert off(normal).diagnose(search=False).log_evidence_se > 0.1


def test_it_is_compared_with_that_of_a_guide_whose_weights_mean_something():
    posterior = fit(normal, DATA, seed=0, steps=200, progress=False).refine(seed=0, progress=False)
    assert posterior.refinement.temperatures == 1
    pyro.set_rng_seed(0)
    diagnosis = posterior.diagnose(search=False)
    (found,) = [each for each in diagnosis.findings if each.name == "evidence"]
    assert abs(found.value) < 0.01
    assert "from that of the guide's draws" in str(diagnosis)


@pytest.mark.parametrize("change", [-0.5, 0.5])
def test_evidences_that_do_not_agree_cap_the_verdict(change):
    """Above the guide's bound there may be more, but not above its weights where these are good."""
    posterior = fit(normal, DATA, seed=0, steps=200, progress=False).refine(seed=0, progress=False)
    moved = posterior.refinement.log_evidence + change
    posterior.refinement = replace(posterior.refinement, log_evidence=moved)
    diagnosis = posterior.diagnose(search=False)
    assert diagnosis.verdict == "usable"
    assert "estimates of the log evidence that are 0.5" in diagnosis.decided


def test_a_guide_that_misses_the_posterior_bounds_its_evidence(refined):
    worse = off(normal)
    worse.refinement = replace(refined.refinement, log_evidence=-1e4)
    assert worse.diagnose(search=False).verdict == "usable"
    worse.refinement = replace(refined.refinement, log_evidence=0.0)
    assert worse.diagnose(search=False).verdict == "good"


def test_refining_again_begins_at_the_guide(refined):
    longer = refined.refine(n=40_000, seed=0, progress=False)
    assert len(longer.refinement) >= 40_000
    assert longer.message == str(longer.refinement)
    assert refined.message.startswith(str(refined.refinement))  # and a verdict, if there is one


def test_the_guide_alone_is_as_it_was(refined):
    alone = off(normal)
    assert alone.refine(seed=0, progress=False) is not alone
    assert alone.refinement is None
    assert abs(float(alone.draws(4000)["mean"].mean()) - MEAN) / SD > 0.5
    assert torch.equal(alone.log_prob({"mean": DATA}), refined.log_prob({"mean": DATA}))


def test_the_verdict_is_on_the_chains(refined):
    pyro.set_rng_seed(0)
    diagnosis = refined.diagnose()
    assert diagnosis.verdict == "good"
    assert diagnosis.decided.startswith("nested R-hat 1.00")
    assert "1024 chains" in str(diagnosis)
    assert off(normal).diagnose().verdict == "poor"


def test_all_that_is_made_of_draws_is_made_of_these(refined):
    pyro.set_rng_seed(0)
    row = refined.summary()["mean"]
    assert abs(row["mean"] - MEAN) / SD < 0.15
    assert abs(float(refined.resample(4000)["mean"].mean()) - MEAN) / SD < 0.15
    predicted = refined.predict(4000)["x"]
    assert predicted.shape == (4000, 4)
    assert abs(float(predicted.std()) - math.hypot(1, SD)) < 0.05
    more = refined.predict(500, torch.zeros(7))["x"]
    assert more.shape == (500, 7)
    assert abs(float(more.mean()) - MEAN) < 0.15


def test_more_draws_than_there_are_come_again(refined):
    total = len(refined.refinement)
    draws = refined.draws(2 * total)["mean"]
    values, counts = draws.unique(return_counts=True)
    assert len(draws) == 2 * total
    assert len(values) <= total
    assert int(counts.min()) >= 2


def test_a_superchain_is_a_chain_to_arviz(refined):
    arviz = pytest.importorskip("arviz")
    data = refined.to_arviz(4000)
    assert dict(data["posterior"].sizes)["chain"] == 32
    assert dict(data["posterior"].sizes)["draw"] == 125
    assert data["posterior_predictive"]["x"].shape == (32, 125, 4)
    assert data["sample_stats"]["lp"].shape == (32, 125)
    r_hat = float(arviz.rhat(data["posterior"])["mean"])
    assert r_hat < 1.03


def test_save_and_load(refined, tmp_path):
    refined.save(tmp_path / "posterior.pt")
    pyro.clear_param_store()
    loaded = Posterior.load(tmp_path / "posterior.pt", normal, guide=AutoDiagonalNormal(normal))
    assert loaded.message == refined.message
    assert str(loaded.refinement) == str(refined.refinement)
    for name in ("log_evidence", "log_evidence_se", "temperatures"):
        assert getattr(loaded.refinement, name) == getattr(refined.refinement, name)
    pyro.set_rng_seed(3)
    expected = refined.draws(100)["mean"]
    pyro.set_rng_seed(3)
    assert torch.equal(loaded.draws(100)["mean"], expected)


def test_a_seed_makes_it_the_same_and_leaves_the_callers_numbers_alone():
    posterior = off(normal)
    pyro.set_rng_seed(5)
    expected = torch.rand(3)
    pyro.set_rng_seed(5)
    first = posterior.refine(seed=1, progress=False)
    assert torch.equal(torch.rand(3), expected)
    again = posterior.refine(seed=1, progress=False)
    assert torch.equal(first.refinement.values["mean"], again.refinement.values["mean"])


def test_a_positive_latent_of_one_dimension_in_double_precision():
    values = torch.tensor([0.3, -1.2, 2.0, 0.7, -0.4], dtype=torch.float64)
    torch.set_default_dtype(torch.float64)
    try:
        posterior = off(scale_of, values).refine(seed=0, progress=False)
    finally:
        torch.set_default_dtype(torch.float32)
    grid = torch.linspace(1e-3, 12, 200_000, dtype=torch.float64)
    log_p = -grid.square() / 8 - 5 * grid.log() - values.square().sum() / (2 * grid.square())
    weights = (log_p - log_p.max()).exp()
    mean = float((weights * grid).sum() / weights.sum())
    sd = math.sqrt(float((weights * (grid - mean).square()).sum() / weights.sum()))
    draws = posterior.draws(10_000)["scale"]
    assert draws.dtype == torch.float64
    assert abs(float(draws.mean()) - mean) / sd < 0.1
    assert abs(math.log(float(draws.std()) / sd)) < 0.1


def test_discrete_sites_are_drawn_given_the_refined_ones():
    def mixture():
        mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
        which = pyro.sample("which", dist.Bernoulli(0.3))
        pyro.sample("x", dist.Normal(mean + 2 * which, 0.5), obs=torch.tensor(1.0))

    posterior = fit(mixture, seed=0, steps=50, progress=False, refine=False).refine(
        seed=0, progress=False
    )
    draws = posterior.draws(10_000)
    # x is normal around 0 or 2 with variance 4.25 once the mean is integrated out.
    odds = math.log(0.3 / 0.7) + (1 - 1) / (2 * 4.25)
    assert abs(float(draws["which"].mean()) - 1 / (1 + math.exp(-odds))) < 0.02


def test_a_flow_that_is_nearly_there_is_brought_there():
    """A funnel, of which a normal guide has nothing of the wide end after so few steps."""

    def funnel():
        v = pyro.sample("v", dist.Normal(0.0, 1.0))
        with pyro.plate("rest", 3):
            pyro.sample("x", dist.StudentT(5.0, 0.0, v.exp()))

    posterior = fit(funnel, seed=0, steps=100, progress=False, refine=False).refine(
        seed=0, progress=False
    )
    v = posterior.draws(10_000)["v"]
    assert posterior.refinement.arrived
    assert abs(float(v.mean())) < 0.1
    assert abs(math.log(float(v.std()))) < 0.1


# ---------------------------------------------------------------- what is not there


def hidden_mode():
    x = pyro.sample("x", dist.Normal(0.0, 30.0))
    both = torch.stack([-(x - 15).square(), -(x + 15).square()]) * 2
    pyro.factor("two", both.logsumexp(0))


def test_a_mode_that_the_chains_have_not_seen_is_found():
    posterior = off(hidden_mode, shift=15.0).refine(seed=0, progress=False)
    assert float(posterior.draws(1000)["x"].min()) > 0
    pyro.set_rng_seed(0)
    diagnosis = posterior.diagnose()
    assert diagnosis.verdict == "poor"
    assert abs(diagnosis.missed - 0.5) < 0.05
    assert "where the chains do not reach" in diagnosis.message


def test_chains_that_have_not_arrived_are_told_by_name():
    posterior = off(hidden_mode, shift=0.0, scale=15.0)
    with pytest.warns(UserWarning, match=r"x not there \(R-hat below 1.004\)"):
        found = posterior.refine(transitions=1, seed=0, progress=False)
    assert found.refinement.away == ("x",)
    assert not found.refinement.arrived
    assert found.diagnose().verdict != "good"


def test_what_has_come_before_an_interrupt_is_returned(monkeypatch):
    real = module.phases

    def interrupted(after):
        def run(*args):
            for index, phase in enumerate(real(*args)):
                if index == after:
                    raise KeyboardInterrupt
                yield replace(phase, r_hat_log_p=2.0)

        return run

    posterior = off(normal)
    monkeypatch.setattr(module, "phases", interrupted(0))
    assert posterior.refine(seed=0, progress=False) is posterior
    monkeypatch.setattr(module, "phases", interrupted(1))
    with pytest.warns(UserWarning, match="not yet refined by 1024 chains of 32 transitions"):
        assert len(posterior.refine(seed=0, progress=False).refinement) == 16 * 1024


def untransformed(model):
    guide = AutoNormal(model)
    guide()
    return Posterior(model, guide)


def of_points(model):
    guide = AutoDelta(model)
    guide()
    return Posterior(model, guide)


def with_points():
    def two():
        pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("b", dist.Normal(0.0, 1.0))

    return Posterior(two, AutoFlowGuide(two, "diag", sites=["a"], rest="delta").setup())


class Column(torch.nn.Module):
    def forward(self, x):
        return x.unsqueeze(-1)


def of_rows():
    def rows(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    guide = AmortizedFlowGuide(rows, Column(), "planar*1")
    guide.setup(DATA)
    return Posterior(rows, guide, DATA)


def of_a_subsample():
    def few(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x), subsample_size=2) as index:
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x[index])

    guide = AutoDiagonalNormal(few)
    guide(DATA)
    return Posterior(few, guide, DATA)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: untransformed(normal), "got AutoNormal; type fit"),
        (lambda: of_points(normal), "got AutoDelta; type fit"),
        (with_points, "has the sites b at points"),
        (of_rows, "has a posterior for each row of its data"),
        (of_a_subsample, "one density for all runs of the model"),
    ],
)
def test_what_cannot_be_refined_is_told_what_to_type(make, message):
    pyro.clear_param_store()
    with pytest.raises(ValueError, match=message):
        make().refine(progress=False)


@pytest.mark.parametrize("n", [0, -1, 2.5])
def test_a_number_of_draws_is_a_whole_one(n):
    with pytest.raises((ValueError, TypeError), match="the number of draws"):
        off(normal).refine(n)
