"""AmortizedFlowGuide: a flow posterior for each row, whose parameters an encoder gives."""

import copy
import io
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    SVI,
    JitTrace_ELBO,
    Predictive,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    config_enumerate,
)
from pyro.infer.autoguide import AutoGuideList, init_to_value
from pyro.optim import Adam
from torch import nn

from pyro_nf import AmortizedFlowGuide, AutoFlowGuide, fit

# Pyro's JIT runs on torch.jit.trace, which torch has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")

N, BATCH, MU = 1000, 10, 3.0


class Given(nn.Module):
    """Features that are the first argument, and what is wrong with them, if anything."""

    def __init__(self, change=lambda x: x):
        super().__init__()
        self.change = change

    def forward(self, x, *rest):
        return self.change(x)


class Subsampled(nn.Module):
    """Features of the plate's own rows."""

    def forward(self, x, *rest):
        return pyro.subsample(x, event_dim=1)


def local(x):
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x)


def data(count=N):
    generator = torch.Generator().manual_seed(1)
    return MU + math.sqrt(2) * torch.randn(count, 1, generator=generator)


def rows_of(plate, x):
    with plate:
        z = pyro.sample("z", dist.Normal(MU, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x.squeeze(-1))


def whole(x):
    rows_of(pyro.plate("data", len(x)), x)


def drawn(x):
    plate = pyro.plate("data", len(x), subsample_size=BATCH)
    rows_of(plate, x[plate.indices])


def given(x, index):
    plate = pyro.plate("data", len(x), subsample=index)
    rows_of(plate, x[index])


def batch(x, size=N):
    rows_of(pyro.plate("data", size, subsample_size=len(x)), x)


def conjugate_guide(model, encoder, *args):
    """A guide that is off by a known amount: z_i ~ N(1 + 0.6 x_i, 0.5^2)."""
    guide = AmortizedFlowGuide(model, encoder, "diag").setup(*args)
    inner, outer = guide.flow
    with torch.no_grad():
        inner.params.theta.zero_()
        outer.params.theta.copy_(torch.tensor([1.0, math.log(0.5)]))
        outer.params.weight.copy_(torch.tensor([[0.6], [0.0]]))
    return guide


def exact_elbo(x):
    mean, sd = 1.0 + 0.6 * x, 0.5
    expected = -((mean - MU) ** 2 + sd**2) / 2 - ((x - mean) ** 2 + sd**2) / 2
    entropy = 0.5 * math.log(2 * math.pi * math.e) + math.log(sd)
    return float((expected - math.log(2 * math.pi) + entropy).sum())


SUBSAMPLES = {
    "whole": (whole, Given(), lambda x: (x,)),
    "drawn, features of all rows": (drawn, Given(), lambda x: (x,)),
    "drawn, features of the rows": (drawn, Subsampled(), lambda x: (x,)),
    "given": (given, Given(), lambda x: (x, torch.randperm(N)[:BATCH])),
    "given, features of the rows": (given, Subsampled(), lambda x: (x, torch.randperm(N)[:20])),
    "a batch": (batch, Given(), lambda x: (x[torch.randperm(N)[: BATCH + 1]],)),
}


@pytest.mark.parametrize("case", SUBSAMPLES)
def test_the_loss_is_that_of_the_whole_data(case):
    model, encoder, args = SUBSAMPLES[case]
    x = data()
    guide = conjugate_guide(model, encoder, *args(x))
    losses = torch.tensor([Trace_ELBO().loss(model, guide, *args(x)) for _ in range(400)])
    error = losses.std() / math.sqrt(len(losses))
    assert error < 50
    assert abs(losses.mean() + exact_elbo(x)) < 4 * error


def test_the_model_keeps_the_index_that_it_gives():
    x, index = data(), torch.tensor([5, 3, 8])
    guide = conjugate_guide(given, Given(), x, index)
    guide_trace = poutine.trace(guide).get_trace(x, index)
    trace = poutine.trace(poutine.replay(given, trace=guide_trace)).get_trace(x, index)
    assert trace.nodes["data"]["value"].tolist() == [5, 3, 8]
    assert guide_trace.nodes["data"]["value"].tolist() == [5, 3, 8]


def test_batches_may_differ_in_size():
    guide = AmortizedFlowGuide(batch, nn.Linear(1, 4), "planar*2")
    svi = SVI(batch, guide, Adam({"lr": 1e-3}), Trace_ELBO())
    for size in (10, 7, 1000, 1, 10):
        assert math.isfinite(svi.step(data(size)))
        assert guide(data(size))["z"].shape == (size,)


def inner(x):
    """Plates left and right of the rows' own."""
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("right", 2, dim=-1):
            pyro.sample("b", dist.Gamma(3.0, 2.0))
        with pyro.plate("left", 3, dim=-3):
            pyro.sample("c", dist.Dirichlet(2.0 * torch.ones(2)))


SITES = {
    "normal": dist.Normal(1.0, 2.0),
    "positive": dist.Gamma(3.0, 2.0),
    "interval": dist.Uniform(-1.0, 3.0),
    "simplex": dist.Dirichlet(2.0 * torch.ones(3)),
    "cholesky": dist.LKJCholesky(2, 1.0),
    "vector": dist.Normal(torch.zeros(2), 1.0).to_event(1),
}


def mean_weight(model, x, n=200):
    """The mean of p / q over rows and draws, which is 1; and its standard error."""
    guide = AmortizedFlowGuide(model, Given(), "planar*2", init_scale=2.0).setup(x)
    logs = []
    for _ in range(n):
        trace = poutine.trace(guide).get_trace(x)
        replayed = poutine.trace(poutine.replay(model, trace=trace)).get_trace(x)
        total = 0
        for t, sign in ((replayed, 1), (trace, -1)):
            t.compute_log_prob()
            for node in t.nodes.values():
                if node["type"] == "sample" and node["log_prob"].dim():
                    log_prob = node["log_prob"]
                    if "c" in t.nodes:
                        while log_prob.dim() < 3:
                            log_prob = log_prob.unsqueeze(0)
                        log_prob = log_prob.sum((0, 2))
                    total = total + sign * log_prob
        logs.append(total.detach())
    weights = torch.stack(logs).exp()
    return float(weights.mean()), float(weights.std() / math.sqrt(weights.numel()))


@pytest.mark.parametrize("case", [*SITES, "inner plates"])
def test_densities_integrate_to_one(case):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", SITES[case])

    mean, error = mean_weight(inner if case == "inner plates" else model, torch.zeros(100, 1))
    assert error < 0.1
    assert abs(mean - 1) < 4 * error


def test_values_of_sites_within_a_row_belong_to_that_row():
    x = torch.arange(5.0).unsqueeze(-1) / 5
    guide = AmortizedFlowGuide(inner, Given(), "diag").setup(x)
    last = guide.flow.flows[-1].params
    with torch.no_grad():
        last.theta.zero_()
        last.theta[6:] = -20.0  # six numbers in a row: 1 + 2 + 3
        last.weight.zero_()
        last.weight[:6] = torch.arange(1.0, 7.0).unsqueeze(-1)
    values = guide(x)
    assert {name: tuple(v.shape) for name, v in values.items()} == {
        "a": (5, 1),
        "b": (5, 2),
        "c": (3, 5, 1, 2),
    }
    rows = x.squeeze(-1)
    assert torch.allclose(values["a"], x, atol=1e-4)
    assert torch.allclose(values["b"].log(), torch.stack([2 * rows, 3 * rows], -1), atol=1e-4)
    ratio = values["c"].logit()[..., 0].squeeze(-1)  # stick breaking of one stick
    assert torch.allclose(ratio, torch.stack([k * rows for k in (4, 5, 6)]), atol=1e-2)


def test_starts_as_one_normal_distribution_for_all_rows():
    init = init_to_value(values={"z": torch.tensor([[0.5, -1.0]]).expand(300, 2)})
    guide = AmortizedFlowGuide(local, nn.Linear(1, 8), init_loc_fn=init, init_scale=0.3)
    x = data(300)
    z = torch.stack([guide(x)["z"] for _ in range(50)])
    assert torch.allclose(z.mean((0, 1)), torch.tensor([0.5, -1.0]), atol=0.02)
    assert torch.allclose(z.std((0, 1)), torch.tensor(0.3), rtol=0.05)
    assert z.mean(0).std(0).max() < 0.06


@pytest.mark.parametrize("flow", ["planar*4", "radial*2", "affine_coupling*2"])
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceGraph_ELBO, JitTrace_ELBO])
def test_learns(flow, elbo):
    x = data(50)
    guide = AmortizedFlowGuide(local, nn.Sequential(nn.Linear(1, 8), nn.ELU()), flow)
    options = {"ignore_jit_warnings": True} if elbo is JitTrace_ELBO else {}
    svi = SVI(local, guide, Adam({"lr": 2e-2}), elbo(**options))
    losses = [svi.step(x) for _ in range(150)]
    assert sum(losses[-20:]) < 0.75 * sum(losses[:20])
    assert all(p.grad is not None for p in guide.encoder.parameters())


