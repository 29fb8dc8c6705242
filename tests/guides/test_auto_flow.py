"""AutoFlowGuide in place of AutoMultivariateNormal, wherever Pyro takes an autoguide."""

import copy
import io
import math
import warnings

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as pyro_transforms
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    MCMC,
    NUTS,
    SVI,
    JitTrace_ELBO,
    JitTraceGraph_ELBO,
    Predictive,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoNormal,
    init_to_feasible,
    init_to_generated,
    init_to_mean,
    init_to_median,
    init_to_sample,
    init_to_uniform,
    init_to_value,
)
from pyro.infer.reparam import NeuTraReparam
from pyro.nn import PyroModule, PyroParam, PyroSample
from pyro.optim import Adam
from torch.distributions import constraints

from pyro_nf import AutoFlowGuide, Chain, flow_names
from pyro_nf.flows import Diag, Planar

# Pyro's JIT runs on torch.jit.trace, which torch has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit"),
    pytest.mark.filterwarnings("ignore:.*the guide uses the total gradient"),
]

DATA = torch.tensor([1.0, 2.0, 3.0, 2.5])
VECTOR = {"vectorize_particles": True, "max_plate_nesting": 1}
MIX = "planar*2 + nice*2 + radial + tril"


def model(data):
    mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    scale = pyro.sample("scale", dist.HalfNormal(2.0))
    with pyro.plate("data", data.shape[0]):
        pyro.sample("x", dist.Normal(mean, scale), obs=data)


def flat_model(data):
    """The same without constrained latents."""
    mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    log_scale = pyro.sample("log_scale", dist.Normal(0.0, 1.0))
    with pyro.plate("data", data.shape[0]):
        pyro.sample("x", dist.Normal(mean, log_scale.exp()), obs=data)


def start(mean=2.0, scale=1.0):
    values = {"mean": torch.tensor(mean), "scale": torch.tensor(scale)}
    values["log_scale"] = values["scale"].log()
    return init_to_value(values=values)


def train(model, guide, *args, elbo=None, steps=80, lr=0.05, **kwargs):
    svi = SVI(model, guide, Adam({"lr": lr}), elbo or Trace_ELBO())
    return [float(svi.step(*args, **kwargs)) for _ in range(steps)]


def drop(losses):
    """The last losses as a part of the first ones: from -3, of 60 nats remain 12 or less."""
    return (sum(losses[-10:]) / 10) / (sum(losses[:3]) / 3)


def mean_and_error(values):
    values = torch.tensor(values)
    return values.mean().item(), (values.std() / math.sqrt(len(values))).item()


def moved(guide, before):
    """Whether each parameter has changed since the state dict `before`."""
    state = guide.state_dict().items()
    return [not torch.equal(value, before[key]) for key, value in state if value.numel()]


