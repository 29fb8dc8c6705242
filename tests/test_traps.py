"""Pyro's traps for a guide made of flows, by their numbers in the study of its users.

B15, the gradient that does not vanish at the exact posterior, is in flows/test_scores.py.
"""

import copy
import gc
import io
import weakref

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as pyro_transforms
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, JitTrace_ELBO, Predictive, Trace_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoGuideList,
    AutoNormal,
    init_to_feasible,
    init_to_value,
)
from pyro.optim import Adam
from torch import nn
from torch.distributions import constraints

from pyro_nf import AutoFlowGuide, Flow, flow_names, make_flow
from pyro_nf.flows import Planar

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*the guide uses the total gradient"),
    pytest.mark.filterwarnings("ignore:.*so that it serves badly here"),  # 101 local latents
]

ALL = " + ".join(flow_names())


def model(data):
    mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    scale = pyro.sample("scale", dist.HalfNormal(2.0))
    with pyro.plate("data", len(data)):
        pyro.sample("x", dist.Normal(mean, scale), obs=data)


DATA = torch.tensor([1.0, 2.0, 3.0, 2.5])


def train(model, guide, *args, steps=5, elbo=None, lr=0.01):
    # At a rate of 0.05, steps of one particle drive a stack of all flows to infinity.
    svi = SVI(model, guide, Adam({"lr": lr}), elbo or Trace_ELBO())
    return [svi.step(*args) for _ in range(steps)]