def test_an_iaf_learns_while_it_widens():
    """Gates of y = g x + (1 - g) m would open then, which shuts m off."""

    def tilted(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 0.3), obs=x[:, 0])

    marginal = dist.Normal(0.0, math.sqrt(4.09))
    x = marginal.sample((100, 1))
    encoder = nn.Sequential(nn.Linear(1, 8), nn.ELU())
    guide = AmortizedFlowGuide(tilted, encoder, "iaf", init_scale=0.01)
    posterior = fit(tilted, x, guide=guide, steps=600, seed=0, progress=False)
    bound = posterior.log_evidence(x.repeat(20, 1), n=1).mean()
    assert marginal.log_prob(x).mean() - bound < 0.2  # of a diagonal guide 3.1


def test_a_context_vector():
    guide = AmortizedFlowGuide(local, nn.Linear(1, 8), "planar*2 + nice*2", context_dim=3)
    x = data(20)
    svi = SVI(local, guide, Adam({"lr": 1e-2}), Trace_ELBO(num_particles=2))
    before = [svi.step(x) for _ in range(40)]
    assert sum(before[-10:]) < sum(before[:10])
    assert "planar*2 + nice*2 + diag, D=2, 8 features" in repr(guide).replace(
        "additive_coupling", "nice"
    )
    assert {flow.context_dim for flow in guide.flow.flows[0].flow} == {3}


