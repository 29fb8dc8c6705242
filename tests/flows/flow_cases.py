"""What the tests of flows share: formulas, flows away from their birth, a base."""

import math

import pyro.distributions as dist
import torch

from pyro_nf import flow_names, make_flow

DOUBLE = torch.float64
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


def inverse_softplus(x):
    return x + torch.log(-torch.expm1(-x))


def values_and_gradients_are_finite(flow, x, runs=None):
    x = x.detach().requires_grad_()
    for run in runs or (flow.forward_and_log_det, flow.inverse_and_log_det):
        y, log_det = run(x)
        gradients = torch.autograd.grad(y.sum() + log_det.sum(), [x, *flow.parameters()])
        for tensor in (y, log_det, *gradients):
            assert bool(tensor.isfinite().all()), (run.__name__, list(flow.parameters()))
