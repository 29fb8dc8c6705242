"""What a user may get wrong with AutoFlowGuide, and the sentence that says what to type."""

import math

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as pyro_transforms
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import init_to_value
from pyro.infer.reparam import NeuTraReparam
from pyro.optim import Adam
from torch import nn
from torch.distributions import constraints

from pyro_nf import AutoFlowGuide
from pyro_nf.flows import Planar, Tril


def model():
    mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    pyro.sample("x", dist.Normal(mean, scale), obs=torch.tensor(2.0))


def no_latents():
    with pyro.plate("data", 3):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.ones(3))


def nothing():
    pass


def empty_latents():
    pyro.sample("z", dist.Normal(0.0, 1.0).expand([0]).to_event(1))


def discrete():
    weight = pyro.sample("weight", dist.Beta(1.0, 1.0))
    pyro.sample("coin", dist.Bernoulli(weight))


def only_discrete():
    pyro.sample("coin", dist.Categorical(torch.ones(3)))


def sequential():
    for i in pyro.plate("schools", 3):
        pyro.sample(f"school_{i}", dist.Normal(0.0, 1.0))


def local():
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 100, subsample_size=10):
        pyro.sample("z", dist.Normal(mean, 1.0))


def there_for_some_values():
    switch = pyro.sample("switch", dist.Normal(-1e-4, 1e-6))
    if switch < 0:
        pyro.sample("below", dist.Normal(0.0, 1.0))


def sphere():
    pyro.sample("direction", dist.ProjectedNormal(torch.ones(3)))


def no_bijection():
    parts = dist.Categorical(torch.ones(2))
    pyro.sample("z", dist.MixtureSameFamily(parts, dist.Normal(torch.zeros(2), 1.0)))


def point_mass():
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    pyro.sample("twice", dist.Delta(2 * mean))


class PerVector(dist.TransformModule):
    """Declares itself elementwise and returns one log-determinant a vector."""

    domain = constraints.real
    codomain = constraints.real
    bijective = True

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def _call(self, x):
        return x * self.log_scale.exp()

    def _inverse(self, y):
        return y / self.log_scale.exp()

    def log_abs_det_jacobian(self, x, y):
        return self.log_scale * x.size(-1) + 0 * x.sum(-1)


class PerElement(PerVector):
    """Declares itself a map of vectors and returns one log-determinant an element."""

    domain = constraints.real_vector
    codomain = constraints.real_vector

    def log_abs_det_jacobian(self, x, y):
        return self.log_scale.expand(x.shape)


def start_of_another_shape():
    return init_to_value(values={"mean": torch.zeros(3)})


# What to make a guide of, the exception, and a part of its message.
MODELS = {
    "not callable": (3, TypeError, "a Pyro model, a callable, got 3"),
    "none": (None, TypeError, "a Pyro model, a callable, got None"),
    "no latents": (no_latents, ValueError, "no latent variable.* an empty guide"),
    "nothing": (nothing, ValueError, "no latent variable.* an empty guide"),
    "empty latents": (empty_latents, ValueError, "no latent variable.* an empty guide"),
    "discrete": (discrete, ValueError, r"'coin' is discrete.*hide=\[\"coin\"\].*TraceEnum_ELBO"),
    "only discrete": (only_discrete, ValueError, r"'coin' is discrete.*hide=\[\"coin\"\]"),
    "sequential": (
        sequential,
        ValueError,
        r"'school_0' is inside the sequential plate 'schools'.*with pyro.plate\(...\)",
    ),
    "local": (
        local,
        ValueError,
        "'z' is local to the plate 'data', of which 10 of 100 rows.*AmortizedFlowGuide",
    ),
    "support": (
        there_for_some_values,
        ValueError,
        "support of the latent site 'below'.*depends on another latent site.*deterministic",
    ),
    "sphere": (sphere, ValueError, "'direction'.*ProjectedNormalReparam"),
    "no bijection": (
        no_bijection,
        ValueError,
        r"support of the latent site 'z'.*no bijection.*hide=\[\"z\"\]",
    ),
    "point mass": (point_mass, ValueError, r"'twice' is a point mass.*pyro.deterministic"),
    "raises": (lambda data: None, TypeError, "missing 1 required positional argument: 'data'"),
}

FLOWS = {
    "unknown": ("planr*8", ValueError, "unknown flow 'planr'.*did you mean 'planar'"),
    "far from all": ("zzz", ValueError, "unknown flow 'zzz'.*flows are .*planar"),
    "unfinished": ("planar*", ValueError, "cannot read the flow formula 'planar[*]'"),
    "empty": ("", ValueError, "cannot read the flow formula ''"),
    "a call": ("__import__('os')", ValueError, "cannot read the flow formula|unknown flow"),
    "no times": ("planar*0", ValueError, "cannot read the flow formula 'planar[*]0'"),
    "option": ("planar(hidden=3)", ValueError, "no option 'hidden'"),
    "number": (3, TypeError, "expected a formula.*got 3"),
    "empty list": ([], ValueError, "at least one flow, got an empty list"),
    "dimension": (Planar(5), ValueError, "dim=5, but the dimension here is 2"),
    "dimension in a list": (["planar", Tril(3)], ValueError, "dim=3, but the dimension here is 2"),
    "dimension of a factory": (
        lambda dim: Planar(dim + 1),
        ValueError,
        "dim=3, but the dimension here is 2",
    ),
    "no transform": (lambda dim: dim, TypeError, "dim=2 and gave 2, no transform"),
    "event_dim 0": (PerVector(), ValueError, "event_dim=0.*log-determinant of shape"),
    "event_dim 1": (PerElement(), ValueError, "event_dim=1.*log-determinant of shape"),
    "event_dim 2": (
        pyro_transforms.CholeskyTransform(),
        ValueError,
        "events of 2 dimensions",
    ),
    "no bijection": (pyro_transforms.AbsTransform(), ValueError, "AbsTransform is not bijective"),
}

