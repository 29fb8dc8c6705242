"""The flows that come with pyro_nf, one family a file; importing one registers it."""

from pyro_nf.flows.affine_coupling import AdditiveCoupling, AffineCoupling
from pyro_nf.flows.iaf import IAF
from pyro_nf.flows.linear import Diag, Householder, Permute, Tril
from pyro_nf.flows.planar import Planar
from pyro_nf.flows.radial import Radial
from pyro_nf.flows.spline_coupling import SplineCoupling
from pyro_nf.flows.sylvester import Sylvester
from pyro_nf.flows.tails import Tails

__all__ = [
    "IAF",
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
