"""Fits of models with discrete latents, of which nothing is said to fit, beside exact answers."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal, init_to_value

from pyro_nf import AutoFlowGuide, Posterior, fit

DATA = torch.tensor([-1.0, 0.2, 2.9, 3.1, 4.0])
QUICK = {"seed": 0, "progress": False, "compile": False, "refine": False}
TRACED = {"compile": "quick"}


def two_sites(data):
    """A switch for all rows, and a class for each."""
    loc = pyro.sample("loc", dist.Normal(0.0, 2.0))
    switch = pyro.sample("switch", dist.Bernoulli(0.4))
    with pyro.plate("data", len(data)):
        part = pyro.sample("part", dist.Categorical(torch.tensor([0.5, 0.3, 0.2])))
        pyro.sample("x", dist.Normal(loc * part + 2 * switch, 1.0), obs=data)


def exact_marginals(data):
    """Those of `two_sites`, on a grid of the one continuous latent."""
    loc = torch.linspace(-10, 10, 4001, dtype=torch.float64)[:, None, None, None]
    switch = torch.arange(2)[:, None, None]
    part = torch.arange(3)  # the last dimension; rows before it
    rows = dist.Normal(loc * part + 2 * switch, 1.0).log_prob(data.double().unsqueeze(-1))
    rows = rows + torch.tensor([0.5, 0.3, 0.2]).double().log()
    given = rows.logsumexp(-1).sum(-1) + torch.tensor([0.6, 0.4]).double().log()
    given = given + dist.Normal(0.0, 2.0).log_prob(loc).squeeze(-1).squeeze(-1)
    weight = given.reshape(-1).softmax(0).reshape(given.shape)
    chance = (rows.softmax(-1) * weight[..., None, None]).sum((0, 1))
    return weight.sum(0)[1], chance, given.reshape(-1).logsumexp(0) + torch.tensor(20 / 4000).log()


def test_marginals_of_two_sites_are_those_of_enumeration_by_hand():
    posterior = fit(two_sites, DATA, steps=200, **(QUICK | TRACED))
    switch, part, evidence = exact_marginals(DATA)
    pyro.set_rng_seed(1)
    draws = posterior.resample(40_000)
    assert draws["switch"].shape == (40_000,)
    assert draws["part"].shape == (40_000, 5)
    assert float(draws["switch"].double().mean()) == pytest.approx(float(switch), abs=0.01)
    share = torch.nn.functional.one_hot(draws["part"], 3).double().mean(0)
    assert (share - part).abs().max() < 0.01
    result = posterior.diagnose(20_000, search=False)
    assert abs(result.log_evidence - float(evidence)) < 4 * result.log_evidence_se + 1e-3
    assert result.verdict != "poor"
    assert posterior.vectorized


def mixture(data):
    """Pyro's toy mixture and its tutorial's `locs[assignment]`, float and all."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("components", 2):
        locs = pyro.sample("locs", dist.Normal(0.0, 5.0))
    with pyro.plate("data", len(data)):
        assignment = pyro.sample("assignment", dist.Categorical(weights))
        pyro.sample("obs", dist.Normal(locs[assignment], 1.0), obs=data)


def test_the_whole_recipe_sees_the_summed_density(tmp_path):
    """The warm start, the search, files and tables; predictions with a discrete site of theirs."""
    posterior = fit(mixture, DATA, steps=30, checkpoint=tmp_path / "c.pt", **QUICK)
    guide = posterior.guide
    assert "whitened" in repr(guide)
    assert set(posterior.draws(3)) == {"weights", "locs", "assignment"}
    predicted = posterior.predict(300)
    assert predicted["assignment"].shape == (300, 5)
    assert predicted["obs"].shape == (300, 5)
    # The first two rows belong together, and not with the last three.
    same = (predicted["assignment"] == predicted["assignment"][:, :1]).double().mean(0)
    assert same[1] > 0.8
    assert same[3] < 0.4
    new = posterior.predict(300, torch.tensor([-1.0, -1.0, -1.0, 9.0]))
    assert new["assignment"].shape == (300, 4)
    assert (new["assignment"][:, 0] != new["assignment"][:, 3]).double().mean() > 0.8
    posterior.save(tmp_path / "p.pt")
    loaded = Posterior.load(tmp_path / "p.pt", mixture, DATA)
    pyro.set_rng_seed(3)
    first = posterior.log_weights(5)
    pyro.set_rng_seed(3)
    assert torch.equal(first, loaded.log_weights(5))
    again = fit(mixture, DATA, steps=30, checkpoint=tmp_path / "c.pt", **QUICK)
    assert torch.equal(again.losses, posterior.losses)


