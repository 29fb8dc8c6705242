"""Normalizing-flow posteriors for any Pyro model."""

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

__version__ = files.VERSION

__all__ = [
    "MLP",
    "AmortizedFlowGuide",
    "AutoFlowGuide",
    "Chain",
    "FitError",
    "Flow",
    "FlowDistribution",
    "Params",
    "Posterior",
    "fit",
    "flow_names",
    "flows",
    "make_flow",
    "plots",
    "register",
    "testing",
]