def snapshot(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def moved(module, before):
    """Whether each parameter that is not empty has changed."""
    parameters = module.named_parameters()
    return [not torch.equal(value, before[key]) for key, value in parameters if value.numel()]


def trains(guide, *args, model=model):
    guide(*args)
    before = snapshot(guide)
    train(model, guide, *args)
    return all(moved(guide, before))


def draw(guide, *args):
    torch.manual_seed(0)
    return guide(*args)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# ------------------------------------------------------------ B1: names in the parameter store


def test_b1_second_guide_trains():
    for _ in range(3):  # as a notebook cell that runs again
        assert trains(AutoFlowGuide(model, "planar*2"), DATA)


def test_b1_guide_in_a_second_list_trains():
    lists = []
    for _ in range(2):
        guide = AutoGuideList(model)
        guide.append(AutoFlowGuide(poutine.block(model, hide=["scale"]), "planar*2"))
        guide.append(AutoDelta(poutine.block(model, expose=["scale"])))
        assert trains(guide, DATA)
        lists.append(guide)
    assert not same(snapshot(lists[0][0]), snapshot(lists[1][0]))
    before = draw(lists[0], DATA)["mean"]
    train(model, lists[1], DATA)
    assert torch.equal(draw(lists[0], DATA)["mean"], before)


def test_b1_second_guide_of_one_name_goes_on_from_the_first():
    one = AutoFlowGuide(model, "planar*2", name="posterior")
    train(model, one, DATA)
    two = AutoFlowGuide(model, "planar*2", name="posterior")
    two(DATA)
    assert same(snapshot(two), snapshot(one))
    assert trains(two, DATA)
    assert not same(snapshot(two), snapshot(one))
    assert same(draw(one, DATA), draw(two, DATA))  # what the store has, as with Pyro's guides
    assert trains(one, DATA)


def test_b1_copy_of_a_named_guide_is_a_guide_of_its_own():
    guide = AutoFlowGuide(model, "planar*2", name="posterior")
    train(model, guide, DATA)
    kept = copy.deepcopy(guide)
    before = draw(kept, DATA)
    train(model, guide, DATA)
    assert same(draw(kept, DATA), before)
    assert trains(kept, DATA)


def test_b1_store_that_is_cleared_or_loaded(tmp_path):
    guide = AutoFlowGuide(model, "planar*2")
    train(model, guide, DATA)
    saved = snapshot(guide)
    pyro.get_param_store().save(tmp_path / "store")
    train(model, guide, DATA)
    pyro.get_param_store().load(tmp_path / "store")
    guide(DATA)
    assert same(snapshot(guide), saved)
    assert trains(guide, DATA)
    pyro.clear_param_store()
    assert trains(guide, DATA)

    pyro.clear_param_store()
    pyro.get_param_store().load(tmp_path / "store")
    fresh = AutoFlowGuide(model, "planar*2", name=guide._pyro_name)  # as in another process
    fresh(DATA)
    assert same(snapshot(fresh), saved)


# ------------------------------------------------------------ B2: a parameter listed twice


@pytest.mark.filterwarnings("ignore:`torch.jit")  # Pyro's own; what it is depends on torch
def test_b2_no_prototype_tensor_and_jit_works():
    guide = AutoFlowGuide(model, ALL)
    train(model, guide, DATA, elbo=JitTrace_ELBO(ignore_jit_warnings=True), steps=3)
    names = [*guide.state_dict(), *pyro.get_param_store()]
    assert not [name for name in names if "prototype" in name]
    tensors = list(guide.parameters())
    assert len({id(tensor) for tensor in tensors}) == len(tensors) == len(pyro.get_param_store())


# ------------------------------------------------------------ B3: pickle and copy


def test_b3_saving_leaves_the_guide_as_it_is():
    guide = AutoFlowGuide(model, ALL).setup(DATA)
    live, name = guide.model, guide._pyro_name
    buffer = io.BytesIO()
    torch.save(guide, buffer)
    assert guide.model is live
    assert guide._pyro_name == name
    assert trains(guide, DATA, model=guide.model)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    with pytest.raises(RuntimeError, match=r"a model is not pickled.*load_state_dict"):
        _ = loaded.model
    fresh = AutoFlowGuide(model, ALL).setup(DATA)  # what the sentence says
    fresh.load_state_dict(loaded.state_dict())
    assert same(draw(fresh, DATA), draw(loaded, DATA))


def test_b3_saving_a_part_of_a_list_keeps_it_in_the_list():
    guides = AutoGuideList(model)
    guides.append(AutoFlowGuide(poutine.block(model, hide=["scale"]), "planar"))
    guides.append(AutoNormal(poutine.block(model, expose=["scale"])))
    guides(DATA)
    torch.save(guides[0], io.BytesIO())
    assert guides[0].master() is guides
    assert set(guides(DATA)) == {"mean", "scale"}


@pytest.mark.parametrize("flow", [ALL, pyro_transforms.planar, pyro_transforms.spline_coupling])
def test_b3_deepcopy_after_training(flow):
    guide = AutoFlowGuide(model, flow)
    train(model, guide, DATA)
    twin = copy.deepcopy(guide)
    assert same(draw(twin, DATA), draw(guide, DATA))
    assert trains(twin, DATA, model=twin.model)


def test_b3_lambda_as_flow_is_pickled_and_state_dict_needs_no_call():
    guide = AutoFlowGuide(model, lambda dim: Planar(dim)).setup(DATA)
    torch.save(guide, io.BytesIO())
    other = AutoFlowGuide(model, "planar").setup(DATA)
    other.load_state_dict(guide.state_dict())
    assert same(snapshot(other), snapshot(guide))


# ------------------------------------------------------------ B4: start, location and scale


def test_b4_far_prior_is_no_trouble():
    def far():
        mean = pyro.sample("mean", dist.Normal(100.0, 1.0))
        pyro.sample("x", dist.Normal(mean, 1.0), obs=torch.tensor(101.0))

    guide = AutoFlowGuide(far, "planar*16")
    first = train(far, guide, steps=1)[0]
    assert first < 20  # 50,391 with Pyro's AutoNormalizingFlow, 12.9 with its AutoDiagonalNormal
    start = init_to_value(values={"mean": torch.tensor(101.5)})
    guide = AutoFlowGuide(far, "planar*16", init_loc_fn=start, init_scale=1e-3)
    # Sixteen layers may add 0.01 standard deviations each.
    assert guide.median()["mean"] == pytest.approx(101.5, abs=1e-3)


# ------------------------------------------------------------ B5: subsampling


def subsampled(data, size=None, rows=None, latent=False):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(data), subsample_size=size, subsample=rows) as index:
        level = pyro.sample("level", dist.Normal(mean, 1.0)) if latent else mean
        pyro.sample("x", dist.Normal(level, 1.0), obs=data[index])


def test_b5_local_latent_in_a_subsampled_plate_is_refused():
    data = torch.randn(100)
    guide = AutoFlowGuide(subsampled)
    with pytest.raises(ValueError, match=r"'level' is local to the plate 'data'.*10 of 100 rows"):
        guide(data, 10, latent=True)
    rows = torch.arange(20)
    with pytest.raises(ValueError, match=r"'level' is local to the plate 'data'.*20 of 100 rows"):
        guide(data, None, rows, latent=True)
    assert guide(data, latent=True)["level"].shape == (100,)  # the whole plate


