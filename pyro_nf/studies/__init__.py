"""Studies of several fits.

A verdict is of one fit. Whether a recipe is right for a model, or which of several models is
better, is told by many.

    calibrate.py      fits to simulated data, and where their true values lie among the draws
    simulation.py     true values, data that follow from them, and the model of these data
    calibration.py    what the ranks of true values say, in words and numbers
    bands.py          the band in which the distribution of ranks stays
    ecdf.py           its picture
    comparison.py     models of the same data side by side
    loo.py            how well each predicts an observation from the others
"""

from pyro_nf.studies.calibrate import calibrate as calibrate
from pyro_nf.studies.calibration import Calibration as Calibration
from pyro_nf.studies.comparison import Comparison as Comparison
from pyro_nf.studies.comparison import compare as compare
