"""What a log density tells before, and after, a flow is trained on it.

A normal approximation is where a guide starts; modes say whether one start is enough; chains draw
in a flow's coordinates; importance weights say what draws are worth. Knows no guide and no
training.

    normal.py      the normal approximation with the best bound
    mean_field.py  one of independent numbers, in many dimensions
    parameters.py  parameters of a log density, moved to where its evidence is largest
    modes.py       many climbs, the summits they reach, draws of a posterior of several
    chains.py      Hamiltonian Monte Carlo, many short chains side by side
    bridge.py      from draws of a guide to a posterior step by step, and its evidence
    nested.py      whether many short chains have arrived: nested R-hat
    refine.py      draws by chains that go on from a guide's until they have arrived
    importance.py  Pareto-smoothed weights, k-hat, resampling
"""

from pyro_nf.sampling.bridge import Bridged as Bridged
from pyro_nf.sampling.bridge import across as across
from pyro_nf.sampling.chains import SETTLING as SETTLING
from pyro_nf.sampling.chains import chains as chains
from pyro_nf.sampling.importance import USABLE as USABLE
from pyro_nf.sampling.importance import effective_share as effective_share
from pyro_nf.sampling.importance import log_mean as log_mean
from pyro_nf.sampling.importance import resampled as resampled
from pyro_nf.sampling.importance import smooth as smooth
from pyro_nf.sampling.importance import threshold as threshold
from pyro_nf.sampling.mean_field import mean_field as mean_field
from pyro_nf.sampling.modes import LEFT as LEFT
from pyro_nf.sampling.modes import MAX_DIM as MAX_DIM
from pyro_nf.sampling.modes import Summits as Summits
from pyro_nf.sampling.modes import all_modes as all_modes
from pyro_nf.sampling.modes import find_summits as find_summits
from pyro_nf.sampling.modes import root_of as root_of
from pyro_nf.sampling.modes import scattered as scattered
from pyro_nf.sampling.normal import GOOD as GOOD
from pyro_nf.sampling.normal import Coordinates as Coordinates
from pyro_nf.sampling.normal import find_coordinates as find_coordinates
from pyro_nf.sampling.normal import lower as lower
from pyro_nf.sampling.parameters import Climbed as Climbed
from pyro_nf.sampling.parameters import climb_evidence as climb_evidence
from pyro_nf.sampling.refine import CHOICE as CHOICE
from pyro_nf.sampling.refine import SUPERCHAINS as SUPERCHAINS
from pyro_nf.sampling.refine import Phase as Phase
from pyro_nf.sampling.refine import how_many as how_many
from pyro_nf.sampling.refine import phases as phases
from pyro_nf.sampling.refine import starts as starts