def test_b5_explicit_rows_of_an_observed_plate_are_kept():
    data = torch.randn(100)
    guide = AutoFlowGuide(subsampled).setup(data, 10)
    for rows in (torch.tensor([5, 50, 95]), torch.arange(40)):
        args = (data, None, rows)
        trace = poutine.trace(guide).get_trace(*args)
        run = poutine.trace(poutine.replay(subsampled, trace)).get_trace(*args)
        assert torch.equal(run.nodes["data"]["value"], rows)
        assert torch.equal(run.nodes["x"]["value"], data[rows])
        train(subsampled, guide, *args, steps=2)


# ------------------------------------------------------------ B6: point estimates


@pytest.mark.parametrize("flow", [*flow_names(), pyro_transforms.spline_coupling])
def test_b6_median_and_quantiles_exist(flow):
    guide = AutoFlowGuide(model, flow)
    median = guide.median(DATA)  # before any call
    low, high = guide.quantiles([0.1, 0.9], DATA)["scale"]
    assert low < median["scale"] < high


# ------------------------------------------------------------ B7: coordinates left untouched


@pytest.mark.parametrize("dim", [2, 3, 6])
def test_b7_a_stack_of_couplings_moves_every_coordinate(dim):
    def prior():
        pyro.sample("z", dist.Normal(0.0, 1.0).expand([dim]).to_event(1))

    guide = AutoFlowGuide(prior, "nice*2").setup()
    couplings = list(guide.flow)[:2]
    x = torch.randn(100, dim)
    y = x
    for coupling in couplings:
        y = coupling(y)
    assert ((y - x).abs().max(0).values > 1e-4).all()


def test_b7_one_layer_reaches_any_scale():
    def narrow():
        pyro.sample("z", dist.Normal(0.0, 1e-5).expand([2]).to_event(1))

    # Pyro's autoregressive and coupling layers end at exp(-5), which is 0.0067.
    guide = AutoFlowGuide(narrow, "planar", init_loc_fn=init_to_feasible, init_scale=1e-5)
    elbo = Trace_ELBO(1000, vectorize_particles=True, max_plate_nesting=0)
    # The evidence is 1; a planar layer of 0.01 costs little, and a scale off by 2 would cost 1.6.
    assert abs(elbo.loss(narrow, guide)) < 0.1


# ------------------------------------------------------------ B8: event dimensions


class PerVector(dist.TransformModule):
    """One log-determinant a vector, but declared elementwise."""

    domain = constraints.real
    codomain = constraints.real
    bijective = True

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def _call(self, x):
        return 2 * x + self.shift

    def _inverse(self, y):
        return (y - self.shift) / 2

    def log_abs_det_jacobian(self, x, y):
        return 0.6931 * x.size(-1) + 0 * x.sum(-1)


class NoDomain(dist.TransformModule):
    """Nothing declared."""

    bijective = True

    def _call(self, x):
        return x


@pytest.mark.parametrize("spec", [PerVector(), [PerVector()], ["planar", lambda dim: PerVector()]])
def test_b8_wrong_event_dim_is_refused(spec):
    with pytest.raises(ValueError, match=r"PerVector declares event_dim=0.*real_vector"):
        AutoFlowGuide(model, spec).setup(DATA)


def test_b8_missing_domain_is_refused():
    with pytest.raises((AttributeError, ValueError), match=r"domain"):
        AutoFlowGuide(model, NoDomain()).setup(DATA)


# ------------------------------------------------------------ B9: dtype


@pytest.mark.parametrize("flow", flow_names())
@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_b9_dtype_is_that_of_the_latents(flow, default):
    other = torch.float64 if default is torch.float32 else torch.float32

    def typed():
        place = torch.zeros(3, dtype=other)
        z = pyro.sample("z", dist.Normal(place, 1 + place).to_event(1))
        pyro.sample("x", dist.Normal(z, 1 + place).to_event(1), obs=place)

    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        guide = AutoFlowGuide(typed, flow)
        train(typed, guide, steps=2)
        assert torch.get_default_dtype() == default
    finally:
        torch.set_default_dtype(before)
    assert guide()["z"].dtype == other
    assert guide.median()["z"].dtype == other
    assert {value.dtype for value in guide.parameters()} == {other}
    wide = guide.double()
    assert wide()["z"].dtype == torch.float64