def snapshot(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def saved_and_loaded(guide):
    buffer = io.BytesIO()
    torch.save(guide, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def draw(guide, *args, seed=0, **kwargs):
    torch.manual_seed(seed)
    return guide(*args, **kwargs)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# -------------------------------------------------------------------- the ELBOs of Pyro

QUIET = {"ignore_jit_warnings": True}  # of the model, whose plate has the size of its data
ELBOS = {
    "sequential": (lambda: Trace_ELBO(), 300),
    "three particles": (lambda: Trace_ELBO(3), 60),
    "vectorized": (lambda: Trace_ELBO(64, **VECTOR), 60),
    "guessed nesting": (lambda: Trace_ELBO(64, vectorize_particles=True), 60),
    "jit": (lambda: JitTrace_ELBO(**QUIET), 300),
    "jit vectorized": (lambda: JitTrace_ELBO(64, **VECTOR, **QUIET), 60),
    "graph": (lambda: TraceGraph_ELBO(), 300),
    "graph vectorized": (lambda: TraceGraph_ELBO(64, **VECTOR), 60),
    "jit graph": (lambda: JitTraceGraph_ELBO(**QUIET), 300),
}


@pytest.mark.parametrize("name", ELBOS)
def test_every_elbo_estimates_the_same_and_trains(name):
    make, calls = ELBOS[name]
    guide = AutoFlowGuide(model, MIX, init_loc_fn=start())
    # The first call is inside the ELBO.
    mean, error = mean_and_error([make().loss(model, guide, DATA) for _ in range(calls)])
    reference, reference_error = mean_and_error(
        [Trace_ELBO(200, **VECTOR).loss(model, guide, DATA) for _ in range(20)]
    )
    assert abs(mean - reference) < 4 * math.hypot(error, reference_error)

    guide = AutoFlowGuide(model, MIX, init_loc_fn=start(mean=-3.0))
    assert drop(train(model, guide, DATA, elbo=make())) < 0.4


def test_jit_warns_of_nothing_that_it_does_not_warn_of_with_other_guides():
    def plain(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    found = []
    for guide in (AutoFlowGuide(plain, MIX + "+ permute + householder"), AutoDiagonalNormal(plain)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train(plain, guide, torch.ones(3), elbo=JitTrace_ELBO(4, **VECTOR), steps=3)
        found.append([str(warning.message) for warning in caught])
    assert found[0] == found[1]


def test_mean_field_elbo():
    # On latents without constraints: Pyro's KL of a Delta site leaves out its Jacobian.
    guide = AutoFlowGuide(flat_model, MIX, init_loc_fn=start())
    for options in ({}, {"num_particles": 64, **VECTOR}):
        elbo = TraceMeanField_ELBO(**options)
        mean, error = mean_and_error([elbo.loss(flat_model, guide, DATA) for _ in range(100)])
        reference, _ = mean_and_error(
            [Trace_ELBO(200, **VECTOR).loss(flat_model, guide, DATA) for _ in range(40)]
        )
        assert abs(mean - reference) < 4 * error
    guide = AutoFlowGuide(flat_model, MIX, init_loc_fn=start(mean=-3.0))
    assert drop(train(flat_model, guide, DATA, elbo=TraceMeanField_ELBO())) < 0.4


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_renyi_elbo(alpha):
    guide = AutoFlowGuide(model, MIX, init_loc_fn=start())

    def estimate(particles, calls, **options):
        elbo = RenyiELBO(alpha=alpha, num_particles=particles, **options)
        return mean_and_error([elbo.loss(model, guide, DATA) for _ in range(calls)])

    (mean, error), (other, other_error) = estimate(5, 60), estimate(5, 200, **VECTOR)
    assert abs(mean - other) < 4 * math.hypot(error, other_error)
    tight, tight_error = estimate(500, 20, **VECTOR)
    assert tight < Trace_ELBO(4000, **VECTOR).loss(model, guide, DATA) - 4 * tight_error

    guide = AutoFlowGuide(model, MIX, init_loc_fn=start(mean=-3.0))
    elbo = RenyiELBO(alpha=alpha, num_particles=5, **VECTOR)
    assert drop(train(model, guide, DATA, elbo=elbo)) < 0.5


@config_enumerate
def mixture(data):
    weight = pyro.sample("weight", dist.Beta(2.0, 2.0))
    with pyro.plate("parts", 2):
        loc = pyro.sample("loc", dist.Normal(0.0, 5.0))
    with pyro.plate("data", data.shape[0]):
        part = pyro.sample("part", dist.Bernoulli(weight))
        pyro.sample("x", dist.Normal(torch.where(part == 1, loc[1], loc[0]), 1.0), obs=data)


def summed_mixture(data):
    """The mixture with its discrete site summed by hand."""
    weight = pyro.sample("weight", dist.Beta(2.0, 2.0))
    with pyro.plate("parts", 2):
        loc = pyro.sample("loc", dist.Normal(0.0, 5.0))
    one = weight.log() + dist.Normal(loc[1], 1.0).log_prob(data)
    zero = (-weight).log1p() + dist.Normal(loc[0], 1.0).log_prob(data)
    pyro.factor("x", torch.logaddexp(one, zero).sum())


def test_enumeration_with_blocked_discrete_sites():
    data = torch.tensor([-2.0, -2.5, 2.0, 2.5, 3.0])
    values = {"weight": torch.tensor(0.5), "loc": torch.tensor([-1.0, 1.0])}
    init = init_to_value(values=values)
    guide = AutoFlowGuide(poutine.block(mixture, hide=["part"]), MIX, init_loc_fn=init)
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    mean, error = mean_and_error([elbo.loss(mixture, guide, data) for _ in range(150)])
    other, other_error = mean_and_error(
        [Trace_ELBO().loss(summed_mixture, guide, data) for _ in range(150)]
    )
    assert abs(mean - other) < 4 * math.hypot(error, other_error)
    assert set(guide(data)) == {"weight", "loc"}
    train(mixture, guide, data, elbo=elbo, steps=150, lr=0.05)
    low, high = guide.median(data)["loc"]
    assert low < -1.5
    assert high > 1.8  # the means of the two groups are -2.25 and 2.5


def test_elbo_as_a_module_with_a_torch_optimizer():
    for local in (False, True):
        with pyro.settings.context(module_local_params=local):
            guide = AutoFlowGuide(model, MIX, init_loc_fn=start(mean=-3.0))
            elbo = Trace_ELBO()(model, guide)
            elbo(DATA)
            optimizer = torch.optim.Adam(elbo.parameters(), lr=0.05)
            losses = []
            for _ in range(80):
                optimizer.zero_grad()
                loss = elbo(DATA)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            assert drop(losses) < 0.4


# -------------------------------------------------------------------- other parts of Pyro


def test_guide_list_with_other_guides():
    for other in (AutoNormal, AutoDelta):
        guide = AutoGuideList(model)
        hidden = poutine.block(model, hide=["scale"])
        guide.append(AutoFlowGuide(hidden, MIX, init_loc_fn=start(mean=-3.0)))
        guide.append(other(poutine.block(model, expose=["scale"])))
        assert drop(train(model, guide, DATA, elbo=Trace_ELBO(4, **VECTOR))) < 0.4
        assert set(guide(DATA)) == {"mean", "scale"}
        assert abs(guide.median(DATA)["mean"] - DATA.mean()) < 1
        # AutoDelta has no quantiles of its own to be put beside the flow's.
        if other is AutoNormal:
            assert guide.quantiles([0.1, 0.9], DATA)["mean"].shape == (2,)


def test_guide_list_of_two_flows_and_a_copy_of_it():
    guide = AutoGuideList(model)
    guide.append(AutoFlowGuide(poutine.block(model, hide=["scale"]), MIX))
    guide.append(AutoFlowGuide(poutine.block(model, expose=["scale"]), "planar*2"))
    guide(DATA)
    before = snapshot(guide)
    train(model, guide, DATA, steps=3)
    assert all(moved(guide, before))
    twin = copy.deepcopy(guide)
    before = snapshot(guide)
    svi = SVI(model, twin, Adam({"lr": 0.1}), Trace_ELBO())
    svi.step(DATA)
    assert all(moved(twin, before))
    assert not any(moved(guide, before))


@pytest.mark.parametrize("parallel", [False, True])
def test_predictive(parallel):
    guide = AutoFlowGuide(model, MIX, init_loc_fn=start(), init_scale=0.01).setup(DATA)
    sites = ["mean", "scale", "x"]
    options = {"num_samples": 50, "parallel": parallel, "return_sites": sites}
    draws = Predictive(model, guide=guide, **options)(DATA)
    reference = Predictive(model, guide=AutoDiagonalNormal(model), **options)(DATA)
    assert {name: value.shape for name, value in draws.items()} == {
        name: value.shape for name, value in reference.items()
    }
    # Standard deviations are 0.01 in unconstrained space: five of them, over fifty draws.
    assert abs(draws["mean"] - 2.0).max() < 0.05
    assert abs(draws["scale"].log()).max() < 0.05
    assert draws["mean"].std() > 0.005


def regression(x, y=None):
    slopes = pyro.sample("slopes", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("rows", x.shape[0]):
        return pyro.sample("y", dist.Normal((x * slopes).sum(-1), 0.5), obs=y)


X = torch.tensor([[1.0, 0.9], [0.5, 0.7], [-1.0, -0.8], [0.2, -0.1]])
Y = torch.tensor([1.5, 1.0, -1.6, 0.3])


def test_neutra_followed_by_nuts():
    precision = torch.eye(2) + X.mT @ X / 0.25
    covariance = precision.inverse()
    mean = covariance @ X.mT @ Y / 0.25
    guide = AutoFlowGuide(regression, "planar*2 + tril", init_loc_fn=init_to_feasible)
    train(regression, guide, X, Y, elbo=Trace_ELBO(8, **VECTOR), steps=150, lr=0.03)
    neutra = NeuTraReparam(guide)
    kernel = NUTS(neutra.reparam(regression), max_tree_depth=4)
    mcmc = MCMC(kernel, num_samples=200, warmup_steps=50, disable_progbar=True)
    mcmc.run(X, Y)
    draws = neutra.transform_sample(mcmc.get_samples()["slopes_shared_latent"])["slopes"]
    assert draws.shape == (200, 2)
    # An effective size of 100 or more: errors of sd / 10 in the mean and sd / 14 in the sd.
    sd = covariance.diagonal().sqrt()
    assert ((draws.mean(0) - mean).abs() < 0.4 * sd).all()
    assert ((draws.std(0) / sd).log().abs() < 0.3).all()


def hierarchy(data):
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("groups", 3):
        level = pyro.sample("level", dist.Normal(0.0, scale))
        pyro.sample("x", dist.Normal(level, 1.0), obs=data)


def test_neutra_right_after_setup():
    data = torch.tensor([0.5, -1.0, 2.0])
    guide = AutoFlowGuide(hierarchy, MIX).setup(data)
    neutra = NeuTraReparam(guide)
    noise = torch.randn(4)
    warped = poutine.condition(neutra.reparam(hierarchy), {"scale_shared_latent": noise})
    found = poutine.trace(warped).get_trace(data).log_prob_sum()
    latents, log_det = guide.get_transform().forward_and_log_det(noise)
    values = {"scale": latents[0].exp(), "level": latents[1:]}
    plain = poutine.trace(poutine.condition(hierarchy, values)).get_trace(data)
    expected = plain.log_prob_sum() + latents[0] + log_det
    assert torch.allclose(found, expected, atol=1e-4)


def test_condition():
    fixed = poutine.condition(model, {"scale": torch.tensor(1.0)})
    guide = AutoFlowGuide(fixed, "planar*2", init_loc_fn=start(mean=-3.0))
    assert drop(train(fixed, guide, DATA)) < 0.4
    assert list(guide(DATA)) == ["mean"]


@pytest.mark.parametrize("size", [None, 3])
def test_replay_under_outer_plates(size):
    guide = AutoFlowGuide(model, MIX).setup(DATA)

    def run():
        if size is None:
            return guide(DATA)
        with pyro.plate("outer", size, dim=-2):
            return guide(DATA)

    trace = poutine.trace(run).get_trace()
    total = trace.log_prob_sum()
    run()  # another sample in between
    again = poutine.trace(poutine.replay(run, trace)).get_trace()
    assert again.nodes["mean"]["value"] is trace.nodes["mean"]["value"]
    # In float32, through the inverse of seven layers.
    assert torch.allclose(again.log_prob_sum(), total, rtol=1e-4, atol=1e-3)
    shape = () if size is None else (3, 1)
    assert trace.nodes["mean"]["value"].shape == shape


def subsampled(data, size=None, rows=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(data), subsample_size=size, subsample=rows) as index:
        pyro.sample("x", dist.Normal(mean, 1.0), obs=data[index])


def test_subsampled_observed_plates():
    data = 1 + torch.randn(50)
    guide = AutoFlowGuide(subsampled, "planar*2", init_loc_fn=start(mean=0.5)).setup(data, 10)
    full, error = mean_and_error([Trace_ELBO().loss(subsampled, guide, data) for _ in range(200)])
    part, part_error = mean_and_error(
        [Trace_ELBO().loss(subsampled, guide, data, 10) for _ in range(400)]
    )
    assert abs(full - part) < 4 * math.hypot(error, part_error)
    rows = torch.tensor([7, 3, 11])
    trace = poutine.trace(guide).get_trace(data, None, rows)
    trace = poutine.trace(poutine.replay(subsampled, trace)).get_trace(data, None, rows)
    assert torch.equal(trace.nodes["x"]["value"], data[rows])
    assert trace.nodes["x"]["scale"] == pytest.approx(50 / 3)
    train(subsampled, guide, data, 10, steps=200, lr=0.02)
    assert abs(guide.median()["mean"] - data.sum() / 51) < 0.2  # 0.14 is a posterior sd


# -------------------------------------------------------------------- as an object


def test_save_and_load():
    guide = AutoFlowGuide(model, MIX)
    train(model, guide, DATA, steps=3)
    loaded = saved_and_loaded(guide)
    assert same(draw(loaded, DATA), draw(guide, DATA))
    assert same(loaded.median(), guide.median())
    assert loaded.get_posterior().log_prob(torch.zeros(2)).shape == ()
    before = snapshot(guide)
    train(model, loaded, DATA, steps=3)  # SVI has its own reference to the model
    assert all(moved(loaded, before))
    assert not any(moved(guide, before))


def test_what_is_saved_is_small_and_needs_no_picklable_arguments():
    def lazy(data):
        model(data())

    data = torch.randn(100_000)
    guide = AutoFlowGuide(lazy, lambda dim: Planar(dim)).setup(lambda: data)
    assert same(draw(saved_and_loaded(guide)), draw(guide))
    buffer = io.BytesIO()
    torch.save(guide, buffer)
    assert buffer.tell() < 50_000  # and not the data, 400,000 bytes


def test_state_dict_into_a_fresh_guide():
    guide = AutoFlowGuide(model, MIX)
    train(model, guide, DATA, steps=3)
    fresh = AutoFlowGuide(model, MIX).setup(DATA)
    assert not same(draw(fresh, DATA), draw(guide, DATA))
    fresh.load_state_dict(guide.state_dict())
    assert same(draw(fresh, DATA), draw(guide, DATA))


def test_a_flow_instance_is_listed_once():
    flow = Planar(2)
    guide = AutoFlowGuide(model, flow).setup(DATA)
    assert next(iter(guide.flow)) is flow
    assert list(guide.state_dict()) == [
        "flow.flows.0.params.theta",
        "flow.flows.1.params.theta",
    ]


def test_deepcopy_trains_on_its_own():
    guide = AutoFlowGuide(model, MIX, init_loc_fn=start(mean=-3.0))
    train(model, guide, DATA, steps=3)
    twin = copy.deepcopy(guide)
    assert same(draw(twin, DATA), draw(guide, DATA))
    before = snapshot(guide)
    elbo = Trace_ELBO(num_particles=8, vectorize_particles=True)
    # Eight particles and a smaller rate: networks swing from so far away with one and 0.05.
    losses = train(twin.model, twin, DATA, elbo=elbo, lr=0.02, steps=200)
    assert drop(losses) < 0.4
    assert not any(moved(guide, before))
    fresh = copy.deepcopy(AutoFlowGuide(model, MIX))  # also before it is set up
    assert set(fresh(DATA)) == {"mean", "scale"}


def test_jit_trace_module():
    guide = AutoFlowGuide(model, MIX).setup(DATA)
    with pyro.validation_enabled(False):  # Pyro's checks look at values
        script = torch.jit.trace_module(guide, {"call": ()}, check_trace=False)
    buffer = io.BytesIO()
    torch.jit.save(script, buffer)
    buffer.seek(0)
    loaded = torch.jit.load(buffer)
    torch.manual_seed(0)
    mean, scale = loaded.call()
    expected = draw(guide)
    assert torch.allclose(mean, expected["mean"])
    assert torch.allclose(scale, expected["scale"])
    assert loaded.call()[0] != mean  # draws are made anew


def test_repr():
    guide = AutoFlowGuide(model, "planar*2 + tril")
    assert repr(guide) == "AutoFlowGuide('planar*2 + tril', not set up: type guide.setup(*args))"
    guide.setup(DATA)
    assert repr(guide) == "AutoFlowGuide(planar*2 + tril + diag, D=2, 19 parameters)"
    count = sum(parameter.numel() for parameter in guide.parameters())
    assert count == 19
    assert "Planar" in repr(guide.flow)


def test_what_repeats_itself_is_in_brackets():
    guide = AutoFlowGuide(model, "(planar*2 + permute)*3 + radial + tril + radial").setup(DATA)
    name = "(planar*2 + permute)*3 + radial + tril + radial + diag"
    assert repr(guide).startswith(f"AutoFlowGuide({name}, D=2")


def test_names():
    one, two = AutoFlowGuide(model), AutoFlowGuide(model)
    named = AutoFlowGuide(model, name="posterior")
    for guide in (one, two, named):
        guide(DATA)
    prefixes = {name.split(".")[0] for name in pyro.get_param_store()}
    assert len(prefixes) == 3
    assert "posterior" in prefixes
    assert "_posterior_latent" in poutine.trace(named).get_trace(DATA).nodes


# -------------------------------------------------------------------- point estimates


def test_quantiles_and_median_of_a_normal_posterior():
    def prior():
        pyro.sample("place", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        pyro.sample("size", dist.LogNormal(0.0, 1.0))

    guide = AutoFlowGuide(prior, "tril").setup()
    tril, affine, *_ = guide.flow
    with torch.no_grad():
        tril.params.theta.copy_(torch.tensor([0, 0, 0, 0, 0, 0, 0.8, -0.5, 0.4]))
        affine.params.theta.copy_(torch.tensor([1.0, -1, 0.5, 0, 0.7, -1]))
    sd = torch.tensor([0, 0.7, -1]).exp()
    sd = sd * torch.tensor([1, 1 + 0.8**2, 1 + 0.5**2 + 0.4**2]).sqrt()
    levels = [0.05, 0.25, 0.5, 0.9]
    normal = dist.Normal(torch.tensor([1.0, -1, 0.5]), sd)
    expected = torch.stack([normal.icdf(torch.tensor(level)) for level in levels])
    # Quasi-random numbers err here by less than 1 / sqrt(8192) = 0.011 standard deviations.
    quantiles = guide.quantiles(levels)
    assert quantiles["place"].shape == (4, 2)
    assert ((quantiles["place"] - expected[:, :2]).abs() < 0.011 * sd[:2]).all()
    assert ((quantiles["size"].log() - expected[:, 2]).abs() < 0.011 * sd[2]).all()
    assert same(guide.median(), {key: value[2] for key, value in quantiles.items()})


def test_quantiles_are_monotone_inside_the_support_and_draw_nothing():
    def prior():
        pyro.sample("part", dist.Beta(0.5, 0.5))
        with pyro.plate("rows", 3):
            pyro.sample("size", dist.HalfCauchy(1.0))
        pyro.sample("weights", dist.Dirichlet(torch.ones(3)))

    guide = AutoFlowGuide(prior, MIX, init_scale=1.0).setup()
    state = torch.get_rng_state()
    quantiles = guide.quantiles(torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0]))
    assert same(quantiles, guide.quantiles([0.0, 0.1, 0.5, 0.9, 1.0]))
    assert torch.equal(torch.get_rng_state(), state)
    assert {key: value.shape for key, value in quantiles.items()} == {
        "part": (5,),
        "size": (5, 3),
        "weights": (5, 3),
    }
    assert (quantiles["part"].diff(dim=0) > 0).all()
    assert (quantiles["size"].diff(dim=0) > 0).all()
    assert ((quantiles["part"] > 0) & (quantiles["part"] < 1)).all()
    assert (quantiles["size"] > 0).all()
    assert torch.allclose(quantiles["weights"].sum(-1), torch.ones(5))
    assert not any(value.requires_grad for value in quantiles.values())


def test_quantiles_in_more_dimensions_than_quasi_random_numbers_have():
    def prior():
        pyro.sample("z", dist.Normal(0.0, 1.0).expand([21_202]).to_event(1))

    guide = AutoFlowGuide(prior, "diag", init_loc_fn=init_to_feasible, init_scale=1.0).setup()
    median = guide.median()["z"]
    # Of 1,024 draws: the median's sd is sqrt(pi / 2 / 1024) = 0.039.
    assert median.std() == pytest.approx(0.039, rel=0.1)


def test_moments_of_a_posterior_that_is_known():
    def conjugate(data):
        mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(data)):
            pyro.sample("x", dist.Normal(mean, 2.0), obs=data)

    guide = AutoFlowGuide(conjugate, "diag").warm_start(DATA)
    precision = 1 / 100 + len(DATA) / 4
    mean, sd = DATA.sum().item() / 4 / precision, precision**-0.5
    posterior = guide.get_posterior()
    loc, scale = guide._loc_scale()
    assert guide.loc.item() == pytest.approx(mean, abs=0.011 * sd)
    assert posterior.variance.item() == pytest.approx(sd**2, rel=0.011)
    assert torch.equal(loc, guide.loc)
    assert torch.allclose(scale.square(), posterior.variance)
    assert AutoFlowGuide(conjugate, "diag").setup(DATA).loc.requires_grad


def test_moments_of_a_guide_that_has_not_run():
    with pytest.raises(RuntimeError, match=r"type guide.setup\(\*args\) first"):
        AutoFlowGuide(model).loc  # noqa: B018


# -------------------------------------------------------------------- where it starts


@pytest.mark.parametrize("init_scale", [0.1, 1e-4, 1e-8])
def test_a_new_guide_lies_where_it_is_told_to(init_scale):
    def prior():
        pyro.sample("z", dist.Normal(0.0, 1.0).expand([7]).to_event(1))
        with pyro.plate("rows", 30):
            pyro.sample("size", dist.LogNormal(0.0, 1.0))

    place = torch.linspace(-1, 1, 7, dtype=torch.float64)
    size = torch.linspace(0.5, 2, 30, dtype=torch.float64)
    values = {"z": place, "size": size}
    guide = AutoFlowGuide(prior, init_loc_fn=init_to_value(values=values), init_scale=init_scale)
    guide.setup()
    loc, scale = guide._loc_scale()
    # A new flow is the identity but for its networks, whose last layers start near zero.
    assert ((scale / init_scale - 1).abs() < 0.05).all()
    assert ((loc - torch.cat([place, size.log()])).abs() < 0.05 * init_scale).all()
    median = guide.median()
    assert ((median["z"] - place).abs() < 0.05 * init_scale).all()
    assert ((median["size"].log() - size.log()).abs() < 0.05 * init_scale).all()


@pytest.mark.parametrize("flow", flow_names())
def test_first_step_is_that_of_the_diagonal_normal(flow):
    init = start(mean=1.5, scale=1.2)
    options = {"init_loc_fn": init, "init_scale": 0.3}
    elbo = Trace_ELBO(500, **VECTOR)
    found = []
    for guide in (AutoFlowGuide(model, flow, **options), AutoDiagonalNormal(model, **options)):
        found.append(mean_and_error([elbo.loss(model, guide, DATA) for _ in range(40)]))
    (mean, error), (expected, expected_error) = found
    assert abs(mean - expected) < 4 * math.hypot(error, expected_error)
    assert error < 0.03  # so that the comparison says something: losses have an sd of 2


@pytest.mark.parametrize(
    "init",
    [
        init_to_feasible,
        init_to_sample,
        init_to_median,
        init_to_median(num_samples=5),
        init_to_mean,
        init_to_uniform,
        init_to_uniform(radius=0.1),
        init_to_value(values={"mean": torch.tensor(3.0)}),
        init_to_generated(generate=lambda: init_to_sample),
        lambda site: torch.tensor(0.5),
    ],
)
def test_init_loc_fn(init):
    torch.manual_seed(1)
    guide = AutoFlowGuide(model, "diag", init_loc_fn=init).setup(DATA)
    torch.manual_seed(1)
    reference = AutoDiagonalNormal(model, init_loc_fn=init)
    reference(DATA)
    loc, _ = guide.flow.forward_and_log_det(torch.zeros(2))
    assert torch.equal(loc, reference.loc)


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1, 10.0])
@pytest.mark.parametrize("flow", ["diag", "planar*8", "nice*4"])
def test_init_scale(flow, scale):
    def prior():
        pyro.sample("z", dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1))

    guide = AutoFlowGuide(prior, flow, init_loc_fn=init_to_feasible, init_scale=scale).setup()
    draws = guide.get_posterior().sample((4000,))
    # The relative error of a standard deviation is 1 / sqrt(2 * 4000) = 0.011, and eight layers
    # may add their 0.01 each.
    assert torch.allclose(draws.std(0), torch.tensor(float(scale), dtype=torch.float64), rtol=0.1)
    assert draws.mean(0).abs().max() < 0.15 * scale
    trace = poutine.trace(guide).get_trace()
    assert trace.log_prob_sum().isfinite()


