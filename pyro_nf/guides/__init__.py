"""Pyro autoguides made of flows.

`AutoFlowGuide` has one posterior for all latents of a model, `AmortizedFlowGuide` one for each row
of a plate, made by an encoder. Wherever Pyro takes an autoguide it takes these. Whoever needs to
know which guide it is asks the guide.

    auto_flow.py       the guide of global latents
    vector_guide.py    what that guide is once its flow is made
    noise.py           the auxiliary noise of a guide
    auxiliary.py       a flow of more numbers than there are latents
    hamiltonian.py     leapfrog steps between the noise and the flow
    parts.py           the sites to which a guide gives its flow, and what the others get
    points.py          latent sites at one point each
    default_flow.py    the flow of a guide that is given none
    amortized.py       the guide of latents that each row has
    flow_guide.py      what both share: names, model, copies
    layers.py          the layers of a guide, and the coordinates in which they are trained
    hierarchy.py       normal latents by what is left of them once their parents are known
    find_hierarchy.py  which latents are normal given others
    plates.py          the rows of a plate, and how their latents pack
    supports.py        supports that depend on other latents
    features.py        a context that is a linear function of features
    param_store.py     a guide's entries in Pyro's parameter store

**Hierarchies are untied.** The conditional of a normal latent given its parents is known from the
model, but for what data say of it, which one Hessian tells. With it a flow need not learn a funnel,
or a banana. The ties are numbers, found once at the warm start by runs of the model beside a point:
a guide needs no run of the model to draw, and its file no more than tensors. Of the coordinates
with and without ties the warm start takes those with the better bound.

**A density that is a bound.** With noise beside that of the latents, of leapfrog steps or auxiliary
variables, a guide is an ordinary bijection of all the noise, and a reverse model of what is left of
it given the latents: `FlowMarginal` of `flows`. Its draws have the density of their paths, so that
nothing else has to know: the ELBO is a bound, weights are unbiased, and only who scores other
values has an estimate. Steps follow the data of `setup`, not those of a call: for predictions a
guide is called with data that nobody has observed.

**The amortized guide asks the model for its plate.** At each call it runs the model as far as the
first local latent site and takes size and index from the plate there, so that explicit, drawn and
changing subsamples are followed, and densities scaled as the model scales them. In a traced step
that is recorded once.
"""

from pyro_nf.guides.amortized import AmortizedFlowGuide as AmortizedFlowGuide
from pyro_nf.guides.auto_flow import AutoFlowGuide as AutoFlowGuide
from pyro_nf.guides.flow_guide import FlowGuide as FlowGuide
from pyro_nf.guides.flow_guide import Gradient as Gradient
from pyro_nf.guides.flow_guide import flow_parts as flow_parts
from pyro_nf.guides.flow_guide import name_apart as name_apart
from pyro_nf.guides.hierarchy import Hierarchy as Hierarchy
