"""Every registered flow keeps the contract, at its birth, away from it, and after training."""

import copy
import gc
import math
import weakref

import pyro.distributions as dist
import pyro.distributions.transforms as pyro_transforms
import pytest
import torch
from flow_cases import DOUBLE, FORMULAS, perturbed, standard_normal
from torch import nn

from pyro_nf import Chain, Flow, FlowDistribution, flow_names, make_flow
from pyro_nf.testing import check_flow

MASKED = {"iaf", "iaf*2"}  # whose parameters have parts that are never used


@pytest.mark.parametrize("context_dim", [0, 3])
@pytest.mark.parametrize("dim", [1, 2, 5, 50])
@pytest.mark.parametrize("formula", FORMULAS)
def test_contract(formula, dim, context_dim):
    report = check_flow(formula, dim, context_dim=context_dim)
    assert report.inverse
    # Rounding of some fifty operations, magnified by Jacobians of moderate condition.
    assert max(error for what, error in report.errors.items() if what != "float32") < 1e-10
    assert report.errors["float32"] < 1e-5
    assert report.density_gap < 0.2 * (1 + formula.count("+"))  # parameters start at some 0.01
    if "permut" not in formula:
        assert report.birth_gap < 0.1
    if dim > 1 and formula not in MASKED:
        assert report.untrained == ()


@pytest.mark.parametrize("formula", FORMULAS)
def test_single_precision_inverts(formula):
    flow = perturbed(formula, 5).float()
    x = torch.randn(100, 5)
    y, log_det = flow.forward_and_log_det(x)
    back, back_log_det = flow.inverse_and_log_det(y)
    assert torch.allclose(back, x, atol=1e-4)  # 1e-7, magnified a hundred times by each of a few
    assert torch.allclose(back_log_det, -log_det, atol=1e-4)


@pytest.mark.parametrize("formula", ["planar", "radial", "additive_coupling", "diag", "tril"])
def test_the_context_is_not_yet_heard_at_birth(formula):
    torch.manual_seed(1)
    plain = make_flow(formula, 5)
    torch.manual_seed(1)
    flow = make_flow(formula, 5, context_dim=3)
    x, context = torch.randn(100, 5), 3 * torch.randn(100, 3)
    assert (flow.forward_and_log_det(x, context)[0] - x).abs().max() < 0.1
    if formula != "additive_coupling":  # whose network has other sizes
        assert torch.equal(flow.forward_and_log_det(x, context)[0], plain(x))


@pytest.mark.parametrize("formula", ["planar", "radial", "tril", "diag"])
@pytest.mark.parametrize("dim", [1, 50, 200])
def test_the_start_does_not_drift_with_the_dimension(formula, dim):
    flow = make_flow(formula, dim)
    x = torch.randn(200, dim)
    y, log_det = flow.forward_and_log_det(x)
    gap = (y.square() - x.square()).sum(-1) / 2 - log_det
    assert gap.abs().max() < 0.3


@pytest.mark.parametrize(
    "formula",
    ["planar", "planar*2 + tril", "radial", "nice", "householder", "sylvester", "iaf"],
)
def test_second_derivatives(formula):
    """Also through the root search of the planar inverse, where nothing else would tell."""
    flow = perturbed(formula, 2)
    x = torch.randn(3, 2, dtype=DOUBLE, requires_grad=True)
    for run in (flow.forward_and_log_det, flow.inverse_and_log_det):
        assert torch.autograd.gradgradcheck(run, (x,))