# ------------------------------------------------------------ B10: scoring an older sample


@pytest.mark.parametrize("flow", [*flow_names(), ALL])
def test_b10_older_samples_and_copies_are_scored(flow):
    posterior = AutoFlowGuide(model, flow, init_scale=1.0).setup(DATA).get_posterior()
    older = posterior.rsample((5,))
    expected = posterior.log_prob(older)
    posterior.rsample((5,))
    for value in (older, older.clone(), older.detach(), older[:2]):
        # Float32, through the inverse of up to eight layers.
        found = posterior.log_prob(value)
        assert torch.allclose(found, expected[: len(value)], atol=1e-3)


# ------------------------------------------------------------ B11: caches


@pytest.mark.parametrize(
    "flow", [ALL, pyro_transforms.spline_coupling, pyro_transforms.affine_autoregressive]
)
def test_b11_nothing_goes_stale_after_an_optimizer_step(flow):
    factory = flow if isinstance(flow, str) else (lambda dim: quiet(flow, dim))
    guide = AutoFlowGuide(model, factory, init_scale=1.0)
    noise = torch.randn(7, 2)
    guide(DATA)
    old = guide.flow(noise)
    value = old.detach()
    score = guide.get_posterior().log_prob(value)
    train(model, guide, DATA)
    new = guide.flow(noise)
    assert not torch.equal(new, old)
    assert not torch.equal(guide.get_posterior().log_prob(value), score)
    copied = guide.flow.forward_and_log_det(noise.clone())
    assert torch.equal(new, copied[0])
    assert torch.equal(guide.flow.log_abs_det_jacobian(noise, new), copied[1])
    for _ in range(2):  # the same noise twice: no graph is used up
        guide.flow(noise).sum().backward()


def quiet(flow, dim):
    if flow is pyro_transforms.affine_autoregressive:
        return flow(dim, [8, 8])
    return flow(dim)


@pytest.mark.parametrize("flow", [ALL, pyro_transforms.spline_coupling, pyro_transforms.planar])
def test_b11_no_graph_stays_alive(flow):
    guide = AutoFlowGuide(model, flow).setup(DATA)
    latents = []

    def step():
        trace = poutine.trace(guide).get_trace(DATA)
        latent = next(site["value"] for _, site in trace.iter_stochastic_nodes())
        latents.append(weakref.ref(latent))
        trace.log_prob_sum().backward()

    step()
    gc.collect()
    assert latents[0]() is None
    for module in guide.modules():
        for name, value in vars(module).items():
            assert not (isinstance(value, torch.Tensor) and value.grad_fn is not None), name


# ------------------------------------------------------------ B12: inverse and composition


def test_b12_inverses_and_compositions_are_modules():
    flow = make_flow(ALL, 3)
    assert len(list(flow.inv.parameters())) == len(list(flow.parameters())) > 0
    assert flow.inv.inv is flow
    assert flow.with_cache() is flow
    x = torch.randn(5, 3)
    assert torch.allclose(flow.inv(flow(x)), x, atol=1e-4)

    inner = [Planar(2), pyro_transforms.spline(2), pyro_transforms.planar(2)]
    parts = [inner[0].inv, inner[1].inv, pyro_transforms.AffineTransform(0.0, 2.0), inner[2]]
    guide = AutoFlowGuide(model, pyro_transforms.ComposeTransform(parts)).setup(DATA)
    listed = {id(value) for value in guide.parameters()}
    assert all(id(value) in listed for part in inner for value in part.parameters())
    assert trains(guide, DATA)


def test_b12_an_inverse_trains():
    guide = AutoFlowGuide(model, [Planar(2).inv, make_flow("radial", 2).inv])
    assert trains(guide, DATA)


# ------------------------------------------------------------ B13: numerics