def test_vectorized_particles():
    x = data(20)
    guide = AmortizedFlowGuide(local, nn.Linear(1, 8), "planar*2").setup(x)
    means = []
    for vectorize in (False, True):
        elbo = Trace_ELBO(500, vectorize_particles=vectorize, max_plate_nesting=1)
        with torch.no_grad():
            means.append(elbo.loss(local, guide, x))
    assert means[0] == pytest.approx(means[1], rel=0.02)


def test_the_path_gradient_vanishes_at_the_posterior():
    x = data(30)
    noise = {}
    for gradient in ("path", "total"):
        guide = AmortizedFlowGuide(whole, Given(), "planar*2", gradient=gradient).setup(x)
        inner, outer = guide.flow
        with torch.no_grad():  # z_i ~ N((MU + x_i) / 2, 1 / 2)
            inner.params.theta[2:4] = 0.0
            outer.params.theta.copy_(torch.tensor([MU / 2, -math.log(2) / 2]))
            outer.params.weight.copy_(torch.tensor([[0.5], [0.0]]))
        Trace_ELBO().differentiable_loss(whole, guide, x).backward()
        noise[gradient] = max(float(p.grad.abs().max()) for p in guide.parameters())
    assert noise["path"] < 1e-3 < 0.5 < noise["total"]


def test_double_precision():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    guide = AmortizedFlowGuide(model, nn.Linear(1, 4).double(), "planar*2")
    assert guide(data(5).double())["z"].dtype == torch.float64
    single = AmortizedFlowGuide(model, Given(lambda x: x.float()), "planar*2")
    assert single(data(5).double())["z"].dtype == torch.float64


def both(x, size=N):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("data", size, subsample_size=len(x)):
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x.squeeze(-1))


def both_guides(model, plates=None):
    guide = AutoGuideList(model, create_plates=plates)
    guide.append(AutoFlowGuide(poutine.block(model, hide=["z"]), "diag"))
    local = poutine.block(model, expose=["z"])
    guide.append(AmortizedFlowGuide(local, Given(), "planar*2"))
    return guide


def test_global_and_local_latents_learn_together():
    """Where to is tested with fit, which takes a tenth of the time."""
    x = data()
    guide = both_guides(both)
    svi = SVI(both, guide, Adam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step(x[:50])]
    before = [p.detach().clone() for p in guide.parameters()]
    losses += [svi.step(x[torch.randperm(N)[:50]]) for _ in range(150)]
    moved = [not torch.equal(p, old) for p, old in zip(guide.parameters(), before, strict=True)]
    assert all(moved)
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_in_a_list_the_plate_is_made_once_for_all():
    def model(x, index):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x), subsample=index):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[index, 0])

    x = data()
    with pytest.raises(ValueError, match=r"(?s)'data' an index.*AutoGuideList.*create_plates"):
        both_guides(model)(x, torch.arange(5))
    guide = both_guides(model, lambda x, index: pyro.plate("data", len(x), subsample=index))
    for size in (5, 7):
        index = torch.randperm(N)[:size]
        trace = poutine.trace(guide).get_trace(x, index)
        assert torch.equal(trace.nodes["data"]["value"], index)
        assert trace.nodes["z"]["value"].shape == (size,)


