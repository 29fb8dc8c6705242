"""Every flow keeps the contract, and agrees with oracles that know nothing of our code."""

import copy
import gc
import math
import weakref
from importlib import import_module

import pyro.distributions as dist
import pyro.distributions.transforms as pyro_transforms
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from pyro_nf import MLP, Chain, Flow, FlowDistribution, flow_names, make_flow
from pyro_nf.flows import (
    IAF,
    AdditiveCoupling,
    Diag,
    Householder,
    Planar,
    Radial,
    SplineCoupling,
    Sylvester,
    Tril,
)
from pyro_nf.flows.flow import Conditioned
from pyro_nf.flows.inverses import root
from pyro_nf.flows.nets import MaskedMLP
from pyro_nf.flows.sylvester import orthonormal
from pyro_nf.testing import check_flow

DOUBLE = torch.float64
spline_module = import_module("pyro.distributions.transforms.spline")  # its name is a function, too
monotonic_rational_spline = spline_module._monotonic_rational_spline
FORMULAS = [
    *flow_names(),
    "additive_coupling(flip=True)",
    "spline_coupling(bins=4, bound=2)",
    "iaf*2",
    "sylvester(rank=2)*3",
    'additive_coupling(mix="permutation")',
    'additive_coupling(mix="orthogonal")*2',
    "additive_coupling(hidden=())",
    "householder(pairs=3)",
    "planar*2 + radial + permute + nice*2 + tril",
]
MASKED = {"iaf", "iaf*2"}  # whose parameters have parts that are never used


def perturbed(spec, dim, context_dim=0, spread=0.5):
    """A flow away from its birth, in float64."""
    flow = make_flow(spec, dim, context_dim).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += spread * torch.randn_like(parameter) / math.sqrt(dim)
    return flow


def with_params(flow, **values):
    """Set the named tensors of a flow."""
    with torch.no_grad():
        parts = dict(zip(flow.params.shapes, flow.params(), strict=True)) | values
        flow.params.theta.copy_(torch.cat([torch.as_tensor(x).reshape(-1) for x in parts.values()]))
    return flow


def standard_normal(dim):
    return dist.Normal(torch.zeros(dim, dtype=DOUBLE), 1.0).to_event(1)


# ---------------------------------------------------------------- the contract, for all


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


def test_permute_leaves_a_standard_normal_alone():
    flow = make_flow("permute", 50)
    assert sorted(flow.order.tolist()) == list(range(50))
    q = FlowDistribution(standard_normal(50), flow)
    values = torch.randn(10, 50, dtype=DOUBLE)
    assert torch.allclose(q.log_prob(values), standard_normal(50).log_prob(values))


# ---------------------------------------------------------------- oracles


def inverse_softplus(x):
    return x + torch.log(-torch.expm1(-x))


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_planar_is_pyros(dim):
    ours = perturbed("planar", dim, spread=2.0)
    theirs = pyro_transforms.Planar(dim).double()
    w, _, b = (part.squeeze(0) for part in ours.params())
    # Both project u onto w . u > -1 along w, each in its way: solve for the u which Pyro
    # projects to ours, of which the value at b + w . x = atanh(1 / 2) tells u_hat.
    start = w * (math.atanh(0.5) - b) / w.square().sum()
    u_hat = 2 * (ours(start) - start)
    slope = (w * u_hat).sum()
    with torch.no_grad():
        theirs.w.copy_(w)
        theirs.u.copy_(u_hat + (inverse_softplus(1 + slope) - slope) * w / w.square().sum())
        theirs.bias.copy_(b)
    x = torch.randn(100, dim, dtype=DOUBLE)
    y, log_det = ours.forward_and_log_det(x)
    expected = theirs(x)
    assert torch.allclose(y, expected, atol=1e-10)
    assert torch.allclose(log_det, theirs.log_abs_det_jacobian(x, expected), atol=1e-10)


