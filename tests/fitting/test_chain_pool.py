"""What fit adds to SVI: recorded functions, chains, a look for several modes, a pool of draws."""

import math
import shutil

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import init_to_value
from torch.distributions import constraints

from pyro_nf import AutoFlowGuide, Flow, fit, make_flow
from pyro_nf.engines.backends import quick
from pyro_nf.engines.graph import tidy
from pyro_nf.engines.record import record
from pyro_nf.engines.tracing import traced
from pyro_nf.fitting.chain_pool import ChainPool
from pyro_nf.fitting.checkpoint import Checkpoint
from pyro_nf.fitting.recipe import RECIPE
from pyro_nf.fitting.step import Step
from pyro_nf.model.log_density import work
from pyro_nf.model.target import Target
from pyro_nf.sampling.chains import chains
from pyro_nf.sampling.modes import explore
from pyro_nf.sampling.normal import climb

DOUBLE = torch.float64


def flat(dim, energy):
    """A model whose log posterior is minus an energy."""

    def model():
        zero = torch.zeros(dim, dtype=DOUBLE)
        u = pyro.sample("u", dist.Normal(zero, 1.0).to_event(1))
        pyro.factor("energy", u.square().sum(-1) / 2 - energy(u))

    return model


def bumps(u):
    """Two normal distributions, of shares 0.7 and 0.3, some eight standard deviations apart."""
    left = -(u - 3.0).square().sum(-1) / 2 + math.log(0.7)
    right = -(u + 3.0).square().sum(-1) / 2 + math.log(0.3)
    return -torch.logaddexp(left, right)


def bent(u):
    """A banana."""
    return u[..., 0].square() / 2 + (u[..., 1] - u[..., 0].square()).square()


def scaled(u):
    return (u / torch.tensor([1.0, 3.0], dtype=DOUBLE)).square().sum(-1) / 2


def target_of(model, flow="diag", **options):
    guide = AutoFlowGuide(model, flow, **options).setup()
    return guide, Target.of(guide)


# ------------------------------------------------------------ record


def test_a_recorded_function_runs_on_other_values():
    weight = torch.randn(3, requires_grad=True)

    def function(x):
        (gradient,) = torch.autograd.grad((weight * x).exp().sum(), weight)  # by its identity
        return gradient.sin()

    x, y = torch.randn(3), torch.randn(3)
    graph = tidy(record(function, [x]))
    torch.testing.assert_close(graph(y)[0], function(y))
    with pytest.warns(DeprecationWarning, match=r"torch.jit"):
        engine = quick(graph, [x])
    torch.testing.assert_close(engine([y]), function(y))


def test_what_does_not_vary_is_a_constant_unless_it_is_written_to():
    def function(x):
        total = torch.zeros(3).exp()
        counted = torch.zeros(3)
        counted += x
        return total + counted

    graph = record(function, [torch.ones(3)])
    for _ in range(2):  # a constant that keeps what was written would grow
        assert graph(torch.ones(3))[0].tolist() == [2.0] * 3
    graph.graph.eliminate_dead_code()
    names = [str(node.target) for node in graph.graph.nodes]
    assert "aten.exp.default" not in names


def test_a_matrix_is_not_transposed_to_and_fro():
    x = torch.randn(2, 3)
    graph = tidy(record(lambda x: x.t().t() @ x.t(), [x]))
    assert [node.target for node in graph.graph.nodes].count(torch.ops.aten.t.default) == 1
    assert torch.equal(graph(x)[0], x @ x.mT)


def test_random_numbers_are_drawn_at_each_run():
    graph = record(lambda x: x + torch.randn(3), [torch.zeros(3)])
    assert not torch.equal(graph(torch.zeros(3))[0], graph(torch.zeros(3))[0])


def test_a_value_taken_out_is_refused_and_the_function_runs_as_it_is():
    def function(x):
        return x * 2 if float(x.sum()) > 0 else x

    with pytest.raises(NotImplementedError, match="takes a value out of a tensor"):
        record(function, [torch.ones(3)])
    assert traced(function, torch.ones(3)) is function
    assert traced(lambda x: x * float(torch.ones(()) + 1), torch.ones(3))(torch.ones(3))[0] == 2