@pytest.mark.parametrize("flow", flow_names())
def test_one_dimension_and_float64(flow):
    def prior():
        pyro.sample("rate", dist.Gamma(torch.tensor(2.0, dtype=torch.float64), 1.0))

    guide = AutoFlowGuide(prior, flow).setup()
    assert guide.latent_dim == 1
    before = snapshot(guide)
    losses = train(prior, guide, steps=5)
    assert all(math.isfinite(loss) for loss in losses)
    changed = moved(guide, before)
    assert any(changed)  # the location and the scale; in one dimension some layers do nothing
    assert guide()["rate"].dtype == torch.float64
    assert {parameter.dtype for parameter in guide.parameters()} == {torch.float64}
    assert guide.median()["rate"].dtype == torch.float64


# -------------------------------------------------------------------- models of all kinds


def test_model_without_arguments_and_with_keywords():
    def plain():
        mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        pyro.sample("x", dist.Normal(mean, 1.0), obs=torch.tensor(3.0))

    def keywords(x, *, y=None, power=2):
        mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        with pyro.plate("rows", x.shape[0]):
            pyro.sample("y", dist.Normal(mean * x**power, 1.0), obs=y)

    guide = AutoFlowGuide(plain, "planar*2", init_loc_fn=start(mean=-6.0))
    assert drop(train(plain, guide)) < 0.4
    guide = AutoFlowGuide(keywords, "planar*2", init_loc_fn=start(mean=-3.0))
    elbo = Trace_ELBO(4, vectorize_particles=True)
    assert drop(train(keywords, guide, DATA, y=DATA, power=1, elbo=elbo)) < 0.4
    assert AutoFlowGuide(keywords).setup(DATA, y=DATA).median().keys() == {"mean"}