def test_a_class_label_is_summed_out():
    centres = torch.tensor([-3.0, 3.0])
    x = centres[torch.arange(60) % 2].unsqueeze(-1) + 0.5 * data(60) - 1.5

    def model(x, labels=None):
        with pyro.plate("data", len(x)):
            label = pyro.sample("label", dist.Bernoulli(0.5), obs=labels)
            z = pyro.sample("z", dist.Normal(centres[label.long()], 0.5))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x.squeeze(-1))

    encoder = Given(nn.Sequential(nn.Linear(1, 8), nn.ELU()))
    guide = AmortizedFlowGuide(
        poutine.block(model, hide=["label"]), encoder, "planar*2", gradient="total"
    )
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    svi = SVI(config_enumerate(model), guide, Adam({"lr": 2e-2}), elbo)
    losses = [svi.step(x) for _ in range(200)]
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])
    labels = (x > 0).float().squeeze(-1)
    assert math.isfinite(SVI(model, guide, Adam({"lr": 1e-3}), Trace_ELBO()).step(x, labels))
    z = torch.stack([guide(x)["z"] for _ in range(50)]).mean(0)
    assert ((z > 0) == (x.squeeze(-1) > 0)).float().mean() > 0.9


# ---------------------------------------------------------------- as an object


def trained(steps=3, **options):
    guide = AmortizedFlowGuide(local, nn.Linear(1, 4), "planar*2", **options)
    svi = SVI(local, guide, Adam({"lr": 1e-2}), Trace_ELBO())
    for _ in range(steps):
        svi.step(data(10))
    return guide


def same_draws(one, other):
    draws = []
    for guide in (one, other):
        torch.manual_seed(3)
        draws.append(guide(data(10))["z"])
    return torch.equal(*draws)


def test_a_second_guide_trains_parameters_of_its_own():
    first = trained()
    before = {name: value.clone() for name, value in first.state_dict().items()}
    second = trained()
    assert all(torch.equal(value, before[name]) for name, value in first.state_dict().items())
    store = pyro.get_param_store()
    assert {id(p) for p in second.parameters()} <= {id(store[name]) for name in store}
    assert len(set(store)) == 2 * len(list(first.parameters()))
    assert not any("latent" in name or "prototype" in name for name in store)