# ------------------------------------------------------------ the mode, chains, modes


def test_the_climb_ends_at_the_mode_of_a_badly_scaled_density():
    scale = torch.logspace(-4, 2, 7, dtype=DOUBLE)

    def log_density(u):
        return -((u - scale) / scale).square().sum(-1) / 2

    found = climb(log_density, torch.zeros(7, dtype=DOUBLE))
    torch.testing.assert_close(found / scale, torch.ones(7, dtype=DOUBLE), rtol=0, atol=1e-3)


def test_chains_draw_from_the_posterior_wherever_they_start():
    torch.manual_seed(0)
    guide, target = target_of(flat(2, scaled), init_scale=1.0)
    draws = chains(target, guide.get_transform(), torch.full((400, 2), 2.0, dtype=DOUBLE))
    # The draws of a chain are alike; there are at least as many free ones as chains.
    error = torch.tensor([1.0, 3.0], dtype=DOUBLE) / 20
    assert bool((draws.mean(0).abs() < 4 * error).all())
    assert bool(((draws.std(0) / torch.tensor([1.0, 3.0]) - 1).abs() < 4 / 28).all())


def test_chains_go_on_where_the_numerics_of_one_fail():
    torch.manual_seed(0)
    guide, target = target_of(flat(1, lambda u: u.square().sum(-1) / 2), init_scale=1.0)
    failed = []

    def fragile(u):
        if bool((u.abs() > 3.5).any()):
            failed.append(u)
            raise torch.linalg.LinAlgError("the input is not positive-definite")
        return target(u)

    draws = chains(fragile, guide.get_transform(), torch.zeros(64, 1, dtype=DOUBLE))
    assert failed
    assert float(draws.abs().max()) <= 3.5
    # There are at least as many free draws as chains.
    assert abs(float(draws.std()) - 1) < 4 / math.sqrt(2 * 64)


def test_several_modes_are_found_with_their_shares():
    torch.manual_seed(0)
    _, target = target_of(flat(3, bumps))
    middle = torch.full((3,), 3.0, dtype=DOUBLE)  # what a normal approximation knows: one mode
    draws, modes = explore(target, middle, torch.eye(3, dtype=DOUBLE), 4000)
    assert modes == 2
    share = (draws.mean(-1) > 0).double().mean()
    assert abs(share - 0.7) < 0.05


@pytest.mark.parametrize("seed", range(4))
def test_a_mode_is_found_to_which_one_climb_in_two_hundred_leads(seed):
    torch.manual_seed(seed)
    centre = torch.tensor([6.8, 7.8, -4.4, 3.8, -1.3], dtype=DOUBLE)

    def far_and_narrow(u):
        near = -u.square().sum(-1) / 2 + math.log(0.7)
        far = -((u - centre) / 0.5).square().sum(-1) / 2 + math.log(0.3 / 0.5**5)
        return -torch.logaddexp(near, far)

    _, target = target_of(flat(5, far_and_narrow))
    found = explore(target, torch.zeros(5, dtype=DOUBLE), torch.eye(5, dtype=DOUBLE), 4000)
    assert found is not None
    draws, modes = found
    assert modes == 2
    share = ((draws - centre).norm(dim=-1) < 6).double().mean()
    assert abs(share - 0.3) < 0.05


def test_one_mode_is_left_alone():
    torch.manual_seed(0)
    _, target = target_of(flat(2, scaled))
    assert explore(target, torch.zeros(2, dtype=DOUBLE), torch.eye(2, dtype=DOUBLE), 100) is None


def test_fit_covers_both_modes():
    posterior = fit(flat(2, bumps), seed=0, progress=False)
    share = float((posterior.draws(4000)["u"].mean(-1) > 0).double().mean())
    assert abs(share - 0.7) < 0.05
    assert "there are 2 modes" in posterior.message
    assert posterior.diagnose(4000).elbo > -0.1  # the log evidence is 0