def test_data_of_another_size_at_the_second_call():
    guide = AutoFlowGuide(model, "planar*2", init_loc_fn=start(mean=-3.0))
    train(model, guide, DATA, steps=2)
    assert all(math.isfinite(loss) for loss in train(model, guide, torch.randn(7), steps=2))


def test_latents_of_different_dtypes_and_one_that_is_empty():
    def mixed():
        one = pyro.sample("one", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        two = pyro.sample("two", dist.Normal(0.0, 1.0))
        pyro.sample("none", dist.Normal(0.0, 1.0).expand([0]).to_event(1))
        pyro.sample("x", dist.Normal(one + two, 1.0), obs=torch.tensor(1.0))

    guide = AutoFlowGuide(mixed, MIX)
    for elbo in (Trace_ELBO(), Trace_ELBO(4, **VECTOR)):
        assert all(math.isfinite(loss) for loss in train(mixed, guide, elbo=elbo, steps=3))
    assert {name: value.shape for name, value in guide().items()} == {
        "one": (),
        "two": (),
        "none": (0,),
    }
    assert guide.quantiles([0.1, 0.9])["none"].shape == (2, 0)
    assert guide()["one"].dtype == torch.float64


def test_scaled_model():
    guide = AutoFlowGuide(model, MIX, init_loc_fn=start())
    options = {"num_particles": 2000, **VECTOR}
    full = Trace_ELBO(**options).loss(model, guide, DATA)
    half = Trace_ELBO(**options).loss(poutine.scale(model, 0.5), guide, DATA)
    posterior = guide.get_posterior()
    latents = posterior.rsample((2000,))
    # loss = energy - entropy, of which only the energy is halved. In the support the entropy has
    # log |d scale / d u| = u on top. Averages of 2,000 numbers with an sd near one.
    entropy = (latents[:, 1] - posterior.log_prob(latents)).mean().item()
    assert half == pytest.approx((full - entropy) / 2, abs=0.1)


class Network(PyroModule):
    def __init__(self):
        super().__init__()
        self.linear = PyroModule[torch.nn.Linear](2, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))
        self.noise = PyroParam(torch.tensor(1.0), constraints.positive)

    def forward(self, x, y=None):
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("rows", x.shape[0]):
            return pyro.sample("y", dist.Normal(mean, self.noise), obs=y)


