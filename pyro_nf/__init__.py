"""Normalizing-flow posteriors for any Pyro model."""

from pyro_nf import files, flows, testing
from pyro_nf.amortized import AmortizedFlowGuide
from pyro_nf.distribution import FlowDistribution
from pyro_nf.fit import FitError, fit
from pyro_nf.flow import Chain, Flow
from pyro_nf.guide import AutoFlowGuide
from pyro_nf.nets import MLP, Params
from pyro_nf.posterior import Posterior
from pyro_nf.registry import flow_names, make_flow, register

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
    "register",
    "testing",
]