@pytest.mark.parametrize("context_dim", [0, 3])
@pytest.mark.parametrize("name", ["planar", "radial"])
def test_layers_in_one_module_are_a_chain(name, context_dim):
    stack = perturbed(f"{name}*3", 4, context_dim)
    single = [perturbed(name, 4, context_dim) for _ in range(3)]
    assert stack.layers == 3
    with torch.no_grad():
        for inner in ("theta", "weight")[: 1 + bool(context_dim)]:
            pieces = getattr(stack.params, inner).split(stack.params.sizes)
            for k, flow in enumerate(single):
                parts = [piece.chunk(3)[k] for piece in pieces]
                getattr(flow.params, inner).copy_(torch.cat(parts))
    x = torch.randn(20, 4, dtype=DOUBLE)
    context = torch.randn(20, context_dim, dtype=DOUBLE) if context_dim else None
    for ours, theirs in zip(
        stack.forward_and_log_det(x, context),
        Chain(single).forward_and_log_det(x, context),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("formula", [*FORMULAS, "planar*4", "radial*4"])
def test_densities_integrate_to_one(formula):
    spreads = {"affine_coupling": 0.1, "additive_coupling": 0.2, "nice": 0.2, "tails": 0.1}
    spreads |= {"spline_coupling": 0.2, "iaf": 0.1}
    spread = min([0.5, *(size for name, size in spreads.items() if name in formula)])
    flow = perturbed(formula, 2, spread=spread)  # all mass within the grid
    q = FlowDistribution(standard_normal(2), flow)
    with torch.no_grad():
        centre = q.rsample((1000,)).mean(0)
        side = torch.linspace(-12, 12, 481, dtype=DOUBLE)
        grid = torch.cartesian_prod(side, side) + centre
        total = q.log_prob(grid).exp().sum() * (side[1] - side[0]) ** 2
    # The rule is exact for smooth densities; radial ones have a cone of some 0.05^2 size.
    assert total.item() == pytest.approx(1.0, abs=1e-4)


def test_numbers_that_are_none_end_soon():
    """NaN and infinity go in and NaN comes out; the root search of planar does not run on."""
    x = torch.tensor([[math.nan, 0.0], [math.inf, 0.0], [-math.inf, 1.0]])
    for name in flow_names():
        flow = make_flow(name, 2)
        for run in (flow.forward_and_log_det, flow.inverse_and_log_det):
            y, log_det = run(x)
            assert y.shape == (3, 2)
            assert log_det.shape == (3,)
            assert not y.isfinite().all(-1).any()


def train(flow, x, context=None, steps=1):
    optimizer = torch.optim.SGD(flow.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        y, log_det = flow.forward_and_log_det(x, context)
        (y @ torch.arange(1.0, 1.0 + flow.dim) - log_det).mean().backward()  # no rotation is alike
        optimizer.step()


@pytest.mark.parametrize("formula", [*FORMULAS, "permute"])
def test_nothing_is_cached(formula):
    flow = make_flow(formula, 3)
    x = torch.randn(20, 3)
    before, _ = flow.forward_and_log_det(x)
    if not list(flow.parameters()):
        assert torch.equal(flow(x), before)
        return
    train(flow, x)
    fresh = make_flow(formula, 3)
    fresh.load_state_dict(flow.state_dict())
    after = flow(x)
    assert not torch.equal(after, before)
    assert torch.equal(after, fresh(x.clone()))


@pytest.mark.parametrize("formula", FORMULAS)
def test_no_graph_is_kept_alive(formula):
    """What autograd saves for the backward pass dies with the value."""

    class Saved:
        def __init__(self, tensor):
            self.tensor = tensor.detach()  # a saved output would hold itself otherwise

    saved = []

    def pack(tensor):
        box = Saved(tensor)
        saved.append(weakref.ref(box))
        return box

    flow = make_flow(formula, 3)
    x = torch.randn(20, 3, requires_grad=True)
    q = FlowDistribution(dist.Normal(torch.zeros(3), 1.0).to_event(1), flow)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
        values = flow.forward_and_log_det(x), flow.inverse_and_log_det(x)
    del values
    gc.collect()
    assert not any(box() for box in saved)
    assert not any(isinstance(value, torch.Tensor) for value in vars(flow).values())
    assert torch.equal(q.flow(x), flow(x))


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_copy_in_the_middle_of_training(formula):
    flow = make_flow(formula, 3)
    x = torch.randn(20, 3)
    y, log_det = flow.forward_and_log_det(x.requires_grad_())
    assert (y.sum() + log_det.sum()).requires_grad
    twin = copy.deepcopy(flow)
    if list(flow.parameters()):
        before = flow(x)
        train(twin, x.detach())
        assert torch.equal(flow(x), before)
        assert not torch.equal(twin(x), before)


@pytest.mark.parametrize("spec", ["planar", "planar*2 + tril", pyro_transforms.spline])
def test_the_inverse_is_a_module_that_trains(spec):
    flow = make_flow(spec, 3)
    inverse = flow.inv
    assert isinstance(inverse, nn.Module)
    assert isinstance(inverse, Flow)
    assert inverse.inv is flow
    assert (inverse.dim, inverse.context_dim) == (flow.dim, flow.context_dim)
    assert {id(p) for p in inverse.parameters()} == {id(p) for p in flow.parameters()}
    x = torch.randn(20, 3)
    y = flow(x)
    assert torch.allclose(inverse(y), x, atol=1e-4)
    assert torch.allclose(
        inverse.log_abs_det_jacobian(y, x), -flow.log_abs_det_jacobian(x, y), atol=1e-4
    )
    train(inverse, x)
    assert not torch.equal(flow(x), y)
    assert check_flow(inverse).inverse
