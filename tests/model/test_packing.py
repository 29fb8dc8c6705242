"""pack and unpack are a pair, whatever the supports, plates and dtypes."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch.distributions import biject_to

from pyro_nf.model.packing import Latents, Pack, Packing, Unpack, packed

SINGLE, DOUBLE = torch.float32, torch.float64


def many_supports(dtype):
    one = torch.ones((), dtype=dtype)
    pyro.sample("real", dist.Normal(0 * one, one))
    pyro.sample("positive", dist.LogNormal(0 * one, one))
    pyro.sample("unit", dist.Beta(2 * one, 3 * one))
    pyro.sample("interval", dist.Uniform(-one, 3 * one))
    pyro.sample("vector", dist.Normal(torch.zeros(3, dtype=dtype), one).to_event(1))
    pyro.sample("simplex", dist.Dirichlet(torch.ones(4, dtype=dtype)))
    pyro.sample("corr", dist.LKJCholesky(3, 2 * one))
    with pyro.plate("columns", 2, dim=-1):
        pyro.sample("plated", dist.Gamma(2 * one, one))
        with pyro.plate("rows", 5, dim=-2):
            pyro.sample("nested", dist.Dirichlet(torch.ones(3, dtype=dtype)))


def dependent(dtype):
    one = torch.ones((), dtype=dtype)
    alpha = pyro.sample("alpha", dist.Uniform(0 * one, one))
    with pyro.plate("two", 2):
        beta = pyro.sample("beta", dist.Uniform(0 * one, 1 - alpha))
        pyro.sample("gamma", dist.Uniform(beta, 2 * one))


def single(dtype):
    pyro.sample("x", dist.HalfNormal(torch.ones((), dtype=dtype)))


def packing_of(model, dtype):
    trace = prune_subsample_sites(poutine.trace(model).get_trace(dtype))
    nodes = dict(trace.iter_stochastic_nodes())
    return Packing.of(
        {name: node["value"].shape for name, node in nodes.items()},
        {name: node["fn"].support for name, node in nodes.items()},
    )


@pytest.mark.parametrize("model", [many_supports, dependent, single])
@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
def test_pack_undoes_unpack_and_back(model, dtype):
    packing = packing_of(model, dtype)
    latents = Latents(model, packing, (dtype,), {})
    u = torch.randn(6, packing.dim, dtype=dtype)
    values, log_det = latents.unpack(u)
    again, same_log_det = latents.pack(values)
    slack = {"rtol": 0, "atol": 1e-9 if dtype == DOUBLE else 2e-3}
    torch.testing.assert_close(again, u, **slack)
    torch.testing.assert_close(same_log_det, log_det, **slack)
    torch.testing.assert_close(latents.unpack(again)[0], values, **slack)
    assert {value.dtype for value in values.values()} == {dtype}


@pytest.mark.parametrize("model", [many_supports, dependent, single])
def test_the_log_determinant_is_that_of_the_values(model):
    packing = packing_of(model, DOUBLE)
    u = 0.5 * torch.randn(packing.dim, dtype=DOUBLE)

    def values_of(u, reduce):
        with Unpack(packing, u) as unpack:
            model(DOUBLE)
        parts = []
        for name, value in unpack.values.items():
            if reduce and name in ("simplex", "nested"):
                value = value[..., :-1]  # what is left of it is free
            if reduce and name == "corr":
                value = value[torch.tril_indices(3, 3, -1).unbind()]
            parts.append(value.reshape(-1))
        return torch.cat(parts), unpack.log_det

    jacobian = torch.autograd.functional.jacobian(lambda u: values_of(u, True)[0], u)
    expected = torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(values_of(u, True)[1], expected)


def test_fixed_supports_need_no_run():
    packing = packing_of(many_supports, DOUBLE)
    trace = prune_subsample_sites(poutine.trace(many_supports).get_trace(DOUBLE))
    supports = {name: node["fn"].support for name, node in trace.iter_stochastic_nodes()}
    latents = Latents(many_supports, packing, (DOUBLE,), {})
    values, _ = latents.unpack(torch.randn(6, packing.dim, dtype=DOUBLE))
    torch.testing.assert_close(packed(values, supports), latents.pack(values))


def test_columns_are_where_the_sites_are():
    packing = packing_of(many_supports, DOUBLE)
    assert sum(c.stop - c.start for c in packing.columns.values()) == packing.dim
    u = torch.arange(2.0 * packing.dim, dtype=DOUBLE).reshape(2, -1)
    assert torch.equal(packing.free(u, "vector"), u[:, packing.columns["vector"]])
    assert packing.free(u, "nested").shape == (2, 5, 2, 2)
    assert "corr" in packing
    assert "none" not in packing


def test_a_support_is_that_of_the_run():
    packing = packing_of(dependent, DOUBLE)
    u = torch.tensor([1.0, 0.3, -0.2, 0.1, 0.0], dtype=DOUBLE)
    with Unpack(packing, u) as unpack, Pack(packing) as pack:
        dependent(DOUBLE)
    alpha = biject_to(dist.Uniform(0.0, 1.0).support)(u[0])
    beta = unpack.values["beta"]
    torch.testing.assert_close(beta, (1 - alpha) * u[1:3].sigmoid())
    torch.testing.assert_close(unpack.values["gamma"], beta + (2 - beta) * u[3:].sigmoid())
    torch.testing.assert_close(pack.u, u)


def test_the_model_runs_as_far_as_its_last_latent_site():
    """What comes after costs nothing, and may fail."""
    ran = []

    def model(dtype):
        dependent(dtype)
        ran.append("on")
        raise ValueError("numerics")

    packing = packing_of(dependent, DOUBLE)
    latents = Latents(model, packing, (DOUBLE,), {})
    u = torch.randn(6, packing.dim, dtype=DOUBLE)
    values, log_det = latents.unpack(u)
    torch.testing.assert_close(latents.pack(values), (u, log_det))
    assert not ran
    assert not pyro.poutine.runtime._PYRO_STACK
