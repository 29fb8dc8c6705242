"""The path gradient: exact where the guide is, right on average, refused where it is not."""

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as pyro_transforms
import pytest
import torch
from pyro.infer import (
    JitTrace_ELBO,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
)
from pyro.infer.autoguide import init_to_value
from torch.distributions import constraints

from pyro_nf import AutoFlowGuide, Chain, FlowDistribution, fit, flow_names, make_flow
from pyro_nf.guides.layers import Whiten

DOUBLE = torch.float64
DIM = 3
CARRYING = [
    *(name for name in flow_names() if make_flow(name, DIM).carries_score),
    "planar*3 + affine_coupling*2 + radial*2 + tails + tril",
    'additive_coupling(mix="orthogonal")*2',
]


def target_of(flow):
    """A model whose posterior is the distribution that a flow makes of a standard normal."""
    base = dist.Normal(torch.zeros(DIM, dtype=DOUBLE), 1.0).to_event(1)

    def model():
        with pyro.plate_stack("batch", ()):
            u = pyro.sample("u", dist.ImproperUniform(constraints.real_vector, (), (DIM,)))
        pyro.factor("density", FlowDistribution(base, flow).log_prob(u))

    return model


def guide_of(model, flow, gradient="path"):
    start = init_to_value(values={"u": torch.zeros(DIM, dtype=DOUBLE)})
    options = {"init_loc_fn": start, "init_scale": 1.0, "gradient": gradient}
    return AutoFlowGuide(model, flow, **options).setup()


def perturbed(formula, spread=0.3):
    flow = make_flow(formula, DIM).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += spread * torch.randn_like(parameter)
    return flow


def gradients(model, guide, count, elbo=None):
    """Gradients of the loss in all parameters, with shape ``(count, P)``."""
    elbo = elbo or Trace_ELBO()
    found = []
    for _ in range(count):
        loss = elbo.differentiable_loss(model, guide)
        parts = torch.autograd.grad(loss, list(guide.parameters()), allow_unused=True)
        pairs = zip(parts, guide.parameters(), strict=True)
        found.append(
            torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])
        )
    return torch.stack(found)


@pytest.mark.parametrize("formula", CARRYING)
def test_b15_no_noise_where_the_guide_is_the_posterior(formula):
    flow = perturbed(formula)
    for parameter in flow.parameters():
        parameter.requires_grad_(False)  # it belongs to the model
    model = target_of(flow)
    guide = guide_of(model, formula)
    layers = list(flow) if isinstance(flow, Chain) else [flow]
    own = [part for part in guide.flow if not isinstance(part, Whiten)]
    for given in reversed(layers):
        while type(last := own.pop()) is not type(given):  # the guide's own location and scale
            pass
        last.load_state_dict(given.state_dict())
    assert gradients(model, guide, 20).abs().max() < 1e-10
    guide.gradient = "total"
    assert gradients(model, guide, 20).abs().max() > 1e-3


def normal_model():
    with pyro.plate_stack("batch", ()):
        scale = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.5, 0.0], [-0.3, 0.2, 1.5]], dtype=DOUBLE)
        loc = torch.tensor([0.3, -0.2, 0.5], dtype=DOUBLE)
        pyro.sample("u", dist.MultivariateNormal(loc, scale_tril=scale))


@pytest.mark.parametrize(
    "formula",
    [
        "planar*2",
        "radial*2",
        "affine_coupling*2",
        "tails + tril",
        "spline_coupling*2",
        "iaf*2",
        "sylvester*2",
    ],
)
def test_both_gradients_have_the_same_mean(formula):
    guide = guide_of(normal_model, formula)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    elbo = Trace_ELBO(num_particles=20, vectorize_particles=True, max_plate_nesting=0)
    path = gradients(normal_model, guide, 400, elbo)
    guide.gradient = "total"
    total = gradients(normal_model, guide, 400, elbo)
    error = (path.var(0) / len(path) + total.var(0) / len(total)).sqrt()
    z = (path.mean(0) - total.mean(0)) / error.clamp_min(1e-12)
    # The largest of a few thousand normal variables is below 4.5 but once in a hundred times.
    assert z.abs().max() < 4.5
    assert z.square().mean().sqrt() < 1.3


@pytest.mark.parametrize(
    "elbo",
    [Trace_ELBO(), TraceGraph_ELBO(), TraceEnum_ELBO(), JitTrace_ELBO(ignore_jit_warnings=True)],
    ids=lambda elbo: type(elbo).__name__,
)
@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
def test_every_linear_elbo_has_it(elbo):
    def standard():
        pyro.sample("u", dist.Normal(torch.zeros(DIM, dtype=DOUBLE), 1.0).to_event(1))

    guide = guide_of(standard, "diag")
    elbo.loss_and_grads(standard, guide)
    assert guide.flow.flows[0].params.theta.grad.abs().max() < 1e-12


def test_the_value_of_the_loss_stays():
    guide = guide_of(normal_model, "affine_coupling*2 + planar")
    losses = []
    for gradient in "path", "total":
        guide.gradient = gradient
        pyro.set_rng_seed(0)
        losses.append(Trace_ELBO().loss(normal_model, guide))
        pyro.set_rng_seed(0)
        losses.append(Trace_ELBO().differentiable_loss(normal_model, guide).item())
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-12)


def test_a_flow_that_does_not_carry_the_score_says_so_once():
    with pytest.warns(UserWarning, match="Spline: no forward_and_score.*total gradient") as caught:
        guide = guide_of(normal_model, [pyro_transforms.spline])
    assert len(caught) == 1
    guide()
    guide_of(normal_model, [pyro_transforms.spline], gradient="total")  # no warning


def test_gradient_must_be_known():
    with pytest.raises(ValueError, match='gradient must be "path" or "total", got \'stl\''):
        AutoFlowGuide(normal_model, gradient="stl")


def test_fit_knows_which_elbo_is_not_linear():
    renyi = RenyiELBO(alpha=0.5, num_particles=4, vectorize_particles=True, max_plate_nesting=0)
    options = {"elbo": renyi, "steps": 5, "progress": False, "compile": False}
    posterior = fit(normal_model, flow="diag", **options)
    assert posterior.guide.gradient == "total"
    guide = AutoFlowGuide(normal_model, "diag")
    with pytest.raises(ValueError, match=r'RenyiELBO.*type AutoFlowGuide.*gradient="total"'):
        fit(normal_model, guide=guide, **options)
