"""From a model and data to a trained guide.

`fit` prepares a guide, an objective and a step, runs steps in rounds, and chooses the state that is
the result. Then weights correct its draws, or chains go on from them, where that is needed. All
tuned numbers are in one place.

    fit.py              the function that users call
    recipe.py           all tuned numbers, and what chose them
    options.py          what it was asked for, looked through
    discrete.py         what is made of discrete latents
    prepare.py          guide, ELBO, pool and step, before the first of them is taken
    run.py              blocks of steps, in rounds
    bridging.py         what the guide learns of leapfrog steps, once its flow is trained
    turns.py            what the guide learns from chains that mix slowly
    fit_error.py        what a fit raises that cannot go on
    state.py            all that changes in a run
    checkpoint.py       the file from which a run goes on
    result.py           which state of a run is its result
    deadline.py         the time at which a fit is to end
    schedule.py         rounds of a falling rate, and when there are enough
    model_parameters.py  the parameters of the model itself, their rate and their rest
    evidence.py         where the evidence is largest in them
    objectives.py       what is trained: wide draws, draws of a pool
    chain_pool.py       draws of the posterior that train
    step.py             one step of SVI as one function
    fixed_data.py       of its data, what a graph takes for constant
    adam.py             Adam, written out
    elbo.py             what Pyro's ELBOs estimate
    annealing.py        an objective that is easier at first
    batches.py          batches of data
    when_to_compile.py  when a step is compiled

**Draws of the posterior, where the guide's own do not suffice.** The ELBO asks little for mass that
a guide leaves out: scales of hierarchies come out too narrow, and a second mode is not seen at all.
Chains in the flow's coordinates draw the posterior in seconds, since it is nearly normal there, and
the path gradient at their draws is that of the other divergence. Between modes densities have no
slope that tells their shares, so there the likelihood is trained.

**Wide draws.** Along paths the gradient vanishes at q = p wherever it is asked, so `fit` asks a
little further out than the guide draws, where importance weights are decided: the radius is larger
by as much as it spreads. The loss is weighted back to that of the guide's own draws.

**Rounds of a falling rate.** What a constant rate leaves of the noise hides whether a guide is
done. At the end of a short decay the log weights tell; where the guide is trained alone, its pool
of draws is filled only where two decays have left the weights unequal.

**Short rounds, and then weights or chains.** After 200 steps a flow is as near as after 400 for
chains in its coordinates, which come to the posterior itself (`benchmarks/refine.py`), and most
posteriors of ten dimensions need 50 until weights can correct its draws. So there are rounds of 50
and 200 where weights or chains go on. The first is the last where its losses spread as little as
those of weights that suffice; whether these do, many draws say then.
"""

from pyro_nf.fitting.fit import fit as fit
from pyro_nf.fitting.fit_error import FitError as FitError
