"""Discrete sites summed out: densities and gradients beside sums that are written out here.

The sums by hand run over all values of the discrete sites, one by one, by conditioning the model.
"""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import init_to_sample
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.ops.indexing import Vindex
from torch.distributions import biject_to

from pyro_nf.engines import record
from pyro_nf.model import Many, Packing, SummedOut, Target, find_discrete

DATA = torch.tensor([0.0, 1.0, 10.0, 11.0, 12.0]).double()


def mixture():
    """Pyro's tutorial: components in a plate, `locs[assignment]`."""
    weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(2)))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
    with pyro.plate("components", 2):
        locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(DATA)):
        assignment = pyro.sample("assignment", dist.Categorical(weights))
        pyro.sample("obs", dist.Normal(locs[assignment], scale), obs=DATA)


def two_sites():
    """A switch for all rows, and a class for each."""
    chance = pyro.sample("chance", dist.Beta(2.0, 2.0))
    loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    switch = pyro.sample("switch", dist.Bernoulli(chance))
    with pyro.plate("data", len(DATA)):
        part = pyro.sample("part", dist.Bernoulli(0.2 + 0.5 * switch))
        mean = torch.where(part == 1, loc[1], loc[0])
        pyro.sample("x", dist.Normal(mean, 1.0 + switch), obs=DATA / 3)


def latent_below():
    """A continuous latent, of which the prior depends on a discrete one."""
    with pyro.plate("rows", 3):
        wide = pyro.sample("wide", dist.Bernoulli(0.3))
        z = pyro.sample("z", dist.Normal(0.0, torch.where(wide == 1, 5.0, 0.5)))
        pyro.sample("x", dist.Normal(z, 1.0), obs=DATA[:3] / 2)


def chain(steps=4, states=2):
    change = pyro.sample("change", dist.Dirichlet(torch.ones(states, states)).to_event(1))
    with pyro.plate("states", states):
        locs = pyro.sample("locs", dist.Normal(0.0, 5.0))
    x = 0
    for t in pyro.markov(range(steps)):
        x = pyro.sample(f"x_{t}", dist.Categorical(Vindex(change)[..., x, :]))
        pyro.sample(f"y_{t}", dist.Normal(locs[x], 1.0), obs=DATA[t % 5])


def masked_rows():
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("rows", 5), poutine.mask(mask=DATA > 5):
        double = pyro.sample("double", dist.Bernoulli(0.3))
        pyro.sample("x", dist.Poisson(rate * (1 + double)), obs=DATA)


def scaled_rows():
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("rows", 10, subsample=torch.arange(5)):
        double = pyro.sample("double", dist.Bernoulli(0.3))
        pyro.sample("x", dist.Poisson(rate * (1 + double)), obs=DATA)


def batch_without_a_plate():
    """As for NUTS: rows of data that no plate declares, below one site."""
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    double = pyro.sample("double", dist.Bernoulli(0.3))
    pyro.sample("x", dist.Poisson(rate * (1 + double) * torch.ones(5)), obs=DATA)


def alternating():
    """Sites of a for loop, and a factor that ties all of them."""
    odds = pyro.sample("odds", dist.Normal(0.0, 1.0))
    bits = [pyro.sample(f"bit_{i}", dist.Bernoulli(logits=odds)) for i in range(4)]
    pyro.factor("even", -((sum(bits) - 2.0) ** 2))


def run(model):
    with poutine.block():
        return poutine.trace(InitMessenger(init_to_sample)(model)).get_trace()


def target_of(out, nodes):
    shapes = {
        name: biject_to(node["fn"].support).inv(node["value"]).shape
        for name, node in nodes.items()
        if name not in out.names
    }
    packing = Packing(shapes)
    return Target(out, packing, 0.3 * torch.randn(packing.dim, dtype=torch.float64))