@pytest.mark.parametrize("make", [AutoNormal, AutoFlowGuide])
def test_a_guide_that_lacks_a_discrete_site(make):
    start = init_to_value(values={"locs": torch.tensor([0.0, 3.0])})
    guide = make(poutine.block(mixture, hide=["assignment"]), init_loc_fn=start)
    posterior = fit(mixture, DATA, guide=guide, steps=150, lr=0.05, **(QUICK | TRACED))
    low, high = posterior.draws(500)["locs"].sort(-1).values.mean(0)  # whichever is the first
    assert float(low) == pytest.approx(-0.3, abs=0.6)
    assert float(high) == pytest.approx(3.3, abs=0.6)


def test_a_guide_with_a_discrete_site_of_its_own_keeps_it():
    def model():
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.sample("x", dist.Normal(loc + z, 1.0), obs=torch.tensor(1.0))

    def guide():
        at = pyro.param("at", torch.tensor(0.0))
        pyro.sample("loc", dist.Normal(at, 0.5))
        pyro.sample("z", dist.Bernoulli(0.6))

    posterior = fit(model, guide=guide, steps=5, **QUICK)
    assert set(posterior.draws(3)) == {"loc", "z"}


def test_batches_of_rows_with_a_class_each():
    """The plate's scale multiplies each row's logarithm, not what is summed."""
    data = torch.cat([torch.full((30,), -2.0), torch.full((10,), 2.0)])

    def model(x):
        share = pyro.sample("share", dist.Beta(1.0, 1.0))
        with pyro.plate("data", 40, subsample_size=len(x)):
            part = pyro.sample("part", dist.Bernoulli(share))
            pyro.sample("x", dist.Normal(4 * part - 2, 0.5), obs=x)

    posterior = fit(model, batches=data, batch_size=20, epochs=100, lr=0.05, **(QUICK | TRACED))
    share = Posterior(model, posterior.guide, data).draws(2000)["share"]
    assert float(share.mean()) == pytest.approx(11 / 42, abs=0.03)  # Beta(11, 31)


def test_predictions_without_data_draw_both_from_the_prior():
    """Rows that are observed nowhere: a count by its own sampler, below all values of a class."""

    def model(size, seen=None):
        chance = pyro.sample("chance", dist.Beta(30.0, 10.0))
        with pyro.plate("rows", size):
            there = pyro.sample("there", dist.Bernoulli(chance))
            pyro.sample("seen", dist.Binomial(4, 0.5 * there), obs=seen)

    posterior = fit(model, 3, torch.tensor([0.0, 2.0, 0.0]), steps=20, **QUICK)
    new = posterior.predict(4000, 2)
    assert float(new["there"].mean()) == pytest.approx(0.75, abs=0.05)
    assert float(new["seen"].mean()) == pytest.approx(1.5, abs=0.1)
    assert float(posterior.draws(500)["there"][:, 1].min()) == 1.0  # seen, so there


# ---------------------------------------------------------------- sentences


def counts(data):
    rate = pyro.sample("rate", dist.Gamma(1.0, 1.0))
    n = pyro.sample("n", dist.Poisson(rate))
    pyro.sample("m", dist.Geometric(0.5))
    pyro.sample("x", dist.Normal(n, 1.0), obs=data)


def forgotten(x, y=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=slope * x), obs=y)