# ------------------------------------------------------------ the pool


def test_work_counts_what_a_point_costs():
    def squares(times):
        return lambda u: sum((u * k).square().sum(-1) for k in range(1, times + 1))

    points = torch.randn(16, 3)
    one, ten = work(squares(1), points), work(squares(10), points)
    assert one >= 3 + 3 + 1  # products, squares and their sum; and the gradients
    assert 5 * one < ten < 20 * one
    assert work(squares(1), points[:4]) == pytest.approx(one, rel=0.2)
    assert work(lambda u: u.sum(-1) * float(u.sum()), points) == math.inf  # leaves the graph


def filled(flow, model, particles=16):
    guide, target = target_of(model, flow)
    pool = ChainPool(guide, target, particles, RECIPE)
    pool.fill()
    return guide, pool


def test_there_is_no_pool_where_there_can_be_none():
    class Silent(Flow):
        """Moves nothing, and does not carry the score."""

        def __init__(self, dim, context_dim=0):
            super().__init__(dim, context_dim)
            self.shift = torch.nn.Parameter(torch.zeros(dim, dtype=DOUBLE))

        def forward_and_log_det(self, x, context=None):
            return x + self.shift, torch.zeros_like(x[..., 0])

    with pytest.warns(UserWarning, match="no forward_and_score"):
        guide, _ = target_of(flat(2, scaled), [Silent(2)])
    assert not ChainPool.is_possible(guide, Target.of(guide))
    guide, _ = target_of(flat(2, scaled), gradient="total")
    assert not ChainPool.is_possible(guide, Target.of(guide))


def test_a_step_takes_another_objective_in_every_tier():
    torch.manual_seed(0)
    model = flat(2, scaled)
    guide, pool = filled("affine_coupling*2", model)
    elbo = pyro.infer.Trace_ELBO(8, vectorize_particles=True, max_plate_nesting=0)
    step = Step(elbo, model, guide)
    assert step.compile("quick")
    step.use_objective(pool.objective)
    assert step.tier == "quick", step.reason
    before = pool.draws.clone()
    pool.refill()
    assert not torch.equal(before, pool.draws)
    eager = Step(elbo, model, guide)
    eager.use_objective(pool.objective)
    starts = step.parameters()
    ends = []
    for one in (step, eager):
        one.set_parameters(starts)
        torch.manual_seed(1)
        one(1e-3)
        ends.append(one.parameters())
    assert torch.allclose(*ends, rtol=1e-10, atol=1e-12)


def test_chains_start_where_the_numerics_do_not_fail():
    def picky(u):
        if bool((u[..., 0] > 1).any()):
            raise ValueError("too large")
        return u.square().sum(-1) / 2

    torch.manual_seed(0)
    at_zero = init_to_value(values={"u": torch.zeros(2, dtype=DOUBLE)})
    pool = ChainPool(*target_of(flat(2, picky), init_scale=1.0, init_loc_fn=at_zero), 32, RECIPE)
    pool.fill()
    assert float(pool.draws[:, 0].max()) <= 1


def test_a_pool_stays_empty_where_no_point_is_possible():
    class Nowhere:
        """A log density that is nowhere finite."""

        dim, vectorized = 2, True

        def __call__(self, u):
            return u.sum(-1) * math.nan

    guide, _ = target_of(flat(2, bent))
    pool = ChainPool(guide, Nowhere(), 16, RECIPE)
    pool.explore()
    assert not pool.is_of_several_modes
    assert pool.draws is None
    assert not pool.fill()
    assert pool.draws is None
    assert pool.words() == []