def test_planar_projection_is_the_papers():
    """u_hat differs from u along w only, by nothing where w . u > 0, and w . u_hat > -1."""
    for factor in (-50.0, -3.0, -0.1, 0.0, 0.1, 3.0, 50.0):
        w, across = torch.tensor([3.0, 4.0], dtype=DOUBLE), torch.tensor([-4.0, 3.0], dtype=DOUBLE)
        u = factor * w / 25 + across
        flow = with_params(Planar(2).double(), w=w, u=u, b=torch.zeros(()))
        x = 10 * w / 25  # where tanh is one
        u_hat = (flow(x) - x) / math.tanh(10)
        assert torch.allclose(u_hat @ across, across @ across)
        assert -1 < (u_hat @ w).item() <= max(factor, 0) + 1e-12
        if factor >= 0:
            assert torch.allclose(u_hat, u)


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("b", [-3.0, -0.2, 0.0, 0.7, 4.0])
def test_radial_is_pyros(dim, b):
    centre = torch.randn(dim, dtype=DOUBLE)
    ours = with_params(Radial(dim).double(), centre=centre, a=torch.tensor(0.3), b=torch.tensor(b))
    theirs = pyro_transforms.Radial(dim).double()
    alpha = math.log1p(math.exp(0.3))
    beta = alpha * (b if b > 0 else 0.999 * math.expm1(b))
    with torch.no_grad():
        theirs.x0.copy_(centre)
        theirs.alpha_prime.copy_(inverse_softplus(torch.tensor(alpha, dtype=DOUBLE)))
        theirs.beta_prime.copy_(inverse_softplus(torch.tensor(alpha + beta, dtype=DOUBLE)))
    x = torch.randn(100, dim, dtype=DOUBLE)
    y, log_det = ours.forward_and_log_det(x)
    expected = theirs(x)
    assert torch.allclose(y, expected, atol=1e-8)  # 0.3 was rounded to float32
    assert torch.allclose(log_det, theirs.log_abs_det_jacobian(x, expected), atol=1e-8)


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


def test_splines_are_pyros():
    flow = perturbed("spline_coupling(bins=5, bound=2.5)", 1, spread=3.0)
    free = flow.net(torch.zeros(0, dtype=DOUBLE)).detach() / 4
    widths, heights = free[:5].softmax(-1), free[5:10].softmax(-1)
    slopes = nn.functional.elu(free[10:], 0.999) + 1
    options = {"bound": 2.5, "min_bin_width": 1e-3, "min_bin_height": 1e-3, "min_derivative": 0.0}
    x = 2 * torch.randn(1000, 1, dtype=DOUBLE)
    shapes = [part.expand(1000, 1, -1) for part in (widths, heights, slopes)]
    expected, log_slope = monotonic_rational_spline(x, *shapes, **options)
    y, log_det = flow.forward_and_log_det(x)
    assert (y - x).abs().max() > 0.1
    assert torch.allclose(y, expected, atol=1e-10)
    assert torch.allclose(log_det, log_slope.squeeze(-1), atol=1e-10)
    outside = x.abs() > 2.5
    assert torch.allclose(y[outside], x[outside], rtol=1e-15)


@pytest.mark.parametrize("seed", range(6))
def test_steep_splines_have_an_inverse(seed):
    torch.manual_seed(seed)
    flow = make_flow("spline_coupling(bins=24)", 1)
    with torch.no_grad():  # slopes from e^-7 to e^7 beside each other
        flow.net.biases[-1].normal_(std=100.0)
    x = torch.linspace(-4.5, 4.5, 100_001).unsqueeze(-1)  # in float32
    y, log_det = flow.forward_and_log_det(x)
    assert log_det.min() < -6
    assert log_det.max() > 6
    y = y.detach().requires_grad_()
    back, back_log_det = flow.inverse_and_log_det(y)
    # A place is known to the rounding of its image, by some twenty operations, over the slope.
    rounding = torch.finfo(y.dtype).eps * (1 + torch.exp(-log_det))
    assert bool(((back - x).abs().squeeze(-1) <= 20 * rounding).all())
    assert bool(back_log_det.isfinite().all())
    (gradient,) = torch.autograd.grad(back.sum() + back_log_det.sum(), y)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("name", ["spline_coupling", "affine_coupling", "additive_coupling"])
def test_units_of_a_network_bend_at_places_of_their_own(name):
    first = make_flow(f"{name}(hidden=(500,), kinks=2)", 2).net
    places = -first.biases[0] / first.weights[0].squeeze(-1)
    assert 0.5 < places.abs().median() < 4
    assert not make_flow(name, 2).net.biases[0].any()
    assert not make_flow(f"{name}(hidden=(), kinks=2)", 2).net.biases[0].any()  # has no units
    with pytest.raises(ValueError, match="kinks must be a number from 0, got -1"):
        make_flow(f"{name}(kinks=-1)", 2)


