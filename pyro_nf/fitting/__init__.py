"""From a model and data to a trained guide.

`fit` prepares a guide, an objective and a step, runs steps in rounds until nothing is left to win,
and chooses the state that is the result. All tuned numbers are in one place.

    fit.py              the function that users call
    recipe.py           all tuned numbers, and what chose them
    options.py          what it was asked for, looked through
    prepare.py          guide, ELBO, pool and step, before the first of them is taken
    run.py              blocks of steps, in rounds
    state.py            all that changes in a run
    checkpoint.py       the file from which a run goes on
    result.py           which state of a run is its result
    schedule.py         rounds of a falling rate, and when there are enough
    objectives.py       what is trained: wide draws, draws of a pool
    chain_pool.py       draws of the posterior that train
    step.py             one step of SVI as one function
    adam.py             Adam, written out
    elbo.py             what Pyro's ELBOs estimate
    annealing.py        an objective that is easier at first
    batches.py          batches of data
    when_to_compile.py  when a step is compiled
"""

from pyro_nf.fitting.fit import fit as fit
from pyro_nf.fitting.run import FitError as FitError
