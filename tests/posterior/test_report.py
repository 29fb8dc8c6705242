"""The page about a posterior: what it says, for whom, and that it needs nothing from elsewhere."""

import re
from html.parser import HTMLParser

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from pyro_nf import Posterior, fit
from pyro_nf.posterior.report import _moved, _statistics

pytest.importorskip("matplotlib")

Y = torch.tensor([0.3, 1.2, -0.4, 0.8])
VOID = {"meta", "img"}


def model(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y <&>", dist.Normal(mean, 1.0), obs=y)


class Page(HTMLParser):
    """Headings, alternatives of pictures, and whether each tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.headings, self.pictures = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.pictures.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


@pytest.fixture(scope="module")
def fitted():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return fit(model, Y, seed=0, progress=False, refine=True)


@pytest.fixture(scope="module")
def text(fitted, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "posterior.html"
    with torch.random.fork_rng():
        fitted.label({"rows": list("abcd")}).report(path, n=400)
    return path.read_text(encoding="utf-8")


def test_it_has_all_its_parts_and_is_well_formed(text):
    page = Page(text)
    assert not page.open
    assert page.headings == [
        "Posterior of model",
        "Numbers",
        "Densities",
        "Pairs of the worst numbers",
        "Chains",
        "Weights",
        "Training",
        "Predictive check of y <&>",
        "What was run",
    ]
    assert "<strong>Good</strong>" in text
    assert "log evidence" in text
    assert f"torch {torch.__version__}" in text


def test_it_needs_nothing_from_elsewhere(text):
    page = Page(text)
    assert len(page.pictures) == 6
    for picture in page.pictures:
        assert picture["src"].startswith("data:image/svg+xml;base64,")
        assert len(picture["alt"]) > 10
    assert "<script" not in text
    assert "<link" not in text
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)
    assert "url(" not in text


def test_no_figure_is_left_open(text):
    from matplotlib import pyplot

    assert not pyplot.get_fignums()


def test_a_guide_alone_has_a_page_too(tmp_path):
    guide = AutoNormal(model)
    guide(Y)
    Posterior(model, guide, Y).report(tmp_path / "page.html", n=200)
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "Chains" not in page.headings
    assert "Training" not in page.headings


def test_without_weights_there_is_no_verdict(tmp_path):
    def part(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 100, subsample_size=len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    guide = AutoNormal(part)
    guide(Y)
    Posterior(part, guide, Y).report(tmp_path / "page.html", n=200)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "No verdict." in text
    assert Page(text).headings[-1] == "What was run"


def test_draws_without_a_weight_are_left_out_and_a_poor_posterior_is_called_so(tmp_path):
    def positive(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.factor("positive", torch.where(mean > 0, 0.0, -torch.inf))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    guide = AutoNormal(positive)
    guide(Y)
    Posterior(positive, guide, Y).report(tmp_path / "page.html", n=400)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<strong>Poor</strong>" in text
    assert "Weights" in Page(text).headings


def test_the_worst_numbers_are_those_that_weights_move():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 4000, generator=generator, dtype=torch.float64)
    moved = _moved({"a": a, "b": b}, 0.5 * b)  # for which b is N(0.5, 1)
    assert moved["a"] < 0.1
    assert moved["b"] == pytest.approx(0.5, abs=0.1)


def test_statistics_are_beside_those_of_replications():
    rows = list(_statistics(torch.tensor([0.0, 10.0]).double(), torch.zeros(20, 2).double()))
    shares = {name: share for name, *_, share in rows[1:]}
    assert shares == {"mean": "0%", "sd": "0%", "smallest": "50%", "largest": "0%"}
    alone = list(_statistics(torch.zeros(1).double(), torch.ones(20, 1).double()))
    assert alone[1] == ["value", "0", "1", "1", "100%"]