def test_one_sylvester_plane_is_planar():
    ours = perturbed("sylvester(rank=1)", 3)
    q = orthonormal(ours.params()[0]).squeeze(0).squeeze(-1)
    steep, bend = ours.params()[2].exp(), nn.functional.elu(ours.params()[1].squeeze(), 0.999)
    theirs = with_params(Planar(3).double(), w=q * steep, u=q * bend / steep, b=ours.params()[3])
    if bend < 0:  # planar bends its u, too
        with_params(theirs, u=q * 0.999 * (bend / 0.999).log1p() / steep)
    x = torch.randn(100, 3, dtype=DOUBLE)
    for got, expected in zip(
        ours.forward_and_log_det(x), theirs.forward_and_log_det(x), strict=True
    ):
        assert torch.allclose(got, expected, atol=1e-10)


@pytest.mark.parametrize(("dim", "rank"), [(1, 1), (2, 2), (5, 3), (50, 8), (8, 8)])
def test_reflections_at_once_are_reflections_in_a_row(dim, rank):
    v = torch.randn(4, dim, rank, dtype=DOUBLE)
    q, expected = orthonormal(v), torch.eye(dim, dtype=DOUBLE)
    assert torch.allclose(q.mT @ q, torch.eye(rank, dtype=DOUBLE).expand(4, -1, -1), atol=1e-13)
    for axis in v.unbind(-1):
        outer = axis.unsqueeze(-1) * axis.unsqueeze(-2)
        eye = torch.eye(dim, dtype=DOUBLE)
        expected = expected @ (eye - 2 * outer / axis.square().sum(-1)[:, None, None])
    assert torch.allclose(q, expected[..., :rank], atol=1e-12)


def test_sylvester_starts_in_all_directions():
    q = orthonormal(Sylvester(50, layers=200).params()[0])
    assert bool(((50 * q.square()).mean((0, 2)) - 1).abs().max() < 0.2)


@pytest.mark.parametrize("dim", [1, 2, 5, 50])
@pytest.mark.parametrize("hidden", [(), (7,), (32, 16)])
def test_masks_let_an_output_see_what_is_before_it(dim, hidden):
    for order in (torch.arange(1, dim + 1), torch.randperm(dim) + 1):
        net = MaskedMLP(order, 2, hidden, context_dim=3).double()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.normal_()
        x, context = torch.randn(dim, dtype=DOUBLE), torch.randn(3, dtype=DOUBLE)
        _, units = net.forward_and_units(x, context)
        expected = torch.autograd.functional.jacobian(lambda x, net=net, c=context: net(x, c), x)
        assert torch.allclose(net.jacobian(units), expected, atol=1e-10)
        hidden_from = order.repeat(2).unsqueeze(-1) <= order
        assert not expected[hidden_from].any()
        if dim in (2, 5):
            assert bool((expected[~hidden_from] != 0).all())
        heard = torch.autograd.functional.jacobian(lambda c, net=net, x=x: net(x, c), context)
        assert bool((heard != 0).all())


def test_iaf_reverses_the_order_from_layer_to_layer():
    assert [flow.flip for flow in make_flow("iaf*3 + iaf(flip=True)", 3)] == [0, 1, 0, 1]
    x = torch.randn(5, dtype=DOUBLE)
    for flip in (False, True):
        flow = perturbed(f"iaf(flip={flip})", 5)
        jacobian = torch.autograd.functional.jacobian(flow, x)
        assert torch.equal(jacobian, jacobian.triu() if flip else jacobian.tril())


def test_iaf_carries_the_score_where_that_is_cheap():
    assert [IAF(dim).carries_score for dim in (1, 64, 65)] == [True, True, False]