@pytest.mark.parametrize("value", [0.0, 1e-30, -50.0, 50.0, 1e4])
@pytest.mark.parametrize("flow", ["planar*2", "radial*2", "householder"])
def test_b13_extreme_parameters_give_no_nan(flow, value):
    guide = AutoFlowGuide(model, flow).setup(DATA)
    for layer in list(guide.flow)[:-3]:  # all but location and scale, and the coordinates
        with torch.no_grad():
            layer.params.theta.fill_(value)
    trace = poutine.trace(guide).get_trace(DATA)
    total = trace.log_prob_sum()
    assert total.isfinite()
    total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in guide.parameters())


def test_b13_planar_starts_at_the_identity():
    guide = AutoFlowGuide(model, "planar*16", init_scale=1.0).setup(DATA)
    x = torch.randn(1000, 2)
    y = x
    for layer in guide.flow:
        if isinstance(layer, Planar):
            y, log_det = layer.forward_and_log_det(y)
            # At most sixteen steps of u, which is 0.01 in size.
            assert log_det.abs().max() < 0.2
    assert 0 < (y - x).norm(dim=-1).max() < 0.2


# ------------------------------------------------------------ B14: one dimension


@pytest.mark.parametrize("flow", [*flow_names(), ALL])
def test_b14_one_dimension_without_a_warning(flow):
    def one():
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        pyro.sample("x", dist.Poisson(rate), obs=torch.tensor(3.0))

    guide = AutoFlowGuide(one, flow)
    losses = train(one, guide, steps=10)
    assert torch.tensor(losses).isfinite().all()
    assert guide.latent_dim == 1
    trace = poutine.trace(guide).get_trace()
    again = poutine.trace(poutine.replay(guide, trace)).get_trace()
    assert torch.allclose(again.log_prob_sum(), trace.log_prob_sum(), atol=1e-3)
    assert guide.median()["rate"] > 0


# ------------------------------------------------------------ B16: structure


def test_b16_sequential_plate_with_latents_is_refused_and_without_is_fine():
    def sequential(latent):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        for i in pyro.plate("rows", 3):
            level = pyro.sample(f"level_{i}", dist.Normal(mean, 1.0)) if latent else mean
            pyro.sample(f"x_{i}", dist.Normal(level, 1.0), obs=torch.tensor(1.0))

    with pytest.raises(ValueError, match=r"'level_0' is inside the sequential plate 'rows'"):
        AutoFlowGuide(sequential)(True)
    guide = AutoFlowGuide(sequential)
    assert trains(guide, False, model=sequential)


class Transposed(Flow):
    """The identity, by a way whose result does not lie in memory as a vector of numbers does."""

    def forward_and_log_det(self, x, context=None):
        return torch.stack(x.unbind(-1), 0).movedim(0, -1), torch.zeros_like(x[..., 0])

    inverse_and_log_det = forward_and_log_det


def test_b16_flow_whose_result_is_not_contiguous():
    def grouped():
        pyro.sample("shares", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("columns", 2, dim=-1), pyro.plate("rows", 3, dim=-2):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    guide = AutoFlowGuide(grouped, Transposed).setup()
    assert not guide.flow(torch.randn(4, 1, 1, 8)).is_contiguous()
    assert guide.get_posterior().rsample((4, 1, 1)).is_contiguous()
    for options in ({}, {"vectorize_particles": True, "max_plate_nesting": 2}):
        loss = Trace_ELBO(4, **options).loss(grouped, guide)
        assert torch.tensor(loss).isfinite()
    trace = poutine.trace(guide).get_trace()
    assert torch.allclose(
        poutine.trace(poutine.replay(guide, trace)).get_trace().log_prob_sum(),
        trace.log_prob_sum(),
        atol=1e-4,
    )


# ------------------------------------------------------------ B17: lists of guides


def test_b17_guide_list():
    guide = AutoGuideList(model)
    guide.append(AutoFlowGuide(poutine.block(model, hide=["scale"]), ALL))
    guide.append(AutoFlowGuide(poutine.block(model, expose=["scale"]), "planar*2"))
    elbo = Trace_ELBO(3, vectorize_particles=True, max_plate_nesting=1)
    assert torch.tensor(train(model, guide, DATA, elbo=elbo)).isfinite().all()
    assert set(guide.median(DATA)) == {"mean", "scale"}
    assert guide.quantiles([0.1, 0.9], DATA)["mean"].shape == (2,)
    draws = Predictive(model, guide=guide, num_samples=3)(DATA)
    assert draws["scale"].shape[0] == 3
