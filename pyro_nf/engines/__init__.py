"""A function as a graph of the operations that it runs, and what runs such a graph.

Whatever is done a thousand times, a step of a fit or of a Markov chain, is recorded once and then
run without its own Python. A graph is compared with the function before it takes its place. Knows
tensors and torch, and nothing of models, flows or guides.

    nodes.py     what a graph is made of
    record.py    one run of a function, written down below autograd
    graph.py     the same without what computes nothing, or nothing new
    kept.py      engines that have been made, for graphs that come again
    source.py    a graph as a Python function of a line for each operation
    backends.py  that function, ready at once; inductor, a few times faster later
    tracing.py   a function by its graph, where that is the same; what must hold while it is traced

**No TorchScript.** It ran a graph in 0.75 to 0.92 of the time of the Python function that does it
now (`benchmarks/steps.py`), was ready later, and torch ends it. What makes the function quick: it
runs below autograd, calls torch's bindings in C++ rather than operations by their schema, and has
tensors where the graph has numbers, of which torch makes a tensor each time.

**Tensors are traced by identity.** While a step is traced, the model and guide run unchanged;
parameters and data are inputs of the graph wherever the code takes them from, because tracing knows
a tensor by its identity. So no parameter has to be substituted. The traced step is then compared
with an eager one of another random state, and refused where they differ.

**A graph is its own key.** A fit records its graphs anew, which takes some hundredths of a second,
and takes the engine of an equal graph if there is one, which saves the rest, and of inductor the
10 to 20 seconds. What a model is made of (its closures, globals, modules, the numbers among its
data, what its control flow makes of them) is then either a tensor, and an input of the engine, or
stands in the graph. No list of such things could have been complete.
"""

from pyro_nf.engines.backends import full as full
from pyro_nf.engines.backends import quick as quick
from pyro_nf.engines.graph import tidy as tidy
from pyro_nf.engines.kept import Engine as Engine
from pyro_nf.engines.nodes import Recorded as Recorded
from pyro_nf.engines.record import UntraceableError as UntraceableError
from pyro_nf.engines.record import record as record
from pyro_nf.engines.tracing import FailuresAreNaN as FailuresAreNaN
from pyro_nf.engines.tracing import NothingLeavesTheGraph as NothingLeavesTheGraph
from pyro_nf.engines.tracing import enumerated_sum as enumerated_sum
from pyro_nf.engines.tracing import traced as traced
