"""fit on batches of data: the compiled step with the batch as its input."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoGuideList, AutoNormal
from pyro.infer.reparam import LocScaleReparam
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pyro_nf import AmortizedFlowGuide, AutoFlowGuide, Posterior, fit
from pyro_nf.fitting.annealing import annealed, weight_at
from pyro_nf.fitting.batches import Batches
from pyro_nf.fitting.recipe import RECIPE
from pyro_nf.fitting.run import Run
from pyro_nf.fitting.step import Step

N, MU = 1000, 3.0
X = MU + math.sqrt(2) * torch.randn(N, 1, generator=torch.Generator().manual_seed(1))


class Rows(nn.Module):
    """The first argument as features."""

    def forward(self, x, *rest, **more):
        return x


def local(x, size=N):
    with pyro.plate("data", size, subsample_size=len(x)):
        z = pyro.sample("z", dist.Normal(MU, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


def both(x, size=N):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("data", size, subsample_size=len(x)):
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


def learned(x, size=N):
    mu = pyro.param("mu", torch.tensor(0.0))
    with pyro.plate("data", size, subsample_size=len(x)):
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


def outer(x, size=N):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("data", size, subsample_size=len(x)):
        pyro.sample("x", dist.Normal(mu, math.sqrt(2)), obs=x[:, 0])


def quiet(model, *args, **options):
    return fit(model, *args, **{"progress": False, "seed": 0, "steps": 60} | options)


def rows_match(guide, mu, x=X):
    """Whether the posterior of every row is N((mu + x_i) / 2, 1 / 2), nearly."""
    with torch.no_grad():
        z = torch.stack([guide(x)["z"] for _ in range(2000)])
    errors = (z.mean(0) - (mu + x[:, 0]) / 2).abs() / math.sqrt(0.5)
    spreads = (z.std(0) / math.sqrt(0.5)).log().abs()
    return bool(errors.max() < 0.35 and spreads.max() < 0.3)


def test_every_row_from_minibatches_of_ten():
    guide = AmortizedFlowGuide(local, Rows(), "planar*2")
    posterior = quiet(local, batches=X, batch_size=10, guide=guide, steps=3000, lr=0.02)
    assert "(quick)" in posterior.message
    assert rows_match(guide, MU)


def test_a_parameter_of_the_model_from_minibatches_of_ten():
    guide = AmortizedFlowGuide(learned, Rows(), "planar*2")
    quiet(learned, batches=X, batch_size=10, guide=guide, steps=3000, lr=0.02)
    assert float(pyro.param("mu").detach()) == pytest.approx(float(X.mean()), abs=0.05)
    assert rows_match(guide, X.mean())


def test_global_and_local_from_minibatches_of_ten():
    """The optimum of guides that are independent: mu has the variance 1 / (N + 1 / 100)."""
    guide = AutoGuideList(both, create_plates=lambda x: pyro.plate("data", N, len(x)))
    guide.append(AutoFlowGuide(poutine.block(both, hide=["z"]), "diag"))
    guide.append(AmortizedFlowGuide(poutine.block(both, expose=["z"]), Rows(), "planar*2"))
    posterior = quiet(both, batches=X, batch_size=10, guide=guide, steps=6000, lr=0.02)
    mu = posterior.draws(2000)["mu"]
    exact = float(X.sum() / 2 / (N / 2 + 1 / 100))
    assert float(mu.mean()) == pytest.approx(exact, abs=0.03)
    assert float(mu.std()) == pytest.approx(1 / math.sqrt(N), rel=0.2)
    assert rows_match(lambda x: guide(x), exact)


def test_what_couples_them_can_be_taken_out_of_the_model():
    """Given mu, z - mu / 2 is N(x / 2, 1 / 2): then the exact posterior is that of two guides."""
    model = poutine.reparam(both, {"z": LocScaleReparam(centered=0.5)})
    guide = AutoGuideList(model, create_plates=lambda x: pyro.plate("data", N, len(x)))
    site = "z_decentered"
    guide.append(AutoFlowGuide(poutine.block(model, hide=[site]), "diag"))
    guide.append(AmortizedFlowGuide(poutine.block(model, expose=[site]), nn.Identity(), "diag"))
    quiet(model, batches=X, batch_size=10, guide=guide, steps=16_000)
    whole = Posterior(model, guide, X)
    mu = whole.draws(4000)["mu"]
    exact, sd = float(X.sum() / 2 / (N / 2 + 1 / 100)), 1 / math.sqrt(N / 2 + 1 / 100)
    assert float(mu.mean()) == pytest.approx(exact, abs=sd / 4)
    # What is left is noise of the batches; it was 0.29 without the reparametrisation.
    assert float(mu.std()) == pytest.approx(sd, rel=0.1)
    z = whole.predict(4000)["z"]
    errors = (z.mean(0) - (exact + X[:, 0]) / 2).abs() / math.sqrt(0.5)
    assert errors.max() < 0.2
    assert (z.std(0) / math.sqrt(0.5)).log().abs().max() < 0.1


def test_a_global_guide_from_batches():
    posterior = quiet(outer, batches=X, batch_size=100, flow="diag", steps=1500)
    mu = posterior.draws(4000)["mu"]
    assert float(mu.mean()) == pytest.approx(float(X.mean()), abs=0.03)
    assert float(mu.std()) == pytest.approx(math.sqrt(2 / N), rel=0.15)


def test_an_epoch_has_every_row_once():
    batches = Batches((torch.arange(7.0), torch.arange(7)), 3, ("rest",))
    assert batches.length == 3
    feed = batches.start(seed=5)
    epochs = [[next(feed) for _ in range(3)] for _ in range(2)]
    for epoch in epochs:
        assert [len(x) for x, _, _ in epoch] == [3, 3, 1]
        assert sorted(torch.cat([x for x, _, _ in epoch]).tolist()) == list(range(7))
        assert all(torch.equal(x, y.float()) and rest == "rest" for x, y, rest in epoch)
    assert not torch.equal(epochs[0][0][0], epochs[1][0][0])
    later = batches.start(seed=5, step=4)
    assert torch.equal(next(later)[0], epochs[1][1][0])


def test_a_short_batch_runs_eagerly_and_the_others_do_not():
    step = Step(Trace_ELBO(), local, AmortizedFlowGuide(local, Rows(), "planar*2"), (X[:10],))
    assert step.compile("quick"), step.reason
    step.feed((X[:7],))
    assert step.tier == "eager"
    assert bool(step(1e-3).isfinite())
    step.feed((X[10:20],))
    assert step.tier == "quick"
    assert bool(step(1e-3).isfinite())


@pytest.mark.parametrize("kind", ["list", "tensors", "whole"])
def test_a_data_loader(kind):
    rows = TensorDataset(X, torch.arange(float(N))) if kind == "tensors" else X
    size = {"batch_size": None} if kind == "whole" else {"batch_size": 100}
    loader = DataLoader(rows if kind != "whole" else [X[:50], X[50:100]], shuffle=True, **size)

    def model(x, y=None, size=N):
        local(x, size)

    guide = AmortizedFlowGuide(model, Rows(), "planar*2")
    posterior = quiet(model, batches=loader, guide=guide, steps=None, epochs=3)
    assert len(posterior.losses) == 3 * len(loader)


def test_what_comes_after_the_batch():
    guide = AmortizedFlowGuide(local, Rows(), "diag")
    posterior = quiet(local, 5000, batches=X, batch_size=50, guide=guide)
    assert posterior.args[1] == 5000
    keyword = quiet(local, batches=X, batch_size=50, guide=guide, size=5000)
    assert keyword.kwargs == {"size": 5000}


def test_a_checkpoint_goes_on_with_the_same_batches(tmp_path):
    def run(steps, **options):
        pyro.clear_param_store()
        torch.manual_seed(0)
        guide = AmortizedFlowGuide(local, Rows(), "planar*2")
        options = {"batches": X, "batch_size": 10, "guide": guide, "steps": steps} | options
        return quiet(local, **options).losses

    whole = run(130)
    after_block = Run._after_block
    path = tmp_path / "fit"

    def stop(self):
        after_block(self)
        if len(self.losses) == 50:
            self.save()
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "_after_block", stop)
        patch.setattr(Run, "_finish", lambda self, how: None)
        run(130, checkpoint=path)
    assert torch.equal(run(130, checkpoint=path), whole)


# ---------------------------------------------------------------- annealing


def test_the_weight_of_annealing():
    first = RECIPE.first_weight
    assert [weight_at(t, 100, first) for t in (0, 49, 99, 500)] == [0.01, 0.5, 1.0, 1.0]
    assert weight_at(0, 0, first) == 1.0


@pytest.mark.parametrize("what", ["energy", "kl", None])
def test_what_is_weighted(what):
    guide = AmortizedFlowGuide(local, Rows(), "diag").setup(X)
    weight = torch.tensor(0.25)
    losses = {}
    for name, pair in {
        "plain": (local, guide),
        "annealed": annealed(local, guide, what, weight),
    }.items():
        torch.manual_seed(3)
        with torch.no_grad():
            trace = poutine.trace(pair[1]).get_trace(X)
            model = poutine.trace(poutine.replay(pair[0], trace=trace)).get_trace(X)
        losses[name] = [
            float(t.log_prob_sum(lambda site_name, site, o=o: site["is_observed"] == o).detach())
            for t, o in ((model, True), (model, False), (trace, False))
        ]
    weights = {"energy": (0.25, 0.25, 1), "kl": (1, 0.25, 0.25), None: (1, 1, 1)}[what]
    expected = [w * value for w, value in zip(weights, losses["plain"], strict=True)]
    assert losses["annealed"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("what", ["energy", "kl"])
def test_annealing_ends_at_the_posterior(what):
    guide = AmortizedFlowGuide(local, Rows(), "planar*2")
    options = {"steps": 2500, "lr": 0.02, "anneal": what, "anneal_steps": 500}
    posterior = quiet(local, batches=X, batch_size=50, guide=guide, **options)
    assert "(quick)" in posterior.message
    assert rows_match(guide, MU)


def test_annealing_an_enumerated_model():
    def model(x):
        with pyro.plate("data", len(x)):
            label = pyro.sample("label", dist.Bernoulli(0.5))
            z = pyro.sample("z", dist.Normal(6.0 * label - 3, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    guide = AmortizedFlowGuide(poutine.block(model, hide=["label"]), Rows(), "planar*2")
    options = {"elbo": TraceEnum_ELBO(max_plate_nesting=1), "guide": guide, "anneal_steps": 20}
    options |= {"batches": X, "batch_size": 50, "compile": False}
    for what in ("energy", "kl"):
        posterior = quiet(config_enumerate(model), anneal=what, **options)
        assert posterior.losses.isfinite().all()


# ---------------------------------------------------------------- what may be wrong

WRONG = {
    "no size": ({"batches": X}, ValueError, "needs a batch_size"),
    "size 0": ({"batches": X, "batch_size": 0}, ValueError, "from 1 to the 1000 rows, got 0"),
    "size 2000": ({"batches": X, "batch_size": 2000}, ValueError, "from 1 to the 1000 rows"),
    "size 1.5": ({"batches": X, "batch_size": 1.5}, TypeError, "batch_size must be an int"),
    "lengths": (
        {"batches": (X, X[:3]), "batch_size": 2},
        ValueError,
        r"same number of rows, got the shapes \[\(1000, 1\), \(3, 1\)\]",
    ),
    "loader and size": (
        {"batches": DataLoader(X, 10), "batch_size": 10},
        ValueError,
        "a DataLoader makes its own batches",
    ),
    "generator": (
        {"batches": iter([X])},
        TypeError,
        "iterate over once an epoch, got list_iterator",
    ),
    "number": ({"batches": 3}, TypeError, "got int; type batches=DataLoader"),
    "size alone": ({"batch_size": 10}, ValueError, "batch_size=10 is for batches"),
    "epochs alone": ({"epochs": 10}, ValueError, "epochs=10 is for batches"),
    "steps and epochs": (
        {"batches": X, "batch_size": 10, "epochs": 2, "steps": 5},
        ValueError,
        "either steps=5 or epochs=2",
    ),
    "anneal": ({"anneal": "both"}, ValueError, '"energy", "kl" or None, got \'both\''),
    "anneal_steps": (
        {"anneal": "kl", "steps": 100},
        ValueError,
        "anneal_steps=10000 leaves none of the 100 steps.*type anneal_steps=20",
    ),
    "no encoder": (
        {"batches": X, "batch_size": 10},
        ValueError,
        r"'z' is local: its shape is \(10,\) for a batch of 10 rows and \(5,\) for one of 5.*"
        r"guide=AmortizedFlowGuide\(model, encoder\)",
    ),
}


def full(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(MU, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


@pytest.mark.parametrize("case", WRONG)
def test_bad_input(case):
    options, exception, message = WRONG[case]
    args = () if "batches" in options else (X[:10],)
    with pytest.raises(exception, match=f"(?s){message}"):
        quiet(full, *args, **{"steps": None} | options)


def test_batches_without_end_or_without_any():
    class Endless:
        def __iter__(self):
            return iter([X[:10]] * 3)

    class Empty:
        def __iter__(self):
            return iter([])

    guide = AmortizedFlowGuide(local, Rows(), "diag")
    assert len(quiet(local, batches=Endless(), guide=guide, steps=20).losses) == 20
    with pytest.raises(ValueError, match=r"does not tell its length.*give steps"):
        quiet(local, batches=Endless(), guide=guide, steps=None, epochs=2)
    with pytest.raises(ValueError, match="gave no batch in an epoch"):
        quiet(local, batches=Empty(), guide=guide, steps=20)


def test_other_guides_take_batches_too():
    assert quiet(outer, batches=X, batch_size=50, guide=AutoNormal(outer)).losses.isfinite().all()