def test_copies():
    guide = trained()
    copied = copy.deepcopy(guide)
    assert same_draws(guide, copied)
    assert guide.model is local
    assert copied.model is local
    SVI(local, copied, Adam({"lr": 1e-1}), Trace_ELBO()).step(data(10))
    assert not same_draws(guide, copied)
    buffer = io.BytesIO()
    torch.save(guide, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    with pytest.raises(RuntimeError, match=r"AmortizedFlowGuide\(model, ...\).setup"):
        loaded(data(10))
    fresh = AmortizedFlowGuide(local, nn.Linear(1, 4), "planar*2").setup(data(10))
    fresh.load_state_dict(loaded.state_dict())
    assert same_draws(guide, fresh)
    assert guide.model is local  # the live guide keeps it


def test_a_name_finds_its_parameters_in_the_store():
    guide = trained(name="vae")
    state = pyro.get_param_store().get_state()
    pyro.clear_param_store()
    pyro.get_param_store().set_state(state)
    again = AmortizedFlowGuide(local, nn.Linear(1, 4), "planar*2", name="vae").setup(data(10))
    again(data(10))
    assert same_draws(guide, again)


def test_predictive():
    guide = trained()
    samples = Predictive(local, guide=guide, num_samples=7)(data(10))
    assert samples["z"].shape == (7, 10, 2)
    assert guide.get_posterior(data(10)).rsample().shape == (10, 2)


# ---------------------------------------------------------------- what may be wrong


def only_global(x):
    pyro.sample("mu", dist.Normal(0.0, 1.0))


def two_plates(x):
    with pyro.plate("one", 3):
        pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("two", 4):
        pyro.sample("b", dist.Normal(0.0, 1.0))


def discrete(x):
    with pyro.plate("data", len(x)):
        pyro.sample("k", dist.Bernoulli(0.5))


def sequential(x):
    for i in pyro.plate("data", 3):
        pyro.sample(f"z{i}", dist.Normal(0.0, 1.0))


def bounded_by_row(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Uniform(0.0, 1.0 + torch.arange(float(len(x)))))


def subsampled_within(x):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("parts", 5, 2, dim=-1):
            pyro.sample("w", dist.Normal(0.0, 1.0))


def no_latents(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(0.0, 1.0).expand([1]).to_event(1), obs=x)


NAN = Given(lambda x: x.masked_fill(torch.arange(len(x))[:, None] == 2, math.nan))

# A model, an encoder, other options; the exception, and a part of its message.
WRONG = {
    "no encoder": (local, None, {}, TypeError, r"Module.*got None; .*\(model, encoder\)"),
    "a function": (local, lambda x: x, {}, TypeError, "encoder must be a torch.nn.Module"),
    "context_dim": (
        local,
        Given(),
        {"context_dim": 0},
        ValueError,
        "context_dim must be 1 or more, got 0",
    ),
    "gradient": (local, Given(), {"gradient": "both"}, ValueError, '"path" or "total"'),
    "init_scale": (local, Given(), {"init_scale": -1}, ValueError, "init_scale must be a positive"),
    "model": (3, Given(), {}, TypeError, "a Pyro model, a callable, got 3"),
    "rows": (
        local,
        Given(lambda x: x[:4]),
        {},
        ValueError,
        r"shape \(4, 1\) for the latent sites 'z' in the plate 'data' of 6 rows.*\(6, F\)",
    ),
    "rows of a subsample": (
        lambda x: rows_of(pyro.plate("data", 100, len(x)), x),
        Given(lambda x: x[:4]),
        {},
        ValueError,
        r"shape \(4, 1\).*of 6 rows.*shape \(6, F\), or \(100, F\) for all its rows",
    ),
    "no feature dimension": (
        local,
        Given(lambda x: x[:, 0]),
        {},
        ValueError,
        r"features of shape \(6,\).*\(6, F\): a vector of F features for each row",
    ),
    "a pair": (local, Given(lambda x: (x, x)), {}, TypeError, "must give a tensor of features"),
    "whole numbers": (local, Given(lambda x: x.long()), {}, TypeError, "a tensor of features"),
    "NaN": (
        local,
        NAN,
        {},
        ValueError,
        r"not finite for the latent sites 'z', in 1 of 6 rows, .*row 2, .*\(6, 1\).*scale the data",
    ),
    "global": (
        both,
        Given(),
        {},
        ValueError,
        r"'mu' are global, .*AutoFlowGuide\(poutine.block\(model, hide=\['z'\]\)\).*"
        r"AmortizedFlowGuide\(poutine.block\(model, expose=\['z'\]\), encoder\)",
    ),
    "only global": (only_global, Given(), {}, ValueError, "'mu' are in no plate.*AutoFlowGuide"),
    "two plates": (two_plates, Given(), {}, ValueError, "in no plate together: 'a' in one; 'b'"),
    "discrete": (discrete, Given(), {}, ValueError, r"'k' is discrete.*hide=\[\"k\"\]"),
    "sequential": (sequential, Given(), {}, ValueError, "inside the sequential plate 'data'"),
    "support": (bounded_by_row, Given(), {}, ValueError, "'z' differs from row to row.*'data'"),
    "parts": (subsampled_within, Given(), {}, ValueError, "'w' is local to the plate 'parts'"),
    "no latents": (no_latents, Given(), {}, ValueError, "no latent variable"),
    "flow": (local, Given(), {"flow": "planr"}, ValueError, "did you mean 'planar'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input(case):
    model, encoder, options, exception, message = WRONG[case]
    for _ in range(2):  # the second call must not meet a guide that is half set up
        with pytest.raises(exception, match=f"(?s){message}"):
            AmortizedFlowGuide(model, encoder, **options)(data(6))
    assert not list(pyro.get_param_store())


def test_features_that_become_wrong():
    guide = AmortizedFlowGuide(local, nn.Linear(1, 3), "planar*2")
    svi = SVI(local, guide, Adam({"lr": 1e-2}), Trace_ELBO())
    svi.step(data(6))
    broken = data(6)
    broken[4] = math.nan
    with pytest.raises(ValueError, match=r"not finite.*in 1 of 6 rows.* row 4"):
        svi.step(broken)
    assert math.isfinite(svi.step(data(6)))


def test_the_global_guide_points_here():
    with pytest.raises(ValueError, match=r"'z' is local to.*AmortizedFlowGuide\(model, encoder\)"):
        AutoFlowGuide(drawn)(data())