def learned(data):
    spread = pyro.param("spread", torch.tensor(5.0), constraint=constraints.positive)
    shift = pyro.module("shift", SHIFT)
    mean = pyro.sample("mean", dist.Normal(0.0, spread))
    with pyro.plate("data", data.shape[0]):
        pyro.sample("x", dist.Normal(shift(mean.reshape(1)), 1.0), obs=data)


SHIFT = torch.nn.Linear(1, 1)


def test_models_with_parameters_of_their_own():
    network = Network()
    guide = AutoFlowGuide(network, MIX)
    train(network, guide, X, Y, steps=5)
    assert network.noise != 1.0
    assert same(draw(copy.deepcopy(guide), X, Y), draw(guide, X, Y))

    before = snapshot(SHIFT)
    guide = AutoFlowGuide(learned, MIX)
    train(learned, guide, DATA, steps=5)
    assert pyro.param("spread") != 5.0
    assert all(moved(SHIFT, before))
    assert list(guide.state_dict()) == [name for name, _ in guide.named_parameters()]
    for twin in (copy.deepcopy(guide), saved_and_loaded(guide)):
        assert same(draw(twin, DATA), draw(guide, DATA))


# -------------------------------------------------------------------- Pyro's own transforms

FACTORIES = {
    "spline_coupling": pyro_transforms.spline_coupling,
    "affine_autoregressive": lambda dim: pyro_transforms.affine_autoregressive(dim, [16, 16]),
    "block_autoregressive": pyro_transforms.block_autoregressive,
    "sylvester": pyro_transforms.sylvester,
}


