"""What to do with a trained guide: draws, predictions, a verdict, tables, pictures, files.

`Posterior` takes any trained guide of Pyro's. Each thing that it can do is a file of its own, a
function of `Joint`: model and guide with their data, seen one draw at a time. Knows no training.

    posterior.py      the class that users hold
    trained.py        what it knows of draws and densities
    joint.py          model and guide together, one draw at a time
    first_run.py      what a run of guide and model tells of them
    draws.py          many draws of a guide, with their densities under model and guide
    guide_density.py  the log density of a guide at any values
    corrected.py      draws of the guide that its weights have corrected
    refinable.py      of which guides they can, and in what coordinates
    refinement.py     draws of chains that go on from the guide's
    prediction.py     posterior predictive draws, also on new data
    forecasting.py    those of Pyro's forecasting models, beyond the end of the data
    evidence.py       the log evidence of rows
    judging.py        the verdict, by the guide's weights or by the chains from there on
    diagnosis.py      what importance weights say, and the votes of the checks
    finding.py        what a check is shown of a posterior, and what it finds
    missed_mass.py    a search for mass that the draws have not met
    improper.py       whether the density falls at all, far away
    own_noise.py      whether the density is the same from run to run
    chain_drift.py    how far chains of the posterior move away from the draws
    given_points.py   what is to be said where some sites are at points
    summary.py        tables of numbers
    labels.py         names of dimensions, and of places along them
    found_labels.py   what the arguments of a model tell of these
    layout.py         tables of cells, for a terminal and for a notebook
    shown.py          a posterior in a line, and in a notebook
    export.py         draws as ArviZ takes them
    hand_over.py      draws as other samplers start from
    saving.py         what a file keeps
    plots.py          pictures
    drawable.py       of what a density can be drawn
    report.py         a page about a posterior
    pictures.py       more pictures, as that page shows them
    figures.py        what the pictures share
"""

from pyro_nf.posterior import figures as figures
from pyro_nf.posterior import plots as plots
from pyro_nf.posterior.corrected import Corrected as Corrected
from pyro_nf.posterior.corrected import kept_draws as kept_draws
from pyro_nf.posterior.diagnosis import Diagnosis as Diagnosis
from pyro_nf.posterior.diagnosis import diagnose as diagnose
from pyro_nf.posterior.finding import still as still
from pyro_nf.posterior.joint import chunk_size as chunk_size
from pyro_nf.posterior.judging import judged as judged
from pyro_nf.posterior.labels import components as components
from pyro_nf.posterior.layout import data_frame as data_frame
from pyro_nf.posterior.layout import html_table as html_table
from pyro_nf.posterior.layout import text_table as text_table
from pyro_nf.posterior.posterior import Posterior as Posterior
from pyro_nf.posterior.refinable import refinable as refinable
from pyro_nf.posterior.refinable import why_not_refined as why_not_refined
from pyro_nf.posterior.refinement import Refinement as Refinement
from pyro_nf.posterior.summary import Summary as Summary
from pyro_nf.posterior.trained import DRAWS as DRAWS
from pyro_nf.posterior.trained import affordable as affordable
from pyro_nf.posterior.trained import corrected as corrected
from pyro_nf.posterior.trained import has_weights as has_weights
from pyro_nf.posterior.trained import label_by as label_by