def test_linear_layers_are_normal_distributions():
    x = torch.randn(20, 3, dtype=DOUBLE)
    diag, tril = perturbed("diag", 3), perturbed("tril", 3)
    loc, log_scale = diag.params()
    expected = dist.Normal(loc, log_scale.exp()).to_event(1).log_prob(x)
    assert torch.allclose(FlowDistribution(standard_normal(3), diag).log_prob(x), expected)
    loc = tril(torch.zeros(3, dtype=DOUBLE))
    scale_tril = tril(torch.eye(3, dtype=DOUBLE)).sub(loc).mT
    assert torch.equal(scale_tril, scale_tril.tril())
    expected = dist.MultivariateNormal(loc, scale_tril=scale_tril).log_prob(x)
    assert torch.allclose(FlowDistribution(standard_normal(3), tril).log_prob(x), expected)


def test_householder_is_a_rotation():
    for dim in (1, 2, 5, 50):
        flow = perturbed("householder(pairs=2)", dim)
        matrix = flow(torch.eye(dim, dtype=DOUBLE))
        assert torch.allclose(matrix @ matrix.mT, torch.eye(dim, dtype=DOUBLE), atol=1e-12)
        assert torch.linalg.det(matrix).item() == pytest.approx(1.0)


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


def test_a_sample_scores_as_any_value():
    for formula in FORMULAS:
        q = FlowDistribution(standard_normal(3), perturbed(formula, 3))
        sample = q.rsample((10,))
        assert torch.allclose(q.log_prob(sample), q.log_prob(sample.clone()), atol=1e-10)


# ---------------------------------------------------------------- extremes

PLANES = {  # the length of w, and w . u
    "slope near -1": (1.0, -30.0),
    "slope near -1, steep": (3.0, -5.0),
    "slope 1e3": (1.0, 1e3),
    "slope 1e3, steep": (30.0, 1e3),
    "w = 0": (0.0, 0.0),
    "huge w": (1e6, 1.0),
    "huge w, slope near -1": (1e6, -50.0),
    "tiny": (1e-30, 1e-30),
    "tiny w": (1e-12, -1e-12),
}


def plane(dim, size, free, dtype):
    w = nn.functional.normalize(torch.randn(dim, dtype=dtype), dim=0) * size
    u = 0.3 * torch.randn(dim, dtype=dtype)
    if size:
        u = u + (free - (u * w).sum()) * (w / size) / size
    return with_params(Planar(dim).to(dtype), w=w, u=u, b=torch.randn((), dtype=dtype))


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("name", PLANES)
def test_planar_inverts_everywhere(name, dim):
    flow = plane(dim, *PLANES[name], DOUBLE)
    x = torch.cat([3 * torch.randn(500, dim, dtype=DOUBLE), torch.zeros(1, dim, dtype=DOUBLE)])
    y, log_det = flow.forward_and_log_det(x)
    back, back_log_det = flow.inverse_and_log_det(y)
    assert (back - x).abs().max() < 1e-12
    # The log-determinant at a slope of -0.999 magnifies the error of x a thousand times.
    assert (back_log_det + log_det).abs().max() < 1e-10


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("c", [-0.999, -0.9, -1e-8, 0.0, 1e-8, 1.0, 1e3, 1e12])
def test_planar_root(c, dtype):
    slope = torch.tensor(c, dtype=dtype)
    v = torch.cat([torch.logspace(-20, 6, 200, dtype=dtype), torch.zeros(1, dtype=dtype)])
    v = torch.cat([v, -v])
    t = v + slope * v.tanh()
    found = root(t, slope)
    # As exact as rounding t, and the terms of it, lets the root be.
    slack = 4 * torch.finfo(dtype).eps * (v.abs() + abs(c) * v.tanh().abs())
    slack = slack / (1 + slope * (1 - v.tanh() ** 2))
    assert bool(((found - v).abs() <= slack).all())


