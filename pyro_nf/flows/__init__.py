"""Flows: bijections of R^D that return value and log-determinant together, and their names.

One contract, `Flow`, has one method to write; all that Pyro and torch ask of a transform is derived
from it. A formula such as ``"planar*8 + tails"`` names flows, and importing a family's file
registers it. Knows nothing of models and guides.

    flow.py             the contract; chains, inverses, and views with a fixed context
    nets.py             parameters and small networks, free or functions of a context
    formula.py          names and formulas: register, make_flow
    distribution.py     what a flow makes of a base distribution, sampled and scored in one pass
    marginal.py         what it makes of a part of it, the rest of which is noise
    fixed_noise.py      standard normal draws that are the same at each call
    adapted.py          plain Pyro and torch transforms as flows
    contract.py         what a flow promises, clause by clause, for check_flow
    embedded.py         a flow on some of the coordinates
    inverses.py         triangular systems, and the root of v + c tanh(v) = t
    coupling.py         what all couplings share
    affine_coupling.py  additive and affine couplings
    spline_coupling.py  couplings by rational-quadratic splines
    planar.py           planar flows
    radial.py           radial flows
    iaf.py              inverse autoregressive flows
    ode.py              differential equations
    sylvester.py        Sylvester flows
    linear.py           diagonal, triangular, Householder and permutation maps
    tails.py            tails, each coordinate by itself

**One tensor a layer, one module a run of layers.** ``"planar*8"`` is one `Planar` of eight layers,
whose parameter-only terms are computed at once. `Params` cuts all tensors of a flow from one
vector, since Pyro visits every parameter at each step, and gives every parameter an optimizer of
its own.

**No caches.** Pyro's transforms remember their last call in order to score a sample, which goes
stale when parameters move. Here the distribution that made a sample keeps its log density; any
other value is scored through the inverse, which every flow has.

**Identity at birth through one parameter.** Planar flows start at u = 0 with planes in all
directions, couplings with a small last layer: the start is the mean-field guide, and gradients are
not zero.

**The path gradient in one pass.** A flow that has `forward_and_score` carries the score of the base
distribution to its output, by the inverse of its transposed Jacobian in closed form. The log
density of a sample is then a constant whose gradient in the sample is that score, and no flow is
inverted or run twice.
"""

from pyro_nf.flows.adapted import Adapted as Adapted
from pyro_nf.flows.adapted import adapt as adapt
from pyro_nf.flows.adapted import walk as walk
from pyro_nf.flows.affine_coupling import AdditiveCoupling as AdditiveCoupling
from pyro_nf.flows.affine_coupling import AffineCoupling as AffineCoupling
from pyro_nf.flows.contract import CLAUSES as CLAUSES
from pyro_nf.flows.contract import DEAD as DEAD
from pyro_nf.flows.contract import POINTS as POINTS
from pyro_nf.flows.contract import SAME as SAME
from pyro_nf.flows.contract import Case as Case
from pyro_nf.flows.contract import birth as birth
from pyro_nf.flows.contract import shapes as shapes
from pyro_nf.flows.coupling import Coupling as Coupling
from pyro_nf.flows.distribution import FlowDistribution as FlowDistribution
from pyro_nf.flows.distribution import OwnSample as OwnSample
from pyro_nf.flows.embedded import Embedded as Embedded
from pyro_nf.flows.flow import Chain as Chain
from pyro_nf.flows.flow import Conditioned as Conditioned
from pyro_nf.flows.flow import Flow as Flow
from pyro_nf.flows.formula import FlowSpec as FlowSpec
from pyro_nf.flows.formula import assemble as assemble
from pyro_nf.flows.formula import flow_label as flow_label
from pyro_nf.flows.formula import flow_names as flow_names
from pyro_nf.flows.formula import make_flow as make_flow
from pyro_nf.flows.formula import register as register
from pyro_nf.flows.iaf import IAF as IAF
from pyro_nf.flows.inverses import solved as solved
from pyro_nf.flows.inverses import times as times
from pyro_nf.flows.linear import Diag as Diag
from pyro_nf.flows.linear import Householder as Householder
from pyro_nf.flows.linear import Permute as Permute
from pyro_nf.flows.linear import Tril as Tril
from pyro_nf.flows.marginal import FlowMarginal as FlowMarginal
from pyro_nf.flows.nets import MLP as MLP
from pyro_nf.flows.nets import Buffers as Buffers
from pyro_nf.flows.nets import Params as Params
from pyro_nf.flows.nets import check_context as check_context
from pyro_nf.flows.ode import ODE as ODE
from pyro_nf.flows.planar import Planar as Planar
from pyro_nf.flows.radial import Radial as Radial
from pyro_nf.flows.spline_coupling import SplineCoupling as SplineCoupling
from pyro_nf.flows.sylvester import Sylvester as Sylvester
from pyro_nf.flows.tails import Tails as Tails

__all__ = [
    "IAF",
    "ODE",
    "AdditiveCoupling",
    "AffineCoupling",
    "Diag",
    "Householder",
    "Permute",
    "Planar",
    "Radial",
    "SplineCoupling",
    "Sylvester",
    "Tails",
    "Tril",
]
