"""log_evidence of held-out rows; reconstructions and prior draws of amortized guides."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuideList, AutoNormal, init_to_value
from torch import nn

import pyro_nf.posterior.joint
from pyro_nf import AmortizedFlowGuide, AutoFlowGuide, Posterior

X = 3 + math.sqrt(2) * torch.randn(50, 1, generator=torch.Generator().manual_seed(1))


class Rows(nn.Module):
    """The first argument as features."""

    def forward(self, x, *rest):
        return x


def vae(x=None, rows=7, size=None):
    rows = rows if x is None else len(x)
    with pyro.plate("data", size or rows, rows):
        z = pyro.sample("z", dist.Normal(3.0, 1.0))
        obs = None if x is None else x
        pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).to_event(1), obs=obs)


def exact(x=X):
    return dist.Normal(3.0, math.sqrt(2)).log_prob(x[:, 0]).double()


def posterior(model=vae, *args, flow="planar*2"):
    guide = AmortizedFlowGuide(model, Rows(), flow, init_scale=1.0).setup(*args)
    with torch.no_grad():  # mean x_i / 2 + 2, a little off; the right scale is 0.71
        last = guide.flow.flows[-1].params
        last.theta[0] = 2.0
        last.weight[0] = 0.5
    guide(*args)
    return Posterior(model, guide, *args)


@pytest.mark.parametrize("memory", [2**27, 2**17, 1])
def test_the_evidence_of_each_row(memory, monkeypatch):
    made = posterior(vae, X[:5])
    monkeypatch.setattr(pyro_nf.posterior.joint, "MEMORY", memory)
    rows = X if memory > 1 else X[:3]
    found = made.log_evidence(rows, n=1000)
    assert found.shape == (len(rows),)
    assert found.dtype == torch.float64
    assert torch.allclose(found, exact(rows), atol=0.3)
    assert abs(float((found - exact(rows)).mean())) < (0.03 if memory > 1 else 0.1)


def test_a_batch_of_a_larger_plate():
    def batch(x):
        vae(x, size=1000)

    found = posterior(batch, X[:5]).log_evidence(X, n=1000)
    assert torch.allclose(found, exact(), atol=0.3)


def test_a_masked_row_has_no_evidence():
    def masked(x, there):
        with pyro.plate("data", len(x)), poutine.mask(mask=there):
            z = pyro.sample("z", dist.Normal(3.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    there = torch.arange(50) % 2 == 0
    guide = AmortizedFlowGuide(poutine.mask(masked, mask=True), Rows(), "diag", init_scale=1.0)
    guide(X, there)
    found = Posterior(masked, guide, X, there).log_evidence(X, there, n=2000)
    assert torch.allclose(found[there], exact()[there], atol=0.5)


def test_global_latents_are_drawn():
    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    guide = AutoGuideList(model, create_plates=lambda x: pyro.plate("data", len(x)))
    options = {"init_loc_fn": init_to_value(values={"mu": torch.tensor(3.0)}), "init_scale": 1e-3}
    guide.append(AutoFlowGuide(poutine.block(model, hide=["z"]), "diag", **options))
    guide.append(AmortizedFlowGuide(poutine.block(model, expose=["z"]), Rows(), init_scale=1.0))
    guide(X)
    with torch.no_grad():
        guide[1].flow.flows[-1].params.theta[0] = 3.0
    found = Posterior(model, guide, X).log_evidence(X, n=3000)
    assert torch.allclose(found.median(), exact().median(), atol=0.2)


WRONG = {
    "no rows": (lambda: posterior(vae, X).log_evidence(), "log_evidence needs rows"),
    "a number of draws": (
        lambda: posterior(vae, X).log_evidence(X, n=0),
        "must be 1 or more, got 0",
    ),
    "another guide": (
        lambda: other_guide().log_evidence(X),
        "AmortizedFlowGuide; this guide has none",
    ),
    "other rows": (
        lambda: posterior(fixed, X[:5]).log_evidence(X),
        r"the encoder gives features of shape \(16, 1\)",
    ),
}


def fixed(x):
    with pyro.plate("data", 5):
        z = pyro.sample("z", dist.Normal(3.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:5, 0])


def other_guide():
    guide = AutoNormal(vae)
    guide(X)
    return Posterior(vae, guide, X)


@pytest.mark.parametrize("case", WRONG)
def test_bad_input(case):
    call, message = WRONG[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call()


# ---------------------------------------------------------------- predictions


def test_a_reconstruction_of_other_rows():
    made = posterior(vae, X[:5])
    new = torch.tensor([[-20.0], [30.0]])
    found = made.predict(500, new)
    assert found["x"].shape == (500, 2, 1)
    assert torch.allclose(found["x"].mean(0), 0.5 * new + 2, atol=0.3)


def test_a_reconstruction_of_a_batch_of_a_larger_plate():
    def batch(x):
        vae(x, size=1000)

    assert posterior(batch, X[:5]).predict(30, X[:2])["x"].shape == (30, 2, 1)


def test_draws_of_the_prior():
    found = posterior(vae, X[:7]).predict(2000, None)
    assert found["x"].shape == (2000, 7, 1)
    assert found["z"].mean().item() == pytest.approx(3.0, abs=0.1)
    assert found["z"].std().item() == pytest.approx(1.0, abs=0.1)


def test_a_file(tmp_path):
    made = posterior(vae, X[:5])
    made.save(tmp_path / "vae")
    guide = AmortizedFlowGuide(vae, Rows(), "planar*2")
    loaded = Posterior.load(tmp_path / "vae", vae, X[:5], guide=guide)
    draws = []
    for one in (made, loaded):
        torch.manual_seed(0)
        draws.append(one.draws(10)["z"])
    assert torch.equal(*draws)


def test_log_weights_and_diagnosis():
    made = posterior(vae, X[:2])
    assert made.log_weights(50).shape == (50,)
    assert made.diagnose(500).verdict != "poor"


def labelled(x, label=None):
    """Two classes, whose latents differ in their mean."""
    with pyro.plate("data", 2 * len(x), len(x)):
        label = pyro.sample("label", dist.Bernoulli(0.3), obs=label)
        z = pyro.sample("z", dist.Normal(4 * label, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


@pytest.mark.parametrize("memory", [2**27, 2**15])
def test_a_class_label_is_summed_out_row_by_row(memory, monkeypatch):
    guide = AmortizedFlowGuide(
        poutine.block(labelled, hide=["label"]), Rows(), "diag", init_scale=2.0
    )
    guide(X)
    made = Posterior(labelled, guide, X)
    monkeypatch.setattr(pyro_nf.posterior.joint, "MEMORY", memory)
    rows = X[:7]
    parts = [dist.Normal(mean, math.sqrt(2)).log_prob(rows[:, 0]) for mean in (0.0, 4.0)]
    shares = torch.tensor([0.7, 0.3]).log()
    wanted = torch.logaddexp(parts[0] + shares[0], parts[1] + shares[1]).double()
    found = made.log_evidence(rows, n=4000)
    assert torch.allclose(found, wanted, atol=0.15)
    one = made.log_evidence(rows[:1], n=4000)
    assert torch.allclose(one, wanted[:1], atol=0.15)
    known = made.log_evidence(rows, torch.ones(7), n=4000)
    assert torch.allclose(known, (parts[1] + shares[1]).double(), atol=0.15)


def test_a_label_for_all_rows_is_not_for_each_of_them():
    def shared(x):
        label = pyro.sample("label", dist.Bernoulli(0.3))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(4 * label, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    guide = AmortizedFlowGuide(poutine.block(shared, hide=["label"]), Rows(), "diag")
    guide(X)
    with pytest.raises(ValueError, match="'label', of which all rows have the same"):
        Posterior(shared, guide, X).log_evidence(X)


def test_a_latent_from_its_prior_does_not_weigh():
    def noisy(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(3.0, 1.0))
            pyro.sample("idle", dist.Normal(0.0, 0.1))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    # Wide, so that no row's posterior is in the tail of its proposal.
    guide = AmortizedFlowGuide(poutine.block(noisy, hide=["idle"]), Rows(), "diag", init_scale=2.0)
    guide(X)
    found = Posterior(noisy, guide, X).log_evidence(X, n=2000)
    assert torch.allclose(found, exact(), atol=0.15)


def test_a_latent_below_a_label_that_is_summed_out_keeps_its_value():
    def mixture():
        label = pyro.sample("label", dist.Bernoulli(0.3))
        z = pyro.sample("z", dist.Normal(4 * label, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(2.5))

    guide = AutoFlowGuide(poutine.block(mixture, hide=["label"]), "diag", init_scale=2.0)
    guide()
    parts = [dist.Normal(mean, math.sqrt(2)).log_prob(torch.tensor(2.5)) for mean in (0.0, 4.0)]
    wanted = torch.logaddexp(parts[0] + math.log(0.7), parts[1] + math.log(0.3))
    log_weights = Posterior(mixture, guide).log_weights(10_000)
    found = log_weights.logsumexp(0) - math.log(10_000)
    assert abs(float(found - wanted)) < 0.1