@pytest.mark.parametrize("c", [-0.999, -0.99, 0.5, 1e3])
def test_planar_root_takes_a_dozen_iterations(c):
    class Count(TorchFunctionMode):
        tanh = 0

        def __torch_function__(self, function, types, args=(), kwargs=None):
            self.tanh += function is torch.tanh
            return function(*args, **(kwargs or {}))

    with Count() as count:
        t = torch.cat([torch.randn(10_000, dtype=DOUBLE) * scale for scale in (1e-3, 3, 1e3)])
        root(t, torch.tensor(c, dtype=DOUBLE))
    assert count.tanh <= 15


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_planar_has_finite_gradients_everywhere(dtype):
    for size in (0.0, 1e-30, 1e-18, 1e-12, 1e-6, 1.0, 1e6, 1e12):
        for free in (-1e3, -1.0, 0.0, 1.0, 1e3):
            flow = plane(3, 1.0, free, dtype)
            w, u, _ = flow.params()
            with_params(flow, w=size * w, u=u if size < 1 else u / size)
            values_and_gradients_are_finite(flow, torch.randn(10, 3, dtype=dtype))
    # Rounding decides whether 1 / |w|^4 is met by a zero: so many planes, of all sizes.
    flow = Planar(3, layers=1000).to(dtype)
    sizes = 10 ** torch.empty(1000, 1, dtype=dtype).uniform_(-25, 0)
    u = torch.randn(1000, 3, dtype=dtype)
    with_params(flow, w=sizes * torch.randn(1000, 3, dtype=dtype), u=u, b=torch.zeros(1000))
    values_and_gradients_are_finite(
        flow, torch.randn(1, 3, dtype=dtype), (flow.forward_and_log_det,)
    )


def test_planar_gradient_is_bounded_near_w_zero():
    """u_hat - u shrinks with w, and must not leave a gradient of size |u| / |w| behind."""
    for size in (1e-2, 1e-4, 1e-8):
        flow = plane(2, 1.0, -2.0, DOUBLE)
        with_params(flow, w=size * flow.params()[0])
        x = torch.randn(100, 2, dtype=DOUBLE)
        (gradient,) = torch.autograd.grad(flow(x).mean(0).sum(), flow.params.theta)
        assert gradient.abs().max() < 50  # some |u|^2


REACHES = [-200.0, -30.0, -5.0, 0.0, 5.0, 100.0]
PULLS = [-1e4, -50.0, -5.0, -0.1, 0.0, 0.1, 5.0, 1e3]


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("a", REACHES)
@pytest.mark.parametrize("b", PULLS)
def test_radial_inverts_everywhere(a, b, dim):
    flow = with_params(Radial(dim).double(), centre=torch.zeros(dim), a=a, b=b)
    x = torch.randn(200, dim, dtype=DOUBLE) * torch.logspace(-9, 3, 200, dtype=DOUBLE)[:, None]
    x[0] = 0  # the centre
    y, log_det = flow.forward_and_log_det(x)
    back, back_log_det = flow.inverse_and_log_det(y)
    # A pull of -0.999 magnifies a rounding of y by a thousand, one of 1e3 the other way.
    assert torch.allclose(back, x, rtol=1e-11, atol=0)
    assert torch.allclose(back_log_det, -log_det, rtol=0, atol=1e-10)


def test_radial_resolves_the_centre_of_a_strong_push():
    flow = with_params(Radial(2).double(), centre=torch.zeros(2), a=0.0, b=1e10)
    x = torch.randn(200, 2, dtype=DOUBLE) / 2
    back, _ = flow.inverse_and_log_det(flow(x))
    assert (back - x).abs().max() < 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_a_reflection_along_nothing_is_the_identity(dtype):
    flow = with_params(Householder(3).to(dtype), v=torch.zeros(2, 3))
    x = torch.randn(5, 3, dtype=dtype)
    assert torch.equal(flow(x), x)
    for size in (0.0, 1e-30, 1e-15):
        with_params(flow, v=size * torch.ones(2, 3))
        values_and_gradients_are_finite(flow, x)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_radial_has_finite_gradients_everywhere(dtype):
    centre = torch.randn(3, dtype=dtype)
    x = torch.cat([torch.stack([centre, centre + 1e-6]), torch.randn(5, 3, dtype=dtype)])
    for a in REACHES:
        for b in PULLS:
            flow = with_params(Radial(3).to(dtype), centre=centre, a=a, b=b)
            values_and_gradients_are_finite(flow, x)


def values_and_gradients_are_finite(flow, x, runs=None):
    x = x.detach().requires_grad_()
    for run in runs or (flow.forward_and_log_det, flow.inverse_and_log_det):
        y, log_det = run(x)
        gradients = torch.autograd.grad(y.sum() + log_det.sum(), [x, *flow.parameters()])
        for tensor in (y, log_det, *gradients):
            assert bool(tensor.isfinite().all()), (run.__name__, list(flow.parameters()))


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