OPTIONS = {
    **{
        f"init_scale {value!r}": (
            {"init_scale": value},
            ValueError,
            "init_scale must be a positive",
        )
        for value in (0, 0.0, -1, math.inf, math.nan, "a", None, 1j, torch.tensor(0.1))
    },
    **{
        f"name {value!r}": ({"name": value}, ValueError, "name must be a non-empty string")
        for value in ("", 3, "a$$$b")
    },
    "init_loc_fn": ({"init_loc_fn": 3}, TypeError, "init_loc_fn must be a function of a site"),
    "shape": (
        {"init_loc_fn": start_of_another_shape()},
        ValueError,
        r"'mean' needs a tensor of shape \(\) to start at.*gives tensor",
    ),
    "a number": ({"init_loc_fn": lambda site: 1.0}, ValueError, "'mean' needs a tensor.*gives 1.0"),
}

CASES = (
    [pytest.param(what, {}, *rest, id=f"model-{key}") for key, (what, *rest) in MODELS.items()]
    + [
        pytest.param(model, {"flow": flow}, *rest, id=f"flow-{key}")
        for key, (flow, *rest) in FLOWS.items()
    ]
    + [
        pytest.param(model, options, *rest, id=f"option-{key}")
        for key, (options, *rest) in OPTIONS.items()
    ]
)


@pytest.mark.parametrize(("what", "options", "exception", "message"), CASES)
def test_bad_input(what, options, exception, message):
    pattern = f"(?s){message}"
    made = []

    def make_and_call():
        if not made:
            made.append(AutoFlowGuide(what, **options))
        made[0]()

    # The second call must not meet a guide that is half set up.
    for _ in range(2):
        with pytest.raises(exception, match=pattern):
            make_and_call()
    if not made:
        return
    (guide,) = made
    assert "not set up" in repr(guide)
    assert not list(guide.parameters())
    with pytest.raises(exception, match=pattern):
        guide.setup()
    with pytest.raises(exception, match=pattern):
        guide.median()
    with pytest.raises(exception, match=pattern):
        SVI(what, guide, Adam({"lr": 0.1}), Trace_ELBO()).step()
    assert not list(pyro.get_param_store())


def test_a_guide_recovers_from_a_wrong_call():
    def fussy(data):
        mean = pyro.sample("mean", dist.Normal(data.mean(), 1.0))
        pyro.sample("x", dist.Normal(mean, 1.0), obs=data.sum())

    guide = AutoFlowGuide(fussy, "planar*2")
    with pytest.raises(ValueError, match="loc"):  # NaN in the data: Pyro's own sentence
        guide(torch.tensor([math.nan]))
    with pytest.raises(TypeError, match="data"):
        guide()
    assert guide(torch.ones(3))["mean"].isfinite()


def test_nan_in_an_observed_site():
    def observed(data):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(data)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=data)

    data = torch.tensor([1.0, math.nan])
    svi = SVI(observed, AutoFlowGuide(observed), Adam({"lr": 0.1}), Trace_ELBO())
    with pytest.raises(ValueError, match="site 'x'"):
        svi.step(data)
    with pyro.validation_enabled(False), pytest.raises(ValueError, match="site 'x'"):
        svi.step(data)


@pytest.mark.parametrize("levels", [0.5, [-0.1], [1.1], [math.nan], [[0.5]]])
def test_bad_quantiles(levels):
    guide = AutoFlowGuide(model).setup()
    with pytest.raises(ValueError, match="a list of numbers between 0 and 1"):
        guide.quantiles(levels)


def test_a_guide_that_is_not_set_up():
    guide = AutoFlowGuide(model)
    for call in (guide.get_base_dist, guide.get_transform):
        with pytest.raises(RuntimeError, match=r"type guide.setup\(\*args\) first"):
            call()
    with pytest.raises(RuntimeError, match="Unexpected key"):
        guide.load_state_dict(AutoFlowGuide(model).setup().state_dict())
    assert guide.get_posterior().event_shape == (2,)


def test_neutra_on_observed_sites():
    guide = AutoFlowGuide(model).setup()
    fixed = poutine.condition(model, {"mean": torch.tensor(0.0)})
    with pytest.raises(NotImplementedError, match="does not support observe statements"):
        NeuTraReparam(guide).reparam(fixed)()


def test_a_store_that_keeps_another_guide_under_this_name():
    def wide():
        pyro.sample("z", dist.Normal(0.0, 1.0).expand([4]).to_event(1))

    AutoFlowGuide(model, "planar", name="posterior")()
    guide = AutoFlowGuide(wide, "planar", name="posterior")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"shape \(5,\).*needs \(9,\).*clear_param_store"):
            guide()
    pyro.clear_param_store()
    assert guide()["z"].shape == (4,)