def correlated():
    chol = torch.eye(4) + torch.ones(4, 4).tril(-1)
    pyro.sample("z", dist.MultivariateNormal(torch.arange(4.0), scale_tril=chol))


@pytest.mark.parametrize("name", FACTORIES)
def test_flows_of_pyro_through_factories(name):
    factory = FACTORIES[name]
    guide = AutoFlowGuide(correlated, factory, init_loc_fn=init_to_feasible, init_scale=0.5)
    guide.setup()
    before = snapshot(guide)
    elbo = Trace_ELBO(8, vectorize_particles=True, max_plate_nesting=0)
    losses = train(correlated, guide, elbo=elbo, steps=80, lr=0.03)
    # The evidence is 1, so that no loss is below 0 but for noise.
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert sum(losses[-10:]) > -5
    assert sum(moved(guide, before)) > len(before) / 2

    twin = copy.deepcopy(guide)
    fresh = AutoFlowGuide(correlated, factory).setup()
    fresh.load_state_dict(guide.state_dict())
    for other in (twin, fresh, saved_and_loaded(guide)):
        assert same(draw(other), draw(guide))
    before = snapshot(guide)
    train(correlated, twin, steps=2)
    assert not any(moved(guide, before))
    assert any(moved(twin, before))


def test_lists_classes_and_instances():
    spec = [Planar, pyro_transforms.AffineTransform(0.0, 2.0), "tril", [Diag(4)]]
    guide = AutoFlowGuide(correlated, spec).setup()
    assert isinstance(guide.flow, Chain)
    assert repr(guide) == (
        "AutoFlowGuide(planar + AffineTransform + tril + diag*2, D=4, 39 parameters)"
    )
    assert all(math.isfinite(loss) for loss in train(correlated, guide, steps=3))


