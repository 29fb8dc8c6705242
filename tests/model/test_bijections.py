"""Bijections to Cholesky factors, positive definite matrices and angles."""

import copy
import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.distributions.constraints import simplex
from torch.autograd.functional import jacobian
from torch.distributions import biject_to
from torch.func import vmap

from pyro_nf import AutoFlowGuide
from pyro_nf.model import Packing, support_of

MATRICES = {
    "factor": constraints.lower_cholesky,
    "matrix": constraints.positive_definite,
}
KNOWN = {"correlations": constraints.corr_matrix, "their factor": constraints.corr_cholesky}


def flat(support, *shape):
    return dist.ImproperUniform(support, torch.Size(), torch.Size(shape))


def entries(matrix, strict):
    i, j = torch.tril_indices(*matrix.shape[-2:], offset=-1 if strict else 0)
    return matrix[..., i, j]


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("name", [*MATRICES, *KNOWN])
def test_jacobian_and_inverse(name, n):
    if n == 1 and name in KNOWN:
        pytest.skip("no free number")
    support = (MATRICES | KNOWN)[name]
    to_support = biject_to(support_of(flat(support, n, n)))
    count = n * (n + 1) // 2 - (n if name in KNOWN else 0)
    v = torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    value = to_support(v)
    assert value.shape == to_support.forward_shape(v.shape) == (n, n)
    assert to_support.inverse_shape(value.shape) == v.shape
    assert support.check(value)
    torch.testing.assert_close(to_support.inv(value), v)
    slope = jacobian(lambda x: entries(to_support(x), name in KNOWN), v)
    torch.testing.assert_close(to_support.log_abs_det_jacobian(v, value), slope.logdet())
    together = vmap(to_support)(torch.stack([v, v + 1]))
    torch.testing.assert_close(together, to_support(torch.stack([v, v + 1])))


def test_a_draw_of_a_von_mises_is_on_one_turn():
    fn = dist.VonMises(torch.zeros(3), 1.0)
    to_angle = biject_to(support_of(fn.mask(torch.ones(3).bool()).to_event(1)))
    v = torch.tensor([-2.0, 0.5, 8.0], dtype=torch.float64)
    angle = to_angle(v)
    assert (angle.abs() < math.pi).all()
    slope = jacobian(to_angle, v)
    torch.testing.assert_close(to_angle.log_abs_det_jacobian(v, angle), slope.logdet())


def test_other_supports_are_left_alone():
    for fn in (dist.Normal(0.0, 1.0), dist.Dirichlet(torch.ones(3)), dist.Delta(torch.ones(()))):
        assert repr(support_of(fn)) == repr(fn.support)


def model():
    with pyro.plate("groups", 2):
        pyro.sample("matrix", flat(constraints.positive_definite, 3, 3).expand([2]))
    factors = flat(constraints.lower_cholesky, 2, 2).expand([4]).to_event(1)
    pyro.sample("factors", factors)
    pyro.sample("angle", dist.VonMises(torch.zeros(5), 1.0).to_event(1))
    pyro.sample("correlations", dist.LKJ(3, torch.tensor(2.0)))


@pytest.mark.filterwarnings("ignore:.*log_prob.*")
def test_guide_of_all_of_them():
    guide = AutoFlowGuide(model, "diag").setup()
    assert guide.latent_dim == 2 * 6 + 4 * 3 + 5 + 3
    copies = [guide, copy.deepcopy(guide), pickle.loads(pickle.dumps(guide))]
    for each in copies:
        drawn = each()
        assert drawn["matrix"].shape == (2, 3, 3)
        assert drawn["factors"].shape == (4, 2, 2)
        assert (torch.linalg.eigvalsh(drawn["matrix"]) > 0).all()
        assert drawn["angle"].abs().max() < math.pi
    packing = Packing(guide._unconstrained_shapes)
    supports = {n: s["fn"].support for n, s in guide.prototype_trace.iter_stochastic_nodes()}
    assert Packing.of({n: v.shape for n, v in drawn.items()}, supports).columns == packing.columns
    quantiles = guide.quantiles([0.2, 0.8])
    assert quantiles["matrix"].shape == (2, 2, 3, 3)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_sticks_are_those_of_torch(n):
    x = torch.randn(5, n - 1, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    ours, theirs = biject_to(support_of(dist.Dirichlet(torch.ones(n)))), biject_to(simplex)
    y = ours(x)
    torch.testing.assert_close(y, theirs(x))
    torch.testing.assert_close(ours.inv(y), x)
    expected = theirs.log_abs_det_jacobian(x, y)
    torch.testing.assert_close(ours.log_abs_det_jacobian(x, y), expected)


@pytest.mark.parametrize("far", [[-200.0, 3.0], [50.0, -95.0], [200.0, 200.0]])
def test_sticks_have_a_density_and_a_slope_however_far_out(far):
    """Of a Dirichlet prior of small concentrations, whose mass is there."""
    prior = dist.Dirichlet(torch.full((3,), 0.1))
    to_simplex = biject_to(support_of(prior))
    x = torch.tensor(far, requires_grad=True)
    y = to_simplex(x)
    density = prior.log_prob(y) + to_simplex.log_abs_det_jacobian(x, y)
    (slope,) = torch.autograd.grad(density, x)
    assert density.isfinite()
    assert slope.isfinite().all()
    assert bool((slope.sign() == -x.sign()).all())  # back to the middle