def by_hand(model, names, nodes, packing, u, shown=None):
    """All values of all rows of the discrete sites, each a run; of `shown`, one log density each.

    Of a masked row all values count as one, of a scaled plate the log is multiplied.
    """
    values = {}
    for name in packing:
        values[name] = biject_to(nodes[name]["fn"].support)(packing.free(u, name))
    stretch = sum(
        biject_to(nodes[n]["fn"].support).log_abs_det_jacobian(packing.free(u, n), values[n]).sum()
        for n in packing
    )
    cells = [(name, cell) for name in names for cell in range(nodes[name]["value"].numel())]
    kinds = {name: nodes[name]["fn"].enumerate_support(expand=False).reshape(-1) for name in names}
    terms = []
    for choice in itertools.product(*(range(len(kinds[name])) for name, _ in cells)):
        discrete = {name: nodes[name]["value"].clone().reshape(-1) for name in names}
        for (name, cell), index in zip(cells, choice, strict=True):
            discrete[name][cell] = kinds[name][index]
        given = {n: v.reshape(nodes[n]["value"].shape) for n, v in discrete.items()}
        trace = poutine.trace(poutine.condition(model, values | given)).get_trace()
        terms.append(trace.log_prob_sum())
    return torch.stack(terms).logsumexp(0) + stretch


@pytest.fixture(autouse=True)
def float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