@pytest.mark.parametrize(
    ("flow", "dim", "sentence"),
    [
        ("planar*8", 200, r"planar\*8 bends 8 directions of 200"),
        ("sylvester(rank=4)*2", 200, r"sylvester\*2 bends 8 directions of 200"),
        ("radial*4", 200, "in 200 dimensions all draws are nearly as far"),
        ("tril", 1500, "tril trains 1,124,250 numbers in 1500 dimensions"),
    ],
)
def test_a_flow_that_serves_badly_in_many_dimensions_is_told(flow, dim, sentence):
    def model():
        pyro.sample("x", dist.Normal(0.0, 1.0).expand([dim]).to_event(1))

    with pytest.warns(UserWarning, match=f'{sentence}.*type flow="affine_coupling'):
        AutoFlowGuide(model, flow).setup()


FITTING = [("planar*8", 20), ("planar*64", 200), ("tril", 500), ("nice*2 + planar*2", 200)]


@pytest.mark.parametrize(("flow", "dim"), FITTING)
def test_and_one_that_does_not_is_not(flow, dim):
    def model():
        pyro.sample("x", dist.Normal(0.0, 1.0).expand([dim]).to_event(1))

    AutoFlowGuide(model, flow).setup()


# -------------------------------------------------------------------- parameters that are frozen


