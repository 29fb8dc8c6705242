"""Pyro autoguides made of flows.

`AutoFlowGuide` has one posterior for all latents of a model, `AmortizedFlowGuide` one for each row
of a plate, made by an encoder. Wherever Pyro takes an autoguide it takes these. Whoever needs to
know which guide it is asks the guide.

    auto_flow.py       the guide of global latents
    amortized.py       the guide of latents that each row has
    flow_guide.py      what both share: names, model, copies
    layers.py          the layers of a guide, and the coordinates in which they are trained
    hierarchy.py       normal latents by what is left of them once their parents are known
    find_hierarchy.py  which latents are normal given others
    plates.py          the rows of a plate, and how their latents pack
    features.py        a context that is a linear function of features
    param_store.py     a guide's entries in Pyro's parameter store
"""

from pyro_nf.guides.amortized import AmortizedFlowGuide as AmortizedFlowGuide
from pyro_nf.guides.auto_flow import AutoFlowGuide as AutoFlowGuide
from pyro_nf.guides.flow_guide import FlowGuide as FlowGuide
from pyro_nf.guides.flow_guide import Gradient as Gradient
from pyro_nf.guides.flow_guide import flow_parts as flow_parts
from pyro_nf.guides.flow_guide import name_apart as name_apart
from pyro_nf.guides.hierarchy import Hierarchy as Hierarchy
