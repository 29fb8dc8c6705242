"""Normalizing-flow posteriors for any Pyro model.

A model becomes a log density (`pyro_nf.model`); a flow bends noise (`pyro_nf.flows`) inside a Pyro
guide (`pyro_nf.guides`); `pyro_nf.fitting` moves it there; `pyro_nf.posterior` says what came out;
`pyro_nf.sampling` and `pyro_nf.engines` serve them; `pyro_nf.studies` says what many fits tell
together. The names below are what users type; the folders have doors of their own, for those who
change them.
"""

from pyro_nf import files, flows, testing
from pyro_nf.fitting import FitError, fit
from pyro_nf.flows import (
    MLP,
    Chain,
    Flow,
    FlowDistribution,
    Params,
    flow_names,
    make_flow,
    register,
)
from pyro_nf.guides import AmortizedFlowGuide, AutoFlowGuide
from pyro_nf.posterior import Posterior, plots
from pyro_nf.studies import Calibration, Comparison, calibrate, compare

__version__ = files.VERSION

__all__ = [
    "MLP",
    "AmortizedFlowGuide",
    "AutoFlowGuide",
    "Calibration",
    "Chain",
    "Comparison",
    "FitError",
    "Flow",
    "FlowDistribution",
    "Params",
    "Posterior",
    "calibrate",
    "compare",
    "fit",
    "flow_names",
    "flows",
    "make_flow",
    "plots",
    "register",
    "testing",
]
