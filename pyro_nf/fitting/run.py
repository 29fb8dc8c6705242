"""A run of steps: schedule, averaging, stopping, roll-back and the progress bar."""

import math
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_nf.fitting import when_to_compile
from pyro_nf.fitting.annealing import weight_at
from pyro_nf.fitting.checkpoint import Checkpoint
from pyro_nf.fitting.fit_error import FitError
from pyro_nf.fitting.model_parameters import ModelParameters
from pyro_nf.fitting.prepare import Setup
from pyro_nf.fitting.result import AVERAGE, Trial, choose, tried, unlike
from pyro_nf.fitting.schedule import OUT_OF_TIME, Schedule, level
from pyro_nf.fitting.state import State, kept, put_back
from pyro_nf.model import blame

__all__ = ["Run"]


class Run:
    """The run of a fit.

    The rate falls to zero in rounds, until nothing is left to win or the last of them has ended;
    in the last, a guide may learn from draws of the posterior, too.

    Arguments:
        setup: What is run.
        checkpoint: Where it is saved, and goes on from if it was.

    Attributes:
        state: All that changes in it.
    """

    def __init__(self, setup: Setup, checkpoint: Checkpoint) -> None:
        self.setup, self.recipe, self.checkpoint = setup, setup.step.recipe, checkpoint
        self.step, self.chain_pool, self.options = setup.step, setup.chain_pool, setup.options
        self.warmup, self.deadline = self.options.warmup, self.options.deadline
        self.parameters = ModelParameters(self.step, self.recipe, setup.watched, setup.evidence)
        self._how = ""  # it ended
        self.feed: Iterator[Sequence[Any]] | None = None
        first = self.step.parameters()
        self.state = State(
            schedule=Schedule.of(self.recipe, self.options.lr, self.options.steps, self.warmup),
            order=0 if self.options.source is None else int(torch.randint(2**31, ())),
            first=first,
            best=first,
            sum=torch.zeros_like(first),
        )
        content = checkpoint.load()
        if content is None:
            self.parameters.tune(hold=setup.new)
        else:
            self.state = State.of(content["state"], self.recipe)
            self.schedule.length = self.schedule.whole  # there is more time now
            put_back(content, self.step, self.chain_pool, setup.modules)
        if self.chain_pool is not None:
            self.chain_pool.begin(self.step, self.schedule, self.warmup)

    @property
    def schedule(self) -> Schedule:
        """The rounds."""
        return self.state.schedule

    @property
    def losses(self) -> list[float]:
        """The loss of each step; NaN where it was skipped."""
        return self.state.losses

    @property
    def is_of_several_modes(self) -> bool:
        """Whether it is draws of several modes that are trained."""
        return self.chain_pool is not None and self.chain_pool.is_of_several_modes

    # ---------------------------------------------------------------- the run

    def go(self, compile: when_to_compile.Compile) -> None:  # fit's word
        """Run to the end, or to Ctrl-C, and leave the best parameters in place."""
        if self.state.finished:
            return
        if self.options.source is not None:
            self.feed = self.options.source.start(self.state.order, len(self.losses))
        # In a log file every refresh is a line.
        watched = sys.stderr.isatty() or "ipykernel" in sys.modules
        with tqdm(
            total=self.schedule.end,
            disable=not self.options.progress,
            initial=len(self.losses),
            mininterval=0.1 if watched else self.recipe.log_every,
        ) as bar:
            try:
                if self.deadline.interrupted:
                    raise KeyboardInterrupt
                when_to_compile.begin(self.step, compile, bar, self.setup.slow)
                while len(self.losses) < self.schedule.end or self._begin_round():
                    started, begin = time.perf_counter(), len(self.losses)
                    self.schedule.cut(begin, self.deadline.steps)
                    self._take_block()
                    self._after_block()
                    self._show(bar)
                    seconds, count = time.perf_counter() - started, len(self.losses) - begin
                    self.deadline.took(seconds, count)
                    if self.deadline.is_over:
                        self._how = OUT_OF_TIME
                        break
                    if compile == "auto" and len(self.losses) >= 2 * self.recipe.block:
                        steps = self.schedule.end - len(self.losses)
                        when_to_compile.upgrade(self.step, steps, seconds / count, self.recipe, bar)
            except KeyboardInterrupt:
                self._how = "interrupted"
        self._finish(self._how)

    def go_on(self, compile: when_to_compile.Compile) -> bool:
        """Run another round, if there is one, where weights that seemed to suffice do not."""
        if not (self.recipe.goes_on and self.state.finished) or self.schedule.is_last:
            return False
        self.state.finished = False
        self.schedule.advance(to_last=False)
        self._forget()
        self.go(compile)
        return True

    def _begin_round(self) -> bool:
        """Begin the next round from the average of this one, if it has left anything to win."""
        self._how = OUT_OF_TIME if self.schedule.is_cut else "finished"
        again = self.schedule.is_last
        if again and not self.parameters.may_repeat(self.schedule):
            return False
        if self.state.summed:
            self.step.set_parameters(self.state.sum / self.state.summed)
        moving = self.parameters.moving(self.schedule, self.state.middle)
        self.state.middle = None
        idle = self.schedule.is_idle(self.losses)
        rests = not moving and (idle if again else self._is_stationary())
        if rests and not self.parameters.are_held:
            self._how = "finished" if self.recipe.goes_on else "stationary"
            return False
        if self.schedule.is_cut:
            return False
        self.schedule.advance(to_last=self.is_of_several_modes)
        self._forget()
        self.parameters.begin_round(self.schedule, rests or idle)
        pool = None if again else self.chain_pool
        if pool is not None and pool.before_round(self.step, self.schedule):
            self.state.best, self.state.best_loss = self.step.parameters(), math.inf
        return True

    def _is_stationary(self) -> bool:
        """Whether nothing is left to win."""
        if self.is_of_several_modes:
            return False  # of what it has not seen, a guide's own draws say nothing
        if self.schedule.is_exact(self.losses, self.step.elbo.num_particles):
            return not self.parameters.are_many or self.schedule.is_idle(self.losses)
        more = self.recipe.goes_on or self.chain_pool is not None
        return not more and self.schedule.is_idle(self.losses)

    def _forget(self) -> None:
        """Begin another average of the iterates."""
        self.state.sum, self.state.summed = torch.zeros_like(self.state.first), 0

    def _take_block(self) -> None:
        """Take some steps."""
        begin, end = len(self.losses), self.schedule.end
        count = min(self.recipe.block, end - begin)
        averaging = end - self.schedule.tail
        if begin <= averaging:
            self._forget()  # what a round that was shorter for want of time has begun
        losses = []
        self.step.failure = None
        for index in range(begin, begin + count):
            if index <= self.warmup:
                self.step.weight.fill_(weight_at(index, self.warmup, self.recipe.first_weight))
            if self.feed is not None:
                self.step.feed(next(self.feed), self.step.data[1])
            losses.append(self.step(self.schedule.rate(index)))
            if index == self.schedule.middle:
                self.state.middle = self.step.parameters()
                self.parameters.halfway(self.schedule)
            if index >= averaging:
                self.state.sum += self.step.parameters()
                self.state.summed += 1
            if self.deadline.is_over:
                break
        values = torch.stack([loss.to(self.state.sum) for loss in losses]).tolist()
        self.state.losses += values
        if sum(map(math.isnan, values)) > len(values) / 2:
            self._retreat()
        else:
            self._judge([loss for loss in values if math.isfinite(loss)])

    def _retreat(self) -> None:
        """Return to the best state; give up after some times."""
        if self.state.retries == self.recipe.retries:
            step = self.step
            step.set_parameters(self.state.best)
            raise FitError(
                f"most steps failed, also after {self.recipe.retries} returns to the best state at "
                f"smaller learning rates: {blame(step.model, step.guide, *step.data)}"
            ) from step.failure
        self._return()

    def _return(self) -> None:
        """Go on from the best state, at a smaller rate."""
        self.state.retries += 1
        self.schedule.lr *= self.recipe.shrink
        self.step.set_parameters(self.state.best)
        self.step.adam.reset()
        self._forget()

    def _judge(self, block: Sequence[float]) -> None:
        """Keep the best state, or return to it where the losses are far above its own."""
        state, length = self.state, self.recipe.block
        # While it is annealed, and right after, the best loss so far is of another weight.
        annealed = len(self.losses) - length <= self.warmup
        loss = sum(block) / len(block)
        if self._is_astray(block):
            self._return()
        elif annealed or loss < state.best_loss:
            state.best, state.best_loss = self.step.parameters(), loss
            state.best_spread = level(block, length, self.recipe)[1]

    def _is_astray(self, block: Sequence[float]) -> bool:
        """Whether the loss is far above what it was; it may rise where draws alone are trained."""
        if self.state.retries == self.recipe.retries or self.is_of_several_modes:
            return False
        loss, _ = level(block, self.recipe.block, self.recipe)
        return loss > self.state.best_loss + self.recipe.astray * (1 + self.state.best_spread)

    def _after_block(self) -> None:
        """Let chains go on, save."""
        if self.chain_pool is not None and self.chain_pool.after_block(
            len(self.losses), self.schedule
        ):
            self.state.best_loss = math.inf  # what is best so far was so for other draws
        if self.checkpoint.is_due(self.recipe.save_every):
            self.save()

    # ---------------------------------------------------------------- its end

    def _finish(self, how: str) -> None:
        """Choose among the states that could be the result, by their losses on equal draws."""
        state = self.state
        ends: dict[str, Tensor] = {}
        if state.summed:  # the first, since a round that was the last has set it
            ends[f"{AVERAGE} of {state.summed} iterates"] = state.sum / state.summed
        ends |= {"the last iterate": self.step.parameters(), "the best state": state.best}
        ends["the start"] = state.first
        self.step.weight.fill_(1.0)
        data: list[Sequence[Any]] = [self.step.data[0]] * self.recipe.final_losses  # for all
        if self.feed is not None:
            data = list(islice(self.feed, self.recipe.final_batches))
        trials = {
            name: tried(self.step, end, data, self.chain_pool) for name, end in unlike(ends).items()
        }
        chosen = choose(trials, batches=self.feed is not None)
        self.step.set_parameters(ends[chosen])
        best = trials[chosen]
        state.moving, told = self.parameters.judged(self.schedule, state.middle, -best.mean)
        end = f"{how} after {len(self.losses):,} steps ({self.step.fastest})"
        state.message = "; ".join([end, *self._words(chosen, best), *told])
        state.finished = how not in ("interrupted", OUT_OF_TIME)
        self.save()

    def _words(self, chosen: str, trial: Trial) -> list[str]:
        """The end of the message: what was chosen, and what happened on the way."""
        skipped = sum(map(math.isnan, self.losses))
        words = [f"{chosen}, ELBO {-trial.mean:.2f} ± {trial.error:.2f}"]
        words += [f"one draw at a time: {self.setup.slow}"] if self.setup.slow else []
        words += [] if self.chain_pool is None else self.chain_pool.words()
        words += [f"{skipped} steps were skipped"] if skipped else []
        words += [f"{self.state.retries} returns to the best state"] if self.state.retries else []
        return words

    def _show(self, bar: Any) -> None:
        bar.total = self.schedule.end
        window = self.recipe.window
        loss, spread = level(self.losses, window, self.recipe)
        error = self.recipe.median_error * spread / math.sqrt(min(window, len(self.losses)))
        epoch = self.options.source.length if self.options.source is not None else None
        where = f"epoch {len(self.losses) // epoch}, " if epoch else ""
        bar.set_postfix_str(f"{where}ELBO {-loss:.2f} ± {error:.2f}", refresh=False)
        bar.update(len(self.losses) - bar.n)

    # ---------------------------------------------------------------- checkpoints

    def save(self, refinement: dict[str, Any] | None = None) -> None:
        """Save it, and draws that are better than the guide's, if it is to be saved."""
        self.state.refinement = refinement
        if self.checkpoint.path is None:
            return
        self.checkpoint.save(kept(self.state, self.step, self.chain_pool, self.setup.modules))