def forgotten_counts(x, y=None):
    rate = pyro.sample("rate", dist.Gamma(1.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


def only_discrete(data):
    pyro.sample("coin", dist.Bernoulli(0.5))
    pyro.sample("die", dist.Categorical(torch.ones(6)))


def batch(data):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    z = pyro.sample("z", dist.Bernoulli(0.5 * torch.ones(5)))
    pyro.sample("x", dist.Normal(loc + z, 1.0), obs=data)


def event(data):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    z = pyro.sample("z", dist.Bernoulli(0.5 * torch.ones(5)).to_event(1))
    pyro.sample("x", dist.Normal(loc + z, 1.0).to_event(1), obs=data)


def decides(data):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    z = pyro.sample("z", dist.Bernoulli(0.5))
    mean = loc if z else -loc
    with pyro.plate("rows", 5):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=data)


def mixed_rows(data):
    """Which features count, in a plate, though the data depend on all of them."""
    slope = pyro.sample("slope", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("features", 3):
        there = pyro.sample("there", dist.Bernoulli(0.5))
    x = torch.randn(3, 5)
    with pyro.plate("rows", 5):
        pyro.sample("x", dist.Normal((there * slope) @ x, 1.0), obs=data)


def scaled(data):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    z = pyro.sample("z", dist.Bernoulli(0.5))
    with pyro.plate("rows", 10, subsample=torch.arange(5)):
        pyro.sample("x", dist.Normal(loc + z, 1.0), obs=data)


def bounded(data):
    z = pyro.sample("z", dist.Bernoulli(0.5))
    x = pyro.sample("below", dist.Uniform(0.0, 1.0 + z))
    pyro.sample("x", dist.Normal(x, 1.0), obs=data[0])


SENTENCES = {
    "endless": (counts, r"'n' \(Poisson\), 'm' \(Geometric\).*cannot be summed out.*GammaPoisson"),
    "forgotten": (forgotten, r"'y' has no data.*argument 'y' is None.*y=data"),
    "forgotten counts": (forgotten_counts, r"'y' has no data.*argument 'y' is None.*y=data"),
    "only discrete": (only_discrete, r"all latent sites are discrete \('coin', 'die'\)"),
    "batch": (batch, r"'z' has 5 values.*no plate.*with pyro.plate\(\"rows\", 5\)"),
    "event": (event, r"'z' \(Bernoulli with .to_event\).*with pyro.plate"),
    "decides": (decides, r"'z' are summed out.*after the site 'z' it raises.*torch.where"),
    "mixed rows": (mixed_rows, "'x' depends on 'there' of all rows of the plate 'features'"),
    "scaled": (scaled, "'z' has the scale 1 and 'x', which depends on it, 2"),
    "bounded": (bounded, "support of the latent site 'below'.*depends on another latent site"),
}


@pytest.mark.filterwarnings("ignore:no site of the model is observed")
@pytest.mark.parametrize(("model", "words"), SENTENCES.values(), ids=SENTENCES)
def test_what_cannot_be_summed_out_is_a_sentence(model, words):
    with pytest.raises(ValueError, match=f"(?s){words}"):
        fit(model, DATA, steps=2, **QUICK)


def test_an_elbo_that_does_not_sum_out_is_refused_and_one_that_does_needs_no_marks():
    with pytest.raises(
        ValueError, match=r"'assignment', which in the model is discrete.*Trace_ELBO"
    ):
        fit(mixture, DATA, elbo=Trace_ELBO(), steps=2, **QUICK)
    guide = AutoDelta(poutine.block(mixture, hide=["assignment"]))
    with pytest.raises(ValueError, match="leave elbo= out"):
        fit(mixture, DATA, guide=guide, elbo=Trace_ELBO(), steps=2, **QUICK)
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pyro's, of a model in which nothing is enumerated
        warnings.filterwarnings("ignore", "the posterior is poor")  # after five steps
        posterior = fit(mixture, DATA, elbo=elbo, steps=5, **QUICK)
    assert set(posterior.shapes) == {"weights", "locs"}


def test_a_guide_by_itself_names_all_discrete_sites():
    def model():
        pyro.sample("loc", dist.Normal(0.0, 1.0))
        pyro.sample("a", dist.Bernoulli(0.5))
        pyro.sample("b", dist.Bernoulli(0.5))

    with pytest.raises(ValueError, match=r'"a", "b" are discrete.*fit\(model.*hide=\["a", "b"\]'):
        AutoFlowGuide(model).setup()