def test_a_frozen_guide_draws_scores_and_transports_and_stays():
    guide = AutoFlowGuide(model, MIX, init_loc_fn=start())
    train(model, guide, DATA, steps=3)
    expected = draw(guide, DATA)
    guide.requires_grad_(False)
    pyro.clear_param_store()
    before = snapshot(guide)
    assert same(draw(guide, DATA), expected)
    assert math.isfinite(Trace_ELBO(64, **VECTOR).loss(model, guide, DATA))
    with torch.no_grad():
        assert guide.train()(DATA).keys() == expected.keys()
    assert list(pyro.get_param_store()) == []

    transported = NeuTraReparam(guide).reparam(model)
    name = "mean_shared_latent"
    z = torch.zeros(2, requires_grad=True)
    trace = poutine.trace(poutine.condition(transported, {name: z})).get_trace(DATA)
    (slope,) = torch.autograd.grad(trace.log_prob_sum(), z)
    assert slope.isfinite().all()
    assert slope.any()
    assert not any(moved(guide, before))


def test_what_is_frozen_stays_while_the_rest_is_trained():
    guide = AutoFlowGuide(model, "planar*2 + diag", init_loc_fn=start()).setup(DATA)
    planar, affine, *_ = guide.flow
    planar.requires_grad_(False)
    before = snapshot(planar), snapshot(affine)
    train(model, guide, DATA, steps=3)
    assert not any(moved(planar, before[0]))
    assert all(moved(affine, before[1]))


def test_above_500_dimensions_a_guide_starts_from_independent_numbers():
    middle = torch.linspace(-3.0, 3.0, 600)

    def many():
        pyro.sample("x", dist.Normal(middle, torch.linspace(0.1, 2.0, 600)).to_event(1))

    guide = AutoFlowGuide(many, "affine_coupling*2", init_loc_fn=init_to_feasible).warm_start()
    mean, scale = (part.detach() for part in guide._loc_scale())
    # Noise of the warm start, a fiftieth, at its largest of 600; and the networks' random start.
    assert float((mean - middle).abs().max()) < 0.1
    assert float((scale / torch.linspace(0.1, 2.0, 600)).log().abs().max()) < 0.2
