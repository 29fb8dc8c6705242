"""Normalizing-flow posteriors for any Pyro model."""

from pyro_nf import files, flows, testing
from pyro_nf.fitting.fit import FitError, fit
from pyro_nf.flows.distribution import FlowDistribution
from pyro_nf.flows.flow import Chain, Flow
from pyro_nf.flows.formula import flow_names, make_flow, register
from pyro_nf.flows.nets import MLP, Params
from pyro_nf.guides.amortized import AmortizedFlowGuide
from pyro_nf.guides.auto_flow import AutoFlowGuide
from pyro_nf.posterior import plots
from pyro_nf.posterior.posterior import Posterior

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