# ---------------------------------------------------------------- couplings


@pytest.mark.parametrize("dim", [2, 5])
@pytest.mark.parametrize("options", ["", '(mix="permutation")', '(mix="orthogonal")'])
def test_a_stack_of_two_couplings_moves_every_coordinate(dim, options):
    flow = perturbed(f"additive_coupling{options}*2", dim)
    x = torch.randn(100, dim, dtype=DOUBLE)
    moved = (flow(x) - x).abs().amax(0)
    assert bool((moved > 1e-3).all())
    first, second, third = make_flow(f"additive_coupling{options}*3", 50)
    assert [first.flip, second.flip, third.flip] == [False, True, False]
    if options:  # pairs share a mixing, and the next pair has its own
        assert torch.equal(first.mixing, second.mixing)
        assert not torch.equal(first.mixing, third.mixing)
    else:  # a riffle starts from the order as it is
        assert first.mixing is None
        assert second.mixing is None
        assert torch.equal(third.mixing.sort().values, torch.arange(50))


def test_one_coupling_moves_one_half_by_the_other():
    x = torch.randn(100, 5, dtype=DOUBLE)
    for flip, moved in ((False, slice(2, 5)), (True, slice(0, 2))):
        gap = perturbed(f"additive_coupling(flip={flip})", 5)(x) - x
        assert bool((gap[:, moved] != 0).all())
        assert gap.count_nonzero() == gap[:, moved].numel()


def test_orthogonal_mixings_are_so_in_any_precision():
    for dim in (1, 2, 5, 50):
        flow = AdditiveCoupling(dim, mix="orthogonal")
        for dtype in (torch.float32, DOUBLE, torch.float32):
            q = flow.to(dtype).mixing
            gap = q @ q.mT - torch.eye(dim, dtype=dtype)
            assert q.dtype is dtype
            assert gap.abs().max() < 20 * torch.finfo(dtype).eps


def test_permutations_are_so():
    order = AdditiveCoupling(50, mix="permutation").double().mixing
    assert torch.equal(order.sort().values, torch.arange(50))
    assert not torch.equal(order, torch.arange(50))


