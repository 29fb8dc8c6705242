"""Pictures: what they show, and that they leave matplotlib as it was."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal

from pyro_nf.flows.formula import make_flow
from pyro_nf.posterior import plots
from pyro_nf.posterior.posterior import Posterior

matplotlib = pytest.importorskip("matplotlib")
from matplotlib import pyplot  # noqa: E402  # after the skip


@pytest.fixture(autouse=True)
def quiet_matplotlib(tmp_path, monkeypatch):
    """A backend without a screen, no show, settings that must stay, figures that are drawn."""
    monkeypatch.setattr(pyplot, "show", lambda *_: pytest.fail("a figure was shown"))
    pyplot.switch_backend("agg")
    before = dict(matplotlib.rcParams)
    yield
    for number in pyplot.get_fignums():
        pyplot.figure(number).savefig(tmp_path / "picture.png", dpi=40)
    pyplot.close("all")
    assert dict(matplotlib.rcParams) == before


def lines(figure, label):
    axes = figure.axes[0]
    line = next(line for line in axes.lines if line.get_label().startswith(label))
    return torch.as_tensor(line.get_xdata()), torch.as_tensor(line.get_ydata())


def test_loss_shows_the_mean_and_its_error():
    steps = torch.arange(1000.0)
    losses = 10 + 5 * torch.exp(-steps / 100) + 0.5 * torch.randn(1000)
    losses[[3, 500]] = math.nan
    losses[0] = 1e6
    figure = plots.loss(losses)
    x, mean = lines(figure, "mean of 20")
    assert x.tolist() == list(range(19, 1000))
    # The mean of 20 losses of sd 0.5: 5 standard errors, and the slope of the curve.
    assert (mean[100:] - (10 + 5 * torch.exp(-(x[100:] - 9.5) / 100))).abs().max() < 0.6
    # Two standard errors of 20 losses of sd 0.5 on either side; the mean of some 40 windows
    # that share no loss has an error of 3 %, and a window's own sd is low by 4 %.
    band = torch.as_tensor(figure.axes[0].collections[0].get_paths()[0].vertices)
    widths = [band[band[:, 0] == step, 1].aminmax() for step in range(550, 990)]
    width = float(torch.stack([most - least for least, most in widths]).mean())
    assert width == pytest.approx(4 * 0.5 / math.sqrt(20), rel=0.15)
    low, high = figure.axes[0].get_ylim()
    assert high < 20  # not 1e6
    assert low < 9.5
    assert lines(figure, "each step")[0].shape == (998,)


def test_loss_of_a_short_run():
    figure = plots.loss(torch.tensor([3.0, 2.0]))
    assert lines(figure, "each step")[1].tolist() == [3.0, 2.0]
    with pytest.raises(ValueError, match=r"at least two steps, got a shape of \(1,\)"):
        plots.loss(torch.ones(1))


def test_pairs_with_a_reference():
    draws = {"a": torch.randn(500), "b": torch.randn(500, 2)}
    reference = {"a": torch.randn(300) + 5, "b": torch.randn(300, 2)}
    figure = plots.pairs(draws, reference)
    grid = [axes for axes in figure.axes if axes.axison]
    assert len(grid) == 6  # three histograms, three scatter plots
    first = grid[1]  # b[0] against a
    assert first.get_ylabel() == "b[0]"
    reference_points, points = (c.get_offsets() for c in first.collections)
    assert len(points) == 500
    assert float(points[:, 0].mean()) == pytest.approx(0.0, abs=0.3)
    assert float(reference_points[:, 0].mean()) == pytest.approx(5.0, abs=0.3)  # beneath
    low, high = first.get_xlim()
    assert low < -1.5
    assert high > 6.5
    assert [text.get_text() for text in figure.legends[0].texts] == ["reference", "draws"]


def test_pairs_of_many_numbers_and_of_one():
    figure = plots.pairs({"z": torch.randn(50, 30)})
    assert sum(axes.axison for axes in figure.axes) == 8 * 9 / 2
    assert "8 of 30 numbers" in figure.get_suptitle()
    figure = plots.pairs({"z": torch.randn(50, 30), "a": torch.ones(50)}, sites=["a"])
    assert len(figure.axes) == 1
    with pytest.raises(ValueError, match="no site 'c'; the sites are a"):
        plots.pairs({"a": torch.ones(5)}, sites=["c"])


def test_khat_shows_the_tail_and_its_fit():
    weights = dist.Exponential(1 / 0.6).sample((4000,))  # k = 0.6
    figure = plots.khat(weights)
    assert figure.axes[0].get_title().startswith("k-hat = 0.")
    x, share = lines(figure, "the")
    assert len(x) == 190
    assert float(share[0]) == pytest.approx(0.5 / 4000)
    ours, fit = lines(figure, "Pareto")
    # The fitted line passes through the tail: half way down, within 5 s.e. of 95 points.
    middle = float(x[95])
    nearest = fit[(ours - middle).abs().argmin()]
    assert float(nearest) == pytest.approx(float(share[95]), rel=0.5)
    assert plots.khat(torch.zeros(1000)).axes[0].get_title().startswith("k-hat = -inf")
    assert "correct draws below 0.67" in plots.khat(3 * torch.randn(1000)).axes[0].get_title()
    with pytest.raises(ValueError, match="0 finite ones"):
        plots.khat(torch.full((10,), math.nan))


def height(figure):
    (mesh,) = [c for c in figure.axes[0].collections if hasattr(c, "get_coordinates")]
    return torch.as_tensor(mesh.get_array().data).reshape(plots.GRID, plots.GRID)


def test_density_is_a_density():
    """It integrates to one, whatever the picture is of, and y runs upwards."""
    flow = make_flow("planar*2 + diag", 2)
    with torch.no_grad():
        flow.flows[-1].params.theta[:2] = torch.tensor([0.0, 3.0])
    normal = dist.MultivariateNormal(torch.tensor([0.0, 3.0]), torch.eye(2))
    bounds = ((-5.0, 5.0), (-2.0, 8.0))
    cell = (10 / (plots.GRID - 1)) ** 2
    for target in (flow, normal, normal.log_prob):
        table = height(plots.density(target, bounds))
        assert float(table.sum() * cell) == pytest.approx(1.0, abs=1e-2)
        assert table.sum(1)[: plots.GRID // 4].sum() < table.sum(1)[plots.GRID // 3 :].sum() / 10
    around = plots.density(normal).axes[0].get_ylim()
    assert -1 < around[0] < 1 < 5 < around[1] < 7
    with pytest.raises(ValueError, match="two dimensions, and this has 3"):
        plots.density(make_flow("planar", 3))
    with pytest.raises(ValueError, match="give bounds or draws"):
        plots.density(normal.log_prob)
    for other in (3, AutoNormal(model)):  # which has no vector, and is callable
        with pytest.raises(TypeError, match="expected a flow"):
            plots.density(other)


def model():
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("s", dist.LogNormal(x, 0.5))


def test_pictures_of_a_posterior():
    guide = AutoDiagonalNormal(model)
    guide()
    posterior = Posterior(model, guide)
    posterior.losses = torch.randn(100)
    state = torch.get_rng_state()
    assert plots.density(guide).axes  # in unconstrained coordinates
    assert torch.equal(state, torch.get_rng_state())
    assert len(posterior.plot().axes) == 4
    assert posterior.plot("loss", window=5).axes[0].lines[1].get_label() == "mean of 5 steps"
    assert posterior.plot("khat", n=500).axes
    figure = posterior.plot("density", bounds=((-3.0, 3.0), (-1.0, 5.0)))
    assert figure.axes[0].get_xlabel() == "x"
    table = height(figure)
    assert float(table[: plots.GRID // 6].sum()) == 0.0  # s < 0
    cell = 36 / (plots.GRID - 1) ** 2
    assert float(table.sum() * cell) == pytest.approx(1.0, abs=0.02)
    other = Posterior(model, prepared(AutoNormal(model)))
    assert other.plot("density").axes


def prepared(guide):
    guide()
    return guide
