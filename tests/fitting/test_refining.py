"""fit(refine=True): a short training, and chains that go on where it ends."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

from pyro_nf import Posterior, fit
from pyro_nf.fitting.chain_pool import ChainPool
from pyro_nf.fitting.recipe import RECIPE
from pyro_nf.posterior import Diagnosis
from pyro_nf.posterior import refinement as module

DATA = torch.tensor([1.0, 2.0, 0.5, 1.5])


def funnel(data=DATA):
    """A hierarchy whose children have Student-t tails, which nothing unties."""
    v = pyro.sample("v", dist.Normal(0.0, 1.0))
    with pyro.plate("rest", len(data)):
        x = pyro.sample("x", dist.StudentT(4.0, 0.0, v.exp()))
        pyro.sample("y", dist.Normal(x, 1.0), obs=data)


def looped(data):
    """One that Python's float keeps from running at many draws at once."""
    v = pyro.sample("v", dist.Normal(0.0, 1.0))
    with pyro.plate("rest", len(data)):
        pyro.sample("y", dist.Normal(math.tanh(float(v)), 1.0), obs=data)


def batched(data):
    v = pyro.sample("v", dist.Normal(0.0, 1.0))
    with pyro.plate("rest", 4, subsample_size=len(data)):
        pyro.sample("y", dist.Normal(v, 1.0), obs=data)


def truth():
    """Mean and standard deviation of v, by quadrature of each x."""
    v = torch.linspace(-6, 6, 601, dtype=torch.float64)
    x = torch.linspace(-60, 60, 24_001, dtype=torch.float64)
    log_p = dist.Normal(0.0, 1.0).log_prob(v)
    for y in DATA.double():
        seen = dist.Normal(x, 1.0).log_prob(y)
        prior = dist.StudentT(4.0, 0.0, v.exp().unsqueeze(-1)).log_prob(x)
        log_p = log_p + (prior + seen).logsumexp(-1)
    weights = (log_p - log_p.logsumexp(0)).exp()
    mean = (weights * v).sum()
    return float(mean), float((weights * (v - mean).square()).sum().sqrt())


def quickly(**options):
    pyro.clear_param_store()
    return fit(funnel, DATA, **{"seed": 0, "progress": False, "refine": True} | options)


def test_it_is_the_posterior_after_short_rounds():
    posterior = quickly()
    mean, sd = truth()
    v = posterior.draws(10_000)["v"]
    assert abs(float(v.mean()) - mean) / sd < 0.1
    assert abs(math.log(float(v.std()) / sd)) < 0.1
    steps = len(posterior.losses)
    assert steps in (50, 100, 200)
    assert posterior.message.startswith(f"finished after {steps} steps")
    assert "refined by" in posterior.message
    assert posterior.diagnose().verdict == "good"


def test_by_default_it_is_refined_where_its_weights_are_not_nearly_equal():
    """A normal posterior's guide needs no chains at once."""
    posterior = quickly(refine=None)
    mean, sd = truth()
    assert abs(float(posterior.draws(10_000)["v"].mean()) - mean) / sd < 0.1
    assert len(posterior.losses) == sum(RECIPE.brief_rounds)
    assert posterior.refinement.arrived

    def normal():
        pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))

    exact = fit(normal, seed=0, progress=False)
    assert "refined" not in exact.message
    assert len(exact.losses) == RECIPE.brief_rounds[0]  # where its weights suffice
    assert exact.message.startswith("finished after 50")
    assert exact.diagnose().verdict == "good"


def curved():
    """A normal distribution that is a little skew, to which a short round comes near."""
    z = pyro.sample("z", dist.Normal(torch.zeros(8), 1.0).to_event(1))
    pyro.factor("skew", -(-0.8 * z[..., 0]).exp() - 0.05 * z[..., 1:].pow(4).sum(-1))


def test_good_weights_correct_the_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "phases", None)
    options = {"steps": 60, "seed": 0, "progress": False, "checkpoint": tmp_path / "fit.pt"}
    posterior = fit(curved, **options)
    assert "; corrected by weights, k-hat" in posterior.message
    assert len(posterior.refinement) == 10_000
    z = torch.linspace(-6, 6, 2001, dtype=torch.float64)
    for place, power in ((0, -(-0.8 * z).exp()), (1, -0.05 * z.pow(4))):
        weights = (-z.square() / 2 + power).softmax(0)
        mean = float((weights * z).sum())
        sd = float((weights * (z - mean).square()).sum().sqrt())
        found = posterior.draws(10_000)["z"][:, place]
        assert abs(float(found.mean()) - mean) < 0.05 * sd  # five standard errors
        assert abs(math.log(float(found.std()) / sd)) < 0.04
    diagnosis = posterior.diagnose()
    assert diagnosis.verdict == "good"
    assert "10,000 draws, corrected by weights" in str(diagnosis)
    posterior.save(tmp_path / "saved.pt")
    for again in (Posterior.load(tmp_path / "saved.pt", curved), fit(curved, **options)):
        assert again.message == posterior.message
        assert torch.equal(again.refinement.values["z"], posterior.refinement.values["z"])
    assert posterior.to_arviz(100).posterior.sizes["chain"] == 1


def test_weights_that_seem_to_suffice_are_asked_before_chains(tmp_path, monkeypatch):
    """Where they do not, the rounds go on, with a checkpoint or without."""
    monkeypatch.setattr(Diagnosis, "corrects", False)
    path = tmp_path / "fit.pt"
    posterior = fit(curved, seed=0, progress=False, checkpoint=path)
    assert len(posterior.losses) == sum(RECIPE.brief_rounds)
    assert posterior.refinement.arrived
    again = fit(curved, seed=0, progress=False, checkpoint=path)
    assert again.message == posterior.message
    assert torch.equal(again.refinement.values["z"], posterior.refinement.values["z"])