def test_a_fit_goes_on_without_a_pool_that_its_step_refuses(monkeypatch, change):
    change(rounds=(100, 200, 300))
    monkeypatch.setattr(Step, "use_objective", lambda self, objective: False)
    posterior = fit(flat(2, bent), seed=0, progress=False)
    assert posterior.message.startswith("finished after 600 steps")


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    ("rows", "particles", "times"), [(100, 64, RECIPE.refills), (20_000, 16, RECIPE.refills[-1:])]
)
def test_a_dear_model_has_few_particles_and_chains_that_go_on_once(
    monkeypatch, rows, particles, times, whole
):
    """However its rows are written: as a plate, or as one event."""

    def model():
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=DOUBLE), 1.0).to_event(1))
        data = torch.ones(rows, dtype=DOUBLE)
        if whole:
            like = dist.Normal(z.sum(-1, keepdim=True).expand(*z.shape[:-1], rows), 1.0)
            pyro.sample("y", like.to_event(1), obs=data)
        else:
            with pyro.plate("rows", rows):
                pyro.sample("y", dist.Normal(z.sum(-1), 1.0), obs=data)

    def stop(pool):
        raise KeyboardInterrupt(pool)

    monkeypatch.setattr(ChainPool, "explore", stop)
    with pytest.raises(KeyboardInterrupt) as found:
        fit(model, seed=0, progress=False)
    (pool,) = found.value.args
    assert pool.particles == particles
    assert pool.refills == times


def test_improper_priors_are_explored_too():
    def model():
        u = pyro.sample("u", dist.ImproperUniform(constraints.real_vector, (), (2,)))
        pyro.factor("energy", -bumps(u))

    start = init_to_value(values={"u": torch.full((2,), 3.0, dtype=DOUBLE)})
    guide = AutoFlowGuide(model, make_flow("diag", 2), init_loc_fn=start, init_scale=1.0).setup()
    torch.manual_seed(0)
    assert ChainPool.is_possible(guide, Target.of(guide))
    pool = ChainPool(guide, Target.of(guide), 16, RECIPE)
    pool.explore()
    assert pool.is_of_several_modes


def keep_killed(tmp_path, monkeypatch, at):
    """Keep the file of a fit as a kill after so many steps would leave it."""
    save = Checkpoint.save

    def save_and_keep(self, content):
        save(self, content)
        if len(content["state"]["losses"]) == at:
            shutil.copy(self.path, tmp_path / "killed")

    monkeypatch.setattr(Checkpoint, "save", save_and_keep)


@pytest.mark.parametrize(
    ("energy", "at"),
    # While the pool is filled; for one mode before that, between its six refills and after them.
    [(bumps, 600), (bent, 400), (bent, 500), (bent, 800)],
)
def test_a_fit_that_learns_from_a_pool_resumes_to_the_last_bit(
    tmp_path, monkeypatch, change, energy, at
):
    change(save_every=0.0, rounds=(200, 200, 500), exact=0.0)
    keep_killed(tmp_path, monkeypatch, at)
    options = {"seed": 0, "progress": False}
    refill = ChainPool.refill
    refills = []

    def refill_and_count(self):
        refills.append(self)
        refill(self)

    monkeypatch.setattr(ChainPool, "refill", refill_and_count)
    whole = fit(flat(2, energy), checkpoint=tmp_path / "whole", **options)
    assert len(whole.losses) > at
    assert len(refills) == (6 if energy is bent else 0)
    resumed = fit(flat(2, energy), checkpoint=tmp_path / "killed", **options)
    assert len(refills) == (0 if energy is bumps else {400: 12, 500: 10, 800: 6}[at])
    assert torch.equal(whole.losses, resumed.losses)
    assert torch.equal(whole.guide.median()["u"], resumed.guide.median()["u"])


def test_an_annealed_fit_that_learns_from_a_pool_resumes_to_the_last_bit(
    tmp_path, monkeypatch, change
):
    """What its step trains changes with the last round, in which it is killed."""
    change(save_every=0.0, rounds=(100, 100, 300), exact=0.0)
    keep_killed(tmp_path, monkeypatch, 350)
    options = {"seed": 0, "progress": False, "anneal": "energy", "anneal_steps": 100}
    whole = fit(flat(2, bent), checkpoint=tmp_path / "whole", **options)
    assert len(whole.losses) == 600
    resumed = fit(flat(2, bent), checkpoint=tmp_path / "killed", **options)
    assert torch.equal(whole.losses, resumed.losses)
