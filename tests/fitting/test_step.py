"""The compiled step: equal to the eager one, in every tier, or refused with a reason."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn

from pyro_nf import AutoFlowGuide, fit
from pyro_nf.examples import EIGHT_SCHOOLS, eight_schools
from pyro_nf.fitting.step import Step

DATA = EIGHT_SCHOOLS.data


def particles(count=8):
    return Trace_ELBO(count, vectorize_particles=True, max_plate_nesting=1)


def run(step, count=20, seed=1):
    """The losses of some steps from a seed, and the parameters after them."""
    pyro.set_rng_seed(seed)
    losses = torch.stack([step(1e-2) for _ in range(count)])
    return losses, step.parameters()


def both(model, make_guide, data, elbo, tier, seed=0):
    """The runs of two equal steps, one eager and one of a tier, each with a store of its own."""
    runs = []
    for wanted in ("eager", tier):
        pyro.clear_param_store()
        pyro.set_rng_seed(seed)
        step = Step(elbo, model, make_guide(model), data)
        assert step.compile(wanted), step.reason
        runs.append(run(step))
    return runs


def assert_same(runs):
    (losses, after), (same_losses, same_after) = runs
    # float32: the order of sums differs between the engines, and 20 steps of Adam amplify it
    torch.testing.assert_close(same_losses, losses, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(same_after, after, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("spec", "tier"),
    [
        ("planar*2", "quick"),
        ("planar*2", "full"),
        ("radial + nice*2 + tril", "quick"),
        ("radial + nice*2 + tril", "full"),
        ("spline_coupling*2 + iaf*2 + sylvester*2", "quick"),  # "full" would take a minute
    ],
)
def test_a_compiled_step_is_the_eager_step(spec, tier):
    assert_same(both(eight_schools, lambda m: AutoFlowGuide(m, spec), DATA, particles(), tier))


@pytest.mark.parametrize(
    "make_guide", [AutoNormal, AutoMultivariateNormal], ids=lambda cls: cls.__name__
)
@pytest.mark.parametrize(
    "elbo",
    [Trace_ELBO(2), TraceMeanField_ELBO(), TraceGraph_ELBO(2)],
    ids=lambda e: type(e).__name__,
)
def test_pyros_guides_and_elbos_compile(make_guide, elbo):
    assert_same(both(eight_schools, make_guide, DATA, elbo, "quick"))


def test_an_enumerated_model_compiles():
    data = torch.tensor([-2.0, -1.9, 2.1, 2.0])

    @config_enumerate
    def model(data):
        loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 3.0).to_event(1))
        with pyro.plate("rows", len(data)):
            z = pyro.sample("z", dist.Categorical(torch.ones(2)))
            pyro.sample("x", dist.Normal(loc[..., z], 1.0), obs=data)

    runs = both(
        model,
        lambda m: AutoFlowGuide(poutine.block(m, hide=["z"]), "planar"),
        (data,),
        TraceEnum_ELBO(max_plate_nesting=1),
        "quick",
    )
    assert_same(runs)


def test_an_elbo_without_traces_runs_eagerly_and_says_why():
    step = Step(RenyiELBO(num_particles=2), eight_schools, AutoNormal(eight_schools), DATA)
    assert not step.compile("quick")
    assert step.reason
    before = step.parameters()
    assert bool(step(1e-2).isfinite())
    assert not torch.equal(step.parameters(), before)


def test_adam_is_torchs_adam():
    steps = [Step(particles(), eight_schools, AutoNormal(eight_schools), DATA) for _ in range(2)]
    ours, theirs = steps
    # Guides of one class share their entries in the store, so take the values aside.
    start = ours.parameters()
    pyro.set_rng_seed(3)
    gradients = []
    for _ in range(5):
        loss, gradient = ours.gradient()
        gradients.append(gradient.clone())  # its memory is used up by the update
        ours.adam.lr.fill_(0.05)
        ours.adam.update(loss, gradient)
    parameter = nn.Parameter(start.clone())
    adam = torch.optim.Adam([parameter], lr=0.05)
    for gradient in gradients:
        parameter.grad = gradient
        adam.step()
    torch.testing.assert_close(theirs.parameters(), parameter.detach())


def test_a_step_that_is_not_finite_changes_nothing():
    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(loc, 1.0, validate_args=False), obs=x)

    x = torch.tensor(1.0)
    step = Step(Trace_ELBO(), model, AutoNormal(model), (x,))
    assert step.compile("quick"), step.reason
    step(1e-2)
    before, state = step.parameters(), step.adam.state()
    x.fill_(torch.nan)
    assert bool(step(1e-2).isnan())
    assert torch.equal(step.parameters(), before)
    assert all(map(torch.equal, step.adam.state(), state))


@pytest.mark.parametrize("tier", ["eager", "quick"])
def test_a_step_in_which_the_numerics_fail_changes_nothing_and_says_why(tier):
    def model(x):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 0.1))
        covariance = scale[..., None, None] * torch.stack([x, x.flip(0)])
        y = dist.MultivariateNormal(torch.zeros(2), covariance_matrix=covariance)
        pyro.sample("y", y, obs=torch.tensor([0.5, -0.2]))

    x = torch.tensor([1.0, 0.5])
    with pyro.validation_enabled(False):
        step = Step(Trace_ELBO(), model, AutoNormal(model), (x,))
        assert step.compile(tier), step.reason
        assert bool(step(1e-2).isfinite())
        assert step.failure is None
        before, state = step.parameters(), step.adam.state()
        x.copy_(torch.tensor([1.0, 2.0]))  # of no Cholesky factor
        assert bool(step(1e-2).isnan())
    # What is recorded does not raise.
    assert isinstance(step.failure, RuntimeError if tier == "eager" else type(None))
    assert torch.equal(step.parameters(), before)
    assert all(map(torch.equal, step.adam.state(), state))


def test_silent_parameters_have_no_gradient():
    def model():
        unused = pyro.param("unused", torch.tensor(1.0))
        pyro.sample("x", dist.Normal(unused.detach(), 1.0))
        if fails:
            raise ValueError("out of reach")

    fails = []
    step = Step(Trace_ELBO(), model, AutoNormal(model))
    before = torch.get_rng_state()
    assert step.silent() == ["unused"]
    fails.append(True)
    assert step.silent() == []
    assert torch.equal(torch.get_rng_state(), before)


def test_data_are_inputs_of_the_traced_step():
    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    step = Step(particles(), model, AutoNormal(model), (torch.zeros(4),))
    assert step.compile("quick"), step.reason
    low = float(step(0.0))
    step.feed((torch.full((4,), 10.0),))
    assert step.tier == "quick"
    assert float(step(0.0)) > low + 100  # four residuals of 10 cost 200 nats
    step.feed((torch.zeros(5),))
    assert step.tier == "eager"  # another shape is another graph
    assert bool(step(0.0).isfinite())


def test_parameters_of_the_model_learn_and_stay_in_the_store():
    class Net(PyroModule):
        def __init__(self):
            super().__init__()
            self.scale = PyroParam(torch.tensor(2.0), constraint=dist.constraints.positive)
            self.linear = nn.Linear(1, 1)

        def forward(self, x, y):
            shift = pyro.param("shift", torch.tensor(0.5))
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("rows", len(x)):
                mean = self.linear(x).squeeze(-1) + shift + z
                pyro.sample("y", dist.Normal(mean, self.scale), obs=y)

    model, x = Net(), torch.randn(20, 1)
    y = 3 * x.squeeze(-1) + 0.1 * torch.randn(20)
    weight = model.linear.weight
    step = Step(Trace_ELBO(), model, AutoFlowGuide(model, "diag"), (x, y))
    assert step.compile("quick"), step.reason
    for _ in range(600):
        step(0.05)
    assert model.linear.weight is weight
    assert abs(weight.item() - 3) < 0.3
    assert model.scale.item() < 1
    assert pyro.param("shift").item() != 0.5


class TestRefusals:
    """What tracing would get wrong runs eagerly, and the reason says so."""

    def check(self, model, *data, elbo=None):
        step = Step(elbo or Trace_ELBO(), model, AutoNormal(model), data)
        assert not step.compile("quick")
        assert step.reason
        assert step.tier == "eager"
        assert bool(step(1e-2).isfinite())

    def test_control_flow_on_a_latent(self):
        def model():
            x = pyro.sample("x", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(x if x > 0 else -x, 1.0), obs=torch.tensor(1.0))

        self.check(model)

    def test_a_latent_taken_to_numpy(self):
        def model():
            x = pyro.sample("x", dist.Normal(0.0, 1.0))
            y = torch.tensor(np.sin(x.detach().numpy()))
            pyro.sample("y", dist.Normal(x + y, 1.0), obs=torch.tensor(1.0))

        self.check(model)

    def test_random_numbers_of_numpy(self):
        def model():
            x = pyro.sample("x", dist.Normal(0.0, 1.0))
            noise = float(np.random.randn())  # noqa: NPY002  # the kind that pyro seeds
            pyro.sample("y", dist.Normal(x, 1.0), obs=torch.tensor(noise))

        self.check(model)

    def test_a_buffer_that_changes(self):
        norm = nn.BatchNorm1d(1)

        def model(x):
            pyro.module("norm", norm)
            loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
            with pyro.plate("rows", len(x)):
                pyro.sample("x", dist.Normal(loc, 1.0), obs=norm(x).squeeze(-1))

        self.check(model, torch.randn(6, 1))


def by_label(label, y):
    """Control flow on data alone."""
    a, b = (pyro.sample(name, dist.Normal(0.0, 1.0)) for name in "ab")
    for i in range(len(label)):
        pyro.sample(f"y_{i}", dist.Normal(a if label[i] == 0 else b, 1.0), obs=y[i])


def ordered(x, y):
    """OrderedLogistic writes its probabilities into zeros."""
    slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
    ordered = dist.transforms.OrderedTransform()
    normal = dist.Normal(torch.zeros(2), 2.0).to_event(1)
    cuts = pyro.sample("cuts", dist.TransformedDistribution(normal, ordered))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.OrderedLogistic(slope * x, cuts), obs=y)


def correlated(y):
    factor = pyro.sample("factor", dist.LKJCholesky(3, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.MultivariateNormal(torch.zeros(3), scale_tril=factor), obs=y)


LABEL, THREE = torch.tensor([0, 1, 1, 0]), torch.tensor([0, 2, 1, 0])
TRACED = [
    (by_label, (LABEL, torch.randn(4))),
    (ordered, (torch.randn(4), THREE)),
    (correlated, (torch.randn(4, 3),)),
]


@pytest.mark.parametrize(("model", "data"), TRACED)
def test_what_needs_no_eager_step_has_none(model, data):
    """Each of them was one: their steps are compared with eager ones as they are compiled."""
    posterior = fit(model, *data, steps=50, compile="quick", seed=0, progress=False, refine=False)
    assert "50 steps (quick)" in posterior.message


def test_a_step_that_depends_on_values_of_the_data_is_eager_for_others():
    y = torch.randn(4)
    step = Step(particles(), by_label, AutoFlowGuide(by_label, "planar"), (LABEL, y))
    assert step.compile("quick"), step.reason
    step.feed((LABEL, y))
    assert step.tier == "quick"
    step.feed((1 - LABEL, y))
    assert step.tier == "eager"
    streamed = AutoFlowGuide(by_label, "planar")
    step = Step(particles(), by_label, streamed, (LABEL, y), streams=True)
    assert not step.compile("quick")
    assert "takes a value out of a tensor" in step.reason


def test_compiling_leaves_the_process_as_it_was():
    step = Step(particles(), eight_schools, AutoFlowGuide(eight_schools, "planar"), DATA)
    before = torch.get_num_threads(), torch.get_default_dtype(), torch.get_rng_state()
    parameters = step.parameters()
    validation = torch.distributions.Distribution._validate_args
    assert step.compile("quick"), step.reason
    assert step.compile("full"), step.reason
    assert (torch.get_num_threads(), torch.get_default_dtype()) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert torch.distributions.Distribution._validate_args == validation
    assert torch.equal(step.parameters(), parameters)


def test_a_bayesian_network_compiles():
    class Net(PyroModule):
        def __init__(self):
            super().__init__()
            self.linear = PyroModule[nn.Linear](2, 1)
            self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
            self.linear.bias = PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))

        def forward(self, x, y):
            mean = self.linear(x).squeeze(-1)
            with pyro.plate("rows", len(x)):
                pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    runs = both(
        Net(),
        lambda m: AutoFlowGuide(m, "planar"),
        (torch.randn(5, 2), torch.randn(5)),
        Trace_ELBO(),
        "quick",
    )
    assert_same(runs)


def test_no_parameters_is_an_error():
    def nothing():
        pyro.sample("x", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="neither the model nor the guide has a parameter"):
        Step(Trace_ELBO(), nothing, nothing)