def test_without_it_the_guide_alone_is_trained():
    posterior = quickly(refine=False)
    assert posterior.refinement is None
    assert len(posterior.losses) > 400


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"guide": AutoNormal(funnel)}, "not refined: refine needs a guide that makes one vector"),
        ({"elbo": Trace_ELBO()}, "not refined: what the given ELBO has trained stays as it is"),
        ({"args": (looped, DATA)}, "not refined: the model runs one draw at a time"),
        ({"args": (batched,), "batches": DATA, "batch_size": 2}, "not refined: chains need all of"),
    ],
)
def test_a_sentence_says_why_it_is_not_refined(options, why):
    options = dict(options)
    args = options.pop("args", (funnel, DATA))
    posterior = fit(*args, steps=5, seed=0, compile=False, progress=False, **options)
    assert why in posterior.message
    assert posterior.refinement is None


def test_a_given_number_of_steps_is_that():
    assert len(quickly(steps=30).losses) == 30


def test_a_seed_makes_it_the_same():
    first, again = (quickly(steps=30).refinement for _ in range(2))
    assert all(torch.equal(value, again.values[n]) for n, value in first.values.items())


def test_one_that_was_killed_while_chains_ran_is_the_same_to_the_last_bit(tmp_path, monkeypatch):
    expected = quickly(steps=60).refinement
    real = module.phases

    def killed(*args):
        yield next(real(*args))
        raise SystemExit

    monkeypatch.setattr(module, "phases", killed)
    monkeypatch.setattr(module.Phase, "has_arrived", False)
    with pytest.raises(SystemExit):
        quickly(steps=60, checkpoint=tmp_path / "fit.pt")
    monkeypatch.undo()
    found = quickly(steps=60, checkpoint=tmp_path / "fit.pt").refinement
    assert found.transitions == expected.transitions
    for name, value in expected.values.items():
        assert torch.equal(value, found.values[name])


def test_a_checkpoint_of_a_fit_of_more_rounds_is_another_fit(tmp_path):
    path = tmp_path / "fit.pt"
    assert len(quickly(refine=False, checkpoint=path).losses) > 400
    with pytest.raises(ValueError, match="another"):
        quickly(checkpoint=path)


def test_flow_and_chains_take_turns_where_chains_are_slow(monkeypatch):
    taught = []
    real = ChainPool.take

    def take(pool, draws):
        taught.append((pool.flow.inverse_and_log_det(draws)[0].detach(), draws))
        return real(pool, draws)

    monkeypatch.setattr(ChainPool, "take", take)
    monkeypatch.setattr(module.Phase, "is_slow", True)
    monkeypatch.setattr(module.Phase, "has_arrived", False)
    monkeypatch.setattr(module, "TURNS", 2)
    with pytest.warns(UserWarning, match="not yet refined"):
        posterior = quickly()
    assert len(taught) == 2
    (before, first), (after, second) = taught
    assert first.shape == second.shape  # so that the traced step goes on with its tensors
    assert not torch.equal(before, after)
    mean, sd = truth()
    for v in (second[:, 0], posterior.draws(10_000)["v"]):
        assert abs(float(v.mean()) - mean) / sd < 0.1
        assert abs(math.log(float(v.std()) / sd)) < 0.1


def test_a_guide_without_a_pool_learns_nothing(monkeypatch):
    monkeypatch.setattr(module.Phase, "is_slow", True)
    posterior = quickly(guide=AutoMultivariateNormal(funnel), steps=300)
    assert posterior.refinement.arrived


def test_one_that_was_cut_short_is_not_refined():
    posterior = quickly(seconds=1e-3)
    assert posterior.refinement is None
    assert "not refined: the fit was cut short" in posterior.message


def test_time_that_is_left_is_a_limit_for_the_chains(monkeypatch):
    posterior = quickly(steps=10, refine=False)
    monkeypatch.setattr(module.Phase, "has_arrived", False)
    with pytest.warns(UserWarning, match="not yet refined by 1024 chains of 128"):
        whole = posterior.refine(transitions=200, seed=0, progress=False)
    with pytest.warns(UserWarning, match="not yet refined by 1024 chains of 32"):
        short = posterior.refine(transitions=200, seconds=1e-9, seed=0, progress=False)
    assert short.refinement.temperatures == 1 < whole.refinement.temperatures


def test_what_cannot_be_refined_is_refused_before_a_step():
    with pytest.raises(ValueError, match="got AutoNormal; type fit"):
        quickly(guide=AutoNormal(funnel), steps=10**9)
    with pytest.raises(ValueError, match="refine=True needs the density of all data"):
        quickly(batches=DATA, batch_size=2)


@pytest.mark.parametrize("seconds", [0, -1.0, math.inf, "1"])
def test_seconds_are_a_positive_number(seconds):
    with pytest.raises(ValueError, match="seconds must be a positive number"):
        quickly(steps=1, refine=False).refine(seconds=seconds)


def test_what_has_been_refined_is_not_refined_again(tmp_path, monkeypatch):
    path = tmp_path / "fit.pt"
    first = quickly(checkpoint=path, refine=None)
    monkeypatch.setattr(module, "phases", None)
    again = quickly(checkpoint=path, refine=None)
    assert again.message == first.message
    for name, value in first.refinement.values.items():
        assert torch.equal(value, again.refinement.values[name])