MODELS = {
    "mixture": mixture,
    "two sites": two_sites,
    "latent below": latent_below,
    "chain": chain,
    "batch without a plate": batch_without_a_plate,
    "alternating": alternating,
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_densities_and_gradients_are_sums_by_hand(model):
    out, nodes = find_discrete(model, (), {}), dict(run(model).iter_stochastic_nodes())
    nodes = {n: node for n, node in nodes.items() if not node["is_observed"]}
    nodes = {n: node for n, node in nodes.items() if n not in ("data", "components", "rows")}
    nodes.pop("states", None)
    target = target_of(out, nodes)
    assert target.vectorized
    assert not target.random
    u = (0.5 * torch.randn(3, target.dim)).requires_grad_()
    found = target(u)
    exact = torch.stack([by_hand(model, sorted(out.names), nodes, target.packing, x) for x in u])
    torch.testing.assert_close(found, exact)
    gradients = torch.autograd.grad(found.sum(), u)[0], torch.autograd.grad(exact.sum(), u)[0]
    torch.testing.assert_close(*gradients)


def test_a_hidden_row_counts_nothing_and_a_scale_multiplies_the_logarithm():
    u = torch.tensor([0.3])
    rate = u.exp()
    prior = dist.Gamma(2.0, 1.0).log_prob(rate) + u
    chances = torch.tensor([0.7, 0.3])
    counts = dist.Poisson(rate * torch.tensor([[1.0], [2.0]]))
    rows = (counts.log_prob(DATA).exp().T @ chances).log()
    for model, exact in (
        (masked_rows, prior + rows[DATA > 5].sum()),
        (scaled_rows, prior + 2 * rows.sum()),
    ):
        out = find_discrete(model, (), {})
        target = Target(out, Packing({"rate": torch.Size([])}), u)
        torch.testing.assert_close(target(u), exact.squeeze())


def test_states_that_cannot_be_reached_have_no_gradient_rather_than_none_at_all():
    """Logits of minus infinity: in the sum, a logarithm of zero."""

    def model():
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        x = pyro.sample("x", dist.Categorical(logits=torch.tensor([0.0, -torch.inf, 1.0])))
        pyro.sample("y", dist.Normal(loc + x, 1.0), obs=torch.tensor(0.5))

    u = torch.tensor([[0.2], [1.0]]).requires_grad_()
    target = Target(find_discrete(model, (), {}), Packing({"loc": torch.Size([])}), u[0].detach())
    chances = torch.tensor([1.0, torch.e]) / (1 + torch.e)
    parts = dist.Normal(u + torch.tensor([0.0, 2.0]), 1.0).log_prob(torch.tensor(0.5)).exp()
    exact = (parts @ chances).log() + dist.Normal(0.0, 1.0).log_prob(u[:, 0])
    torch.testing.assert_close(target(u), exact)
    gradients = [torch.autograd.grad(value.sum(), u)[0] for value in (target(u), exact)]
    torch.testing.assert_close(*gradients)


def test_a_markov_chain_takes_operations_in_proportion_to_its_length():
    def operations(steps):
        model = lambda: chain(steps, states=3)  # noqa: E731
        out = find_discrete(model, (), {})
        packing = Packing({"change": torch.Size([3, 2]), "locs": torch.Size([3])})
        u = torch.zeros(4, packing.dim)
        with pyro.validation_enabled(False):
            return len(record(Target(out, packing, u[0]), [u]).calls)

    short, middle, long = (operations(steps) for steps in (10, 30, 50))
    assert long - middle == pytest.approx(middle - short, rel=0.02)
    assert long < 5.5 * short


def test_a_long_chain_has_more_sites_than_there_are_letters():
    model = lambda: chain(120, states=2)  # noqa: E731
    out = find_discrete(model, (), {})
    assert len(out.names) == 120
    packing = Packing({"change": torch.Size([2, 1]), "locs": torch.Size([2])})
    u = torch.tensor([0.3, -0.2, 1.0, 10.0])
    change, locs = biject_to(dist.constraints.simplex)(u[:2].reshape(2, 1)), u[2:]
    forward = change[0].log()
    for t in range(120):
        here = dist.Normal(locs, 1.0).log_prob(DATA[t % 5])
        before = forward if t == 0 else (forward.unsqueeze(-1) + change.log()).logsumexp(0)
        forward = here + before
    to_simplex = biject_to(dist.constraints.simplex)
    exact = forward.logsumexp(0) + dist.Normal(0.0, 5.0).log_prob(locs).sum()
    exact = exact + to_simplex.log_abs_det_jacobian(u[:2].reshape(2, 1), change).sum()
    torch.testing.assert_close(Target(out, packing, u)(u), exact)


# ---------------------------------------------------------------- draws


def test_draws_of_two_sites_are_those_of_bayes_formula():
    """Together, not each by itself: the class of a row goes with the switch."""
    out = find_discrete(two_sites, (), {})
    values = {"chance": torch.tensor(0.4), "loc": torch.tensor([0.5, 3.0])}
    joint = torch.zeros(2, 2**5)
    for switch in range(2):
        for index, parts in enumerate(itertools.product([0.0, 1.0], repeat=5)):
            given = {"switch": torch.tensor(float(switch)), "part": torch.tensor(parts)}
            model = poutine.condition(two_sites, values | given)
            joint[switch, index] = poutine.trace(model).get_trace().log_prob_sum()
    exact = joint.reshape(-1).softmax(0).reshape(joint.shape)
    pyro.set_rng_seed(0)
    n = 4000
    runs = Many(lambda _: (torch.zeros(()), out.drawn(values, (), {})), random=True)
    drawn = runs(n)[1]
    switch, part = drawn["switch"], drawn["part"]
    assert runs.vectorized
    assert switch.shape == (n,)
    assert part.shape == (n, 5)
    cells = switch * 32 + part @ torch.tensor([16.0, 8.0, 4.0, 2.0, 1.0])
    share = torch.bincount(cells.long(), minlength=64).reshape(2, 32) / n
    assert (share - exact).abs().max() < 4 * 0.5 / n**0.5  # four standard errors, at most


def test_values_are_those_of_the_site_also_where_there_is_only_one():
    def model():
        rate = pyro.sample("rate", dist.Beta(1.0, 1.0))
        only = pyro.sample("only", dist.Categorical(torch.ones(1)))
        with pyro.plate("rows", 3, dim=-2), pyro.plate("columns", 1, dim=-1):
            kind = pyro.sample("kind", dist.OneHotCategorical(torch.ones(4)))
            pyro.sample("x", dist.Bernoulli(rate * kind[..., 0] + 0 * only), obs=torch.ones(3, 1))

    drawn = find_discrete(model, (), {}).drawn({"rate": torch.tensor(0.5)}, (), {})
    assert drawn["only"].shape == ()
    assert torch.equal(drawn["kind"], torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(3, 1, 4))


# ---------------------------------------------------------------- the model without them


def test_what_runs_a_model_can_run_it_without_its_discrete_sites():
    out = SummedOut(two_sites, ["switch", "part"], 1)
    trace = poutine.trace(out).get_trace()
    assert set(trace.stochastic_nodes) == {"chance", "loc", "data"}
    assert "the sum over part, switch" in trace.observation_nodes