@pytest.mark.parametrize("dim", range(2, 40))
def test_a_riffle_soon_parts_any_two_coordinates(dim):
    pairs = math.ceil(math.log2(dim))
    together = torch.ones(dim, dim, dtype=torch.bool)
    for flow in make_flow([f"additive_coupling*{2 * pairs}"], dim):
        order = torch.arange(dim) if flow.mixing is None else flow.mixing
        half = torch.zeros(dim, dtype=torch.bool)
        half[order[: dim // 2]] = True
        together &= half.unsqueeze(0) == half.unsqueeze(1)
    assert torch.equal(together, torch.eye(dim, dtype=torch.bool))


def test_networks_start_small_in_the_last_layer_only():
    # Also where the output has the size of a hidden layer.
    spreads = [weight.std().item() for weight in MLP(32, 32, (32, 32)).weights]
    assert spreads[0] == pytest.approx(32**-0.5, rel=0.2)
    assert spreads[1] == pytest.approx(32**-0.5, rel=0.2)
    assert spreads[2] == pytest.approx(0.01 * 32**-0.5, rel=0.2)


# ---------------------------------------------------------------- as objects


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


def test_a_conditioned_flow():
    flow = perturbed("planar*2 + permute", 3, context_dim=2)
    x, context = torch.randn(20, 3, dtype=DOUBLE), torch.randn(20, 2, dtype=DOUBLE)
    fixed = flow.condition(context)
    assert isinstance(fixed, Conditioned)
    assert fixed.context_dim == 0
    y, log_det = flow.forward_and_log_det(x, context)
    assert torch.equal(fixed(x), y)
    assert torch.equal(fixed.log_abs_det_jacobian(x, y), log_det)
    assert torch.allclose(fixed.inv(y), x)
    assert {id(p) for p in fixed.parameters()} == {id(p) for p in flow.parameters()}
    q = FlowDistribution(standard_normal(3).expand((20,)), fixed)
    draws = q.rsample()
    assert torch.allclose(q.log_prob(draws), q.log_prob(draws.clone()))
    q.log_prob(draws).sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in flow.parameters())


def test_a_chain():
    first, second = Planar(3), Tril(3)
    chain = Chain([first, second])
    assert list(chain) == [first, second]
    assert len(chain) == 2
    x = torch.randn(5, 3)
    assert torch.equal(chain(x), second(first(x)))
    expected = first.log_abs_det_jacobian(x, None) + second.log_abs_det_jacobian(first(x), None)
    assert torch.equal(chain.log_abs_det_jacobian(x, None), expected)
    assert Chain([first, Diag(3)]).context_dim == 0
    assert Chain([Planar(3, 2), Diag(3)]).context_dim == 2
    assert Chain(iter([first])).dim == 3


def test_pyro_may_ask_for_a_cache():
    flow = Planar(3)
    assert flow.with_cache(1) is flow
    x = dist.TransformedDistribution(standard_normal(3), [flow.double()]).rsample((5,))
    assert x.shape == (5, 3)


def test_repr_shows_the_stack():
    shown = repr(make_flow("planar*2 + additive_coupling(flip=True)", 3, context_dim=2))
    assert "3, context_dim=2, layers=2" in shown
    assert "3, context_dim=2, flip=True" in shown


class Empty(Flow):
    pass


class OneWay(Flow):
    def forward_and_log_det(self, x, context=None):
        return x, x.new_zeros(x.shape[:-1])


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: Chain([]), ValueError, "a chain needs at least one flow, got none"),
        (lambda: Chain([Planar(2), Planar(3)]), ValueError, r"agree on dim, got \[2, 3\]"),
        (
            lambda: Chain([Planar(2, 1), Planar(2, 3)]),
            ValueError,
            r"agree on context_dim, got \[1, 3\]",
        ),
        (lambda: Planar(0), ValueError, "dim must be 1 or more, got 0"),
        (lambda: Planar(2.0), TypeError, r"dim must be an int, got 2\.0"),
        (lambda: Planar(2, -1), ValueError, "context_dim must be 0 or more, got -1"),
        (lambda: Empty(2)(torch.zeros(2)), NotImplementedError, "Empty must define forward_and"),
        (
            lambda: OneWay(2).inv(torch.zeros(2)),
            NotImplementedError,
            "OneWay has no inverse.*define",
        ),
        (
            lambda: Planar(2, 3)(torch.zeros(2)),
            ValueError,
            r"context_dim=3 and got no context; type flow.condition\(context\)",
        ),
        (
            lambda: Planar(2, 3).condition(torch.zeros(5, 4))(torch.zeros(2)),
            ValueError,
            r"expected a context of shape \(\*, 3\), got \(5, 4\)",
        ),
        (
            lambda: Planar(2, 3).condition(torch.zeros(()))(torch.zeros(2)),
            ValueError,
            r"expected a context of shape \(\*, 3\), got \(\)",
        ),
        (
            lambda: AdditiveCoupling(2).condition(torch.zeros(4))(torch.zeros(2)),
            ValueError,
            "make the flow with context_dim to use one",
        ),
        (lambda: AdditiveCoupling(2, mix="any"), ValueError, 'mix must be "riffle", "perm'),
        (lambda: AdditiveCoupling(2, hidden=64), ValueError, r"such as \(64, 64\), got 64"),
        (lambda: Householder(2, pairs=0), ValueError, "pairs must be 1 or more, got 0"),
        (lambda: Sylvester(2, rank=0), ValueError, "rank must be 1 or more, got 0"),
        (lambda: SplineCoupling(2, bins=1), ValueError, "bins must be a whole number from 2 to 50"),
        (lambda: SplineCoupling(2, bound=-1), ValueError, "bound must be a positive number, got"),
        (lambda: IAF(2, after=Planar(2)), ValueError, "after must be the layer before this one"),
    ],
)
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize(("formula", "share"), [("planar*3", 0.1), ("diag", 1.0)])
def test_how_far_many_features_move_a_flow_at_once(formula, share):
    flow = make_flow(formula, 4, context_dim=100).double()
    params = flow.params
    with torch.no_grad():
        params.weight.fill_(1e-3)  # as after a step of Adam's
    moved = torch.cat([part.reshape(-1) for part in params(torch.ones(100, dtype=DOUBLE))])
    assert torch.allclose(moved - params.theta, torch.tensor(share * 0.1, dtype=DOUBLE))
