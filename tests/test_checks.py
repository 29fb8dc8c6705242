"""What a user has typed is taken as it is, or refused with what was expected."""

import pyro
import pyro.distributions as dist
import pytest
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import nn

from pyro_nf import AmortizedFlowGuide, AutoFlowGuide, Posterior, fit
from pyro_nf.checks import whole


class Line(PyroModule):
    def __init__(self):
        super().__init__()
        self.slope = PyroSample(dist.Normal(0.0, 1.0))

    def forward(self):
        pyro.sample("y", dist.Normal(self.slope, 1.0), obs=self.slope.new_ones(()))


def model():
    pyro.sample("x", dist.Normal(0.0, 1.0))


def test_a_whole_number_stays():
    assert [whole("n", 1), whole("n", 0, least=0), whole("n", 5, 2, 5)] == [1, 0, 5]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("n", 1.0), TypeError, r"n must be an int, got 1\.0"),
        (("n", True), TypeError, "n must be an int, got True"),
        (("n", "1"), TypeError, "n must be an int, got '1'"),
        (("n", None), TypeError, "n must be an int, got None"),
        (("n", 0), ValueError, "n must be 1 or more, got 0"),
        (("n", -1, 0), ValueError, "n must be 0 or more, got -1"),
        (("n", 6, 2, 5), ValueError, "n must be a whole number from 2 to 5, got 6"),
    ],
)
def test_others_are_refused(arguments, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        whole(*arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit(Line), r"model is the class Line, .*: type Line\(\)"),
        (lambda: Posterior(Line, model), r"type Line\(\)"),
        (lambda: AutoFlowGuide(Line), r"type Line\(\)"),
        (lambda: AmortizedFlowGuide(Line, nn.Linear(1, 1)), r"type Line\(\)"),
        (lambda: fit(model, guide=AutoNormal), r"guide is the class .*: type AutoNormal\(model\)"),
        (lambda: Posterior(model, AutoNormal), r"type AutoNormal\(model\)"),
        (lambda: fit(model, elbo=Trace_ELBO), r"elbo is the class .*: type Trace_ELBO\(\)"),
        (lambda: Posterior.load("none.pt", Line), r"type Line\(\)"),
        (lambda: Posterior.load("none.pt", model, guide=AutoNormal), r"type AutoNormal\(model\)"),
        (lambda: fit(3), "expected a Pyro model, a callable, got 3"),
    ],
)
def test_a_class_in_place_of_an_instance_is_named_as_that(call, message):
    with pytest.raises(TypeError, match=message):
        call()
