"""The tuned numbers of a fit, all in one place."""

from dataclasses import dataclass, replace

__all__ = ["RECIPE", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """The numbers that a fit is made by.

    Beside each stands the command that chose it; "a round number" is a guess that has served. All
    of them together are watched by ``benchmarks/posteriors.py``.
    """

    # ---------------------------------------------------------------- a step

    # Adam's rate at the start of a round: benchmarks/sweep.py (0.003, 0.01, 0.03).
    lr: float = 1e-2
    # Draws of the guide a step: benchmarks/sweep.py (16, 64, 256).
    particles: int = 64
    # The fewest of them, for a model in which more would cost more time: benchmarks/sweep.py (16).
    few_particles: int = 16
    # Of a model that cannot run at many draws at once, each costs a run: a round number.
    looped_particles: int = 4
    # Numbers that a log density may compute for a draw where all of them are taken, and where
    # chains go on often: a round number.
    cheap: float = 20_000
    # Adam's memory of gradients and of their squares: as in its paper.
    betas: tuple[float, float] = (0.9, 0.999)
    # What keeps Adam from dividing by zero: as in its paper.
    epsilon: float = 1e-8
    # The longest gradient, in root mean squares of those before: a round number.
    longest_gradient: float = 5.0

    # ---------------------------------------------------------------- rounds

    # Steps of a run that ends by itself. Nearly normal posteriors need no more than the first; in
    # the last, draws of the posterior may take part: round numbers.
    rounds: tuple[int, ...] = (400, 1_600, 2_000)
    # The same before weights or chains go on. The last is as near as one of 400 for chains:
    # benchmarks/refine.py; after the first weights suffice for most of benchmarks/posteriors.py.
    # After 50, 50 and 100, chains of radon_hierarchical took 320 transitions in place of 80.
    brief_rounds: tuple[int, ...] = (50, 200)
    # Share of a round, its last, over which the parameters are averaged: a round number.
    tail: float = 0.2
    # Variance of a log weight, of a guide which is the posterior to one per cent: a round number.
    exact: float = 0.01
    # The same of a guide whose draws weights correct, of which some 0.7 count then:
    # benchmarks/posteriors.py.
    correctable: float = 0.2
    # Nats by which a round must improve on the one before: a round number.
    tolerance: float = 0.01
    # Quantiles by which a loss and its spread are told, the mean and a sigma around it for a normal
    # variable: not tuned.
    sigmas: tuple[float, float, float] = (0.159, 0.5, 0.841)
    # Standard error of such a variable's median, in those of its mean: not tuned.
    median_error: float = 1.25

    # ---------------------------------------------------------------- the model's own parameters

    # Standard deviations by which one that is at rest may be off, as the evidence tells it if all
    # latents were known: a round number.
    off: float = 0.1
    # Gradients by which that is found out, each of other draws: a round number.
    looks: int = 16
    # Standard errors of their mean that it must be above, to be no noise: a round number.
    sure: float = 3.0
    # Share of the longest way in a round's second half that one at rest may go: a round number.
    strides: float = 0.5
    # Times that the last round begins again while they move, and rounds of leapfrog steps: a round
    # number.
    repeats: int = 4
    # Nats of the evidence by which they may be below its summit, where another guide has trained
    # them: a round number.
    behind: float = 0.02
    # Nats by which a lower bound must be above that of the guide, to say so: a round number.
    far_above: float = 1.0
    # Up to so many they are seen one by one, and moved to where the evidence of a normal
    # approximation is largest; weights of a neural net are not: a round number.
    few_parameters: int = 100

    # ---------------------------------------------------------------- what is trained

    # By which the radius of wide draws is larger, the spread of that of normal draws:
    # benchmarks/posteriors.py (0, 0.3, 0.6, 1; its table says how).
    wider: float = 0.7
    # Draws of a pool for each of the guide's own, in one pass with them: a round number.
    pool_draws: int = 2
    # The same where they alone are trained: a round number.
    pool_draws_alone: int = 4
    # Weight of their divergence, beside that of the ELBO: a round number.
    pool_weight: float = 4.0
    # Medians of their gaps from which a draw counts for no more: a round number.
    far: float = 10.0

    # ---------------------------------------------------------------- a pool of chains' draws

    # Chains for each of the guide's own draws a step: a round number.
    chains: int = 4
    # Times as many chains for several modes: a round number.
    more_chains: int = 4
    # Draws for each chain, from which its start is chosen: a round number.
    starts: int = 4
    # Draws for each dimension, which tell where a guide lies: a round number.
    located_by: int = 100
    # Shares of the decay of the rate at which the chains go on, in better coordinates; they reach
    # far arms of a posterior one after the other. For a dear model the last alone: round numbers.
    refills: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    # Times the rate where their draws take part, which may be wild to the guide: a round number.
    calm: float = 0.5

    # ---------------------------------------------------------------- after it

    # Effective share of weights that have nothing to correct: a mean that is off by 0.03 standard
    # deviations costs as much. Where fits ended at 0.99, one of arK was off by 0.05:
    # benchmarks/posteriors.py.
    equal: float = 0.999
    # Draws that are kept where weights correct those of the guide: a round number.
    corrected: int = 10_000
    # Whether weights or chains go on: then no pool is filled for the last round, and one that has
    # won nothing is not the last: not tuned.
    goes_on: bool = False
    # Steps by which the guide learns from chains that refine a posterior, and mix slowly: a round
    # number.
    turn: int = 200
    # Times the rate of a guide's leapfrog steps, that of its flow while both are trained, in rounds
    # of as many steps: a round number.
    beside_steps: float = 0.1

    # ---------------------------------------------------------------- a run

    # Steps between two looks at the run: a round number.
    block: int = 50
    # Steps over which the progress bar averages the ELBO: a round number.
    window: int = 400
    # Returns to the best state, each at a smaller rate: a round number.
    retries: int = 4
    # Nats and spreads that the loss may rise above that of the best state: a round number.
    astray: float = 10
    # Times the rate after such a return: a round number.
    shrink: float = 0.3
    # Evaluations of the loss by which the end states are compared: a round number.
    final_losses: int = 16
    # The same before weights or chains go on, from whatever state: a round number.
    brief_losses: int = 4
    # The same where each is of other rows: a round number.
    final_batches: int = 64
    # Seconds between two checkpoints: a round number; benchmarks/kills.py has fewer.
    save_every: float = 5.0
    # Seconds between two lines of a progress bar in a log file: a round number.
    log_every: float = 10.0

    # ---------------------------------------------------------------- annealing

    # Steps in which the weight rises to one: as in the paper.
    anneal_steps: int = 10_000
    # The weight at the first step: as in the paper.
    first_weight: float = 0.01

    # ---------------------------------------------------------------- compiling

    # Seconds that inductor takes at all, and for each node of the step's graph:
    # benchmarks/steps.py ("ready").
    compile_seconds: tuple[float, float] = (5.0, 0.02)
    # Seconds that it saves of each step for each node, the calls of the nodes but not the work of
    # large ones: benchmarks/steps.py ("step").
    saved_seconds: float = 1e-6
    # Parameters up to which it saves any. Of millions, gathered from many tensors, its one loop for
    # all of Adam takes longer than the operations one by one: benchmarks/amortized_steps.py.
    most_parameters: int = 300_000
    # Comparisons of a traced with an eager step, until one is finite: a round number.
    comparisons: int = 10
    # Seed of comparisons alone, whose random state is then forgotten: any number.
    comparison_seed: int = 20_151_123

    @property
    def brief(self) -> "Recipe":
        """The same with short rounds, for a guide from which weights or chains go on."""
        return replace(
            self,
            rounds=self.brief_rounds,
            exact=self.correctable,
            final_losses=self.brief_losses,
            goes_on=True,
        )


RECIPE = Recipe()
