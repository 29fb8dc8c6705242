"""Normalizing-flow posteriors for any Pyro model."""

from pyro_nf import flows, testing
from pyro_nf.flow import Chain, Flow, FlowDistribution
from pyro_nf.guide import AutoFlowGuide
from pyro_nf.nets import MLP, Params
from pyro_nf.registry import flow_names, make_flow, register

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "AutoFlowGuide",
    "Chain",
    "Flow",
    "FlowDistribution",
    "Params",
    "flow_names",
    "flows",
    "make_flow",
    "register",
    "testing",
]
