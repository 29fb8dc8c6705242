"""What a guide says of itself, so that nobody else has to know which one it is."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuideList, AutoNormal
from torch import nn

from pyro_nf import AmortizedFlowGuide, AutoFlowGuide
from pyro_nf.flows import Planar
from pyro_nf.guides import flow_parts

X = torch.randn(5, 1)


def model(x):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


def hidden(*names):
    return poutine.block(model, hide=list(names))


def amortized():
    return AmortizedFlowGuide(hidden("mu"), nn.Linear(1, 3), "planar*2", name="mine")


def test_a_formula_makes_a_guide_again():
    guide = AutoFlowGuide(hidden("z"), "planar*2").setup(X)
    assert guide.formula == "planar*2"
    assert AutoFlowGuide(hidden("z"), Planar).formula is None
    assert amortized().formula is None  # there is an encoder besides


def test_rows_that_have_posteriors_of_their_own():
    guide = amortized().setup(X)
    assert guide.row_plates == ("rows",)
    assert guide.local_sites == guide.sites == {"z"}
    everything = AutoFlowGuide(model).setup(X)
    assert (everything.row_plates, everything.local_sites) == ((), frozenset())


def test_a_prefix_is_without_a_number():
    first, second = AutoFlowGuide(model), AutoFlowGuide(model)
    assert first.prefix == second.prefix == "AutoFlowGuide"
    assert amortized().prefix == "mine"


def test_parts_of_any_guide():
    own, rows = AutoFlowGuide(hidden("z"), "diag"), amortized()
    both = AutoGuideList(model, create_plates=lambda x: pyro.plate("rows", len(x)))
    both.append(own)
    both.append(rows)
    assert flow_parts(own) == [own]
    assert flow_parts(both) == [own, rows]
    assert flow_parts(AutoNormal(model)) == flow_parts(model) == []
