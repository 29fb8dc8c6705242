"""The user's model as a function of many points.

A model is written for one draw; here it is run at many, each as if it were alone, and what it
raises where its numerics fail is NaN for that draw. Its latents are one unconstrained vector, its
density one number. The only folder, besides the step of a fit, in which a model's errors are
caught.

    target.py       the log density of a model over one unconstrained vector
    log_density.py  any log density: gradients, cost, in a flow's coordinates
    bijections.py   to matrices and circles, which torch lacks
    packing.py      latents as one vector, their supports asked of the run that uses them
    many.py         a function of one draw at many draws, by vmap or in a loop
    precision.py    a run of unchanged code in double precision
    handlers.py     values for the sites of a run, and what vmap asks of a user's code
    data.py         arrays, columns, data frames and lists of numbers as tensors
    reading.py      which dtypes a model can compute with, tried out
    starts.py       where a guide starts
    enumeration.py  discrete sites of a run summed out, or drawn given the rest of it
    discrete.py     a model as one of its other sites alone
    find_discrete.py  which sites that is, and the sentence where it cannot be
    trial.py        a run with some data, to see whether it can be
    masks.py        latent sites that a mask leaves without a density
    sites.py        what a guide asks of latent sites, and the sentence where it is not so
    data_sites.py   data that are NaN, or have been forgotten
    derivatives.py  first and second derivatives of a loss, where the numerics allow them
    failures.py     what failing numerics raise, and which site fails
"""

from pyro_nf.model import sites as sites
from pyro_nf.model.bijections import Bijected as Bijected
from pyro_nf.model.bijections import support_of as support_of
from pyro_nf.model.data import as_tensors as as_tensors
from pyro_nf.model.data import is_array as is_array
from pyro_nf.model.data_sites import look_at_data as look_at_data
from pyro_nf.model.derivatives import bends as bends
from pyro_nf.model.derivatives import slopes as slopes
from pyro_nf.model.discrete import SummedOut as SummedOut
from pyro_nf.model.enumeration import factors as factors
from pyro_nf.model.enumeration import summed as summed
from pyro_nf.model.failures import NUMERICS as NUMERICS
from pyro_nf.model.failures import NoStartError as NoStartError
from pyro_nf.model.failures import blame as blame
from pyro_nf.model.failures import patiently as patiently
from pyro_nf.model.find_discrete import discrete_latents as discrete_latents
from pyro_nf.model.find_discrete import enumerable as enumerable
from pyro_nf.model.find_discrete import find_discrete as find_discrete
from pyro_nf.model.find_discrete import sum_out as sum_out
from pyro_nf.model.handlers import Given as Given
from pyro_nf.model.handlers import is_computed as is_computed
from pyro_nf.model.handlers import until as until
from pyro_nf.model.log_density import LogDensity as LogDensity
from pyro_nf.model.log_density import Scores as Scores
from pyro_nf.model.log_density import differentiable_scores as differentiable_scores
from pyro_nf.model.log_density import has_slopes as has_slopes
from pyro_nf.model.log_density import scored as scored
from pyro_nf.model.log_density import soon_traced as soon_traced
from pyro_nf.model.log_density import through as through
from pyro_nf.model.log_density import traced_scores as traced_scores
from pyro_nf.model.log_density import work as work
from pyro_nf.model.many import Many as Many
from pyro_nf.model.many import Result as Result
from pyro_nf.model.many import Values as Values
from pyro_nf.model.many import by_vmap as by_vmap
from pyro_nf.model.packing import Latents as Latents
from pyro_nf.model.packing import Pack as Pack
from pyro_nf.model.packing import Packing as Packing
from pyro_nf.model.packing import Unpack as Unpack
from pyro_nf.model.packing import packed as packed
from pyro_nf.model.precision import doubled as doubled
from pyro_nf.model.precision import in_double as in_double
from pyro_nf.model.reading import Reading as Reading
from pyro_nf.model.reading import explain_dtypes as explain_dtypes
from pyro_nf.model.reading import read as read
from pyro_nf.model.starts import startable as startable
from pyro_nf.model.target import Target as Target
from pyro_nf.model.target import cause as cause
