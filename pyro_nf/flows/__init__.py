"""The flows that come with pyro_nf, one family a file; importing one registers it."""

from pyro_nf.flows.coupling import AdditiveCoupling
from pyro_nf.flows.linear import Diag, Householder, Permute, Tril
from pyro_nf.flows.planar import Planar
from pyro_nf.flows.radial import Radial

__all__ = ["AdditiveCoupling", "Diag", "Householder", "Permute", "Planar", "Radial", "Tril"]
