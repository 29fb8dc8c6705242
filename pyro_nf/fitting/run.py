"""A run of steps: schedule, averaging, stopping, roll-back, checkpoints and the progress bar."""

import math
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pyro_nf.files import write
from pyro_nf.fitting import when_to_compile as tiers
from pyro_nf.fitting.annealing import weight_at
from pyro_nf.fitting.batches import Batches
from pyro_nf.fitting.chain_pool import Pool
from pyro_nf.fitting.result import AVERAGE, Score, choose
from pyro_nf.fitting.schedule import MEDIAN, Schedule, level
from pyro_nf.fitting.step import Step
from pyro_nf.model import NUMERICS, blame
from pyro_nf.randomness import kept_random_state

__all__ = ["FitError", "Run"]

BLOCK = 50  # steps between two looks at the run
WINDOW = 400  # steps over which the progress bar averages the ELBO
CALM = 0.5  # times the rate where draws of the posterior take part: they may be wild to the guide
RETRIES = 4  # returns to the best state, each at a smaller rate
ASTRAY = 10  # nats and spreads that the loss may rise above that of the best state
SHRINK = 0.3
SAVE_EVERY = 5.0  # seconds
LOG_EVERY = 10.0  # seconds between two lines of a progress bar in a log file
FINALS = 16  # evaluations of the loss by which the end states are compared
FINAL_BATCHES = 64  # the same where each is of other rows


class FitError(RuntimeError):
    """A fit that could not go on; the message names the site and what to do.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro_nf import fit
        >>> def model():
        ...     x = pyro.sample("x", dist.Normal(0.0, 1.0))
        ...     pyro.factor("never", -math.inf * x.exp())
        >>> try:
        ...     _ = fit(model, compile=False, progress=False)
        ... except FitError as error:
        ...     print("a site is to blame:", "never" in str(error))
        a site is to blame: True
    """


class Run:
    """The run of a fit, and all that a checkpoint must hold of it.

    The rate falls to zero in rounds, until nothing is left to win or the last of them has ended;
    in the last, a guide may learn from draws of the posterior, too.

    Arguments:
        step: The step.
        lr: The learning rate.
        steps: The number of steps, in one round; None to stop by itself.
        modules: What holds, besides parameters, buffers that a checkpoint needs.
        batches: The data of the steps; None for those that the step has.
        warmup: The number of steps in which the weight of annealing rises.
        pool: What the guide learns from besides; filled before the last round.
        progress: Whether to show a progress bar.
        path: Where to save checkpoints, if anywhere.
        identity: What a checkpoint must agree on to be of this run.

    Attributes:
        losses: The loss of each step; NaN where it was skipped.
        message: How the run ended.
    """

    def __init__(
        self,
        step: Step,
        lr: float,
        steps: int | None,
        modules: Sequence[nn.Module] = (),
        *,
        batches: Batches | None = None,
        warmup: int = 0,
        pool: Pool | None = None,
        progress: bool = False,
        path: str | os.PathLike[str] | None = None,
        identity: str = "",
    ) -> None:
        self.step, self.path, self.identity = step, path, identity
        self.pool = pool
        self.modules, self.progress = modules, progress
        self.batches, self.warmup = batches, warmup
        self.order = 0 if batches is None else int(torch.randint(2**31, ()))
        self.feed: Iterator[Sequence[Any]] | None = None
        self.schedule = Schedule.of(lr, steps, warmup)
        self.retries = 0
        self.losses: list[float] = []
        self.message = ""
        self.finished = False
        self.first = step.parameters()
        self.best, self.best_loss, self.best_spread = self.first, math.inf, 0.0
        self.sum, self.summed = torch.zeros_like(self.first), 0
        self._saved = time.monotonic()
        if pool is not None and not warmup:
            step.aim(pool.objective)

    # ---------------------------------------------------------------- the run

    def go(self, compile: str | bool) -> None:  # fit's word
        """Run to the end, or to Ctrl-C, and leave the best parameters in place."""
        if self.finished:
            return
        if self.batches is not None:
            self.feed = self.batches.start(self.order, len(self.losses))
        # In a log file every refresh is a line.
        watched = sys.stderr.isatty() or "ipykernel" in sys.modules
        with tqdm(
            total=self.schedule.end,
            disable=not self.progress,
            initial=len(self.losses),
            mininterval=0.1 if watched else LOG_EVERY,
        ) as bar:
            try:
                tiers.begin(self.step, compile, bar)
                while len(self.losses) < self.schedule.end or self._begin_round():
                    started = time.perf_counter()
                    self._block()
                    self._look()
                    self._show(bar)
                    if compile == "auto" and len(self.losses) >= 2 * BLOCK:
                        seconds = (time.perf_counter() - started) / BLOCK
                        left = self.schedule.end - len(self.losses)
                        tiers.upgrade(self.step, left, seconds, bar)
                how = "finished" if self.schedule.is_last else "stationary"
            except KeyboardInterrupt:
                how = "interrupted"
        self._finish(how)

    def _begin_round(self) -> bool:
        """Begin the next round from the average of this one, if it has left anything to win."""
        if self.schedule.is_last:
            return False
        if self.summed:
            self._set(self.sum / self.summed)
        if self._is_stationary():
            return False
        several = self.pool is not None and self.pool.several
        self.schedule.advance(to_last=several)
        self._forget()
        if self.pool is not None and self.schedule.is_last:
            self._fill(self.pool)
        return True

    def _is_stationary(self) -> bool:
        """Whether nothing is left to win."""
        if self.pool is not None and self.pool.several:
            return False  # of what it has not seen, a guide's own draws say nothing
        if self.schedule.is_exact(self.losses, self.step.elbo.num_particles):
            return True
        return self.pool is None and self.schedule.is_idle(self.losses)

    def _forget(self) -> None:
        """Begin another average of the iterates."""
        self.sum, self.summed = torch.zeros_like(self.first), 0

    def _block(self) -> None:
        """Take some steps."""
        begin, end = len(self.losses), self.schedule.end
        count = min(BLOCK, end - begin)
        averaging = end - self.schedule.tail
        losses = []
        failure: Exception | None = None
        for index in range(begin, begin + count):
            if index <= self.warmup:
                self.step.weight.fill_(weight_at(index, self.warmup))
            if self.feed is not None:
                self.step.feed(next(self.feed), self.step.data[1])
            try:
                losses.append(self.step(self.schedule.rate(index)))
            except NUMERICS as error:
                failure = error  # of the model's numerics: costs this step
                losses.append(torch.tensor(math.nan))
            if index >= averaging:
                self.sum += self.step.parameters()
                self.summed += 1
        values = torch.stack([loss.to(self.sum) for loss in losses]).tolist()
        self.losses += values
        if sum(map(math.isnan, values)) > count / 2:
            self._retreat(failure)
        else:
            self._judge([loss for loss in values if math.isfinite(loss)])

    def _retreat(self, failure: Exception | None) -> None:
        """Return to the best state; give up after some times."""
        if self.retries == RETRIES:
            step = self.step
            self._set(self.best)
            raise FitError(
                f"most steps failed, also after {RETRIES} returns to the best state at smaller "
                f"learning rates: {blame(step.model, step.guide, *step.data)}"
            ) from failure
        self._return()

    def _return(self) -> None:
        """Go on from the best state, at a smaller rate."""
        self.retries += 1
        self.schedule.lr *= SHRINK
        self._set(self.best)
        self.step.adam.reset()
        self._forget()

    def _judge(self, block: Sequence[float]) -> None:
        """Keep the best state, or return to it where the losses are far above its own."""
        # While it is annealed, and right after, the best loss so far is of another weight.
        annealed = len(self.losses) - BLOCK <= self.warmup
        loss = sum(block) / len(block)
        if self._is_astray(block):
            self._return()
        elif annealed or loss < self.best_loss:
            self.best, self.best_loss = self.step.parameters(), loss
            self.best_spread = level(block, BLOCK)[1]

    def _look(self) -> None:
        """Let chains go on, save."""
        done = len(self.losses)
        if self.pool is not None and self.pool.slopes is not None:
            gone = done - self.schedule.turn
            again = [int(share * self.schedule.length) for share in self.pool.again]
            if any(gone - BLOCK < steps <= gone for steps in again):
                self._refill(self.pool)
        if self.path is not None and time.monotonic() - self._saved > SAVE_EVERY:
            self.save()

    def _is_astray(self, block: Sequence[float]) -> bool:
        """Whether the loss is far above what it was; it may rise where draws alone are trained."""
        if self.retries == RETRIES or (self.pool is not None and self.pool.several):
            return False
        loss, _ = level(block, BLOCK)
        return loss > self.best_loss + ASTRAY * (1 + self.best_spread)

    def _fill(self, pool: Pool) -> None:
        """Learn from draws of the posterior, too, while the rate falls."""
        try:
            pool.fill()
        except NUMERICS:  # numerics of the model: go without
            return
        if not self.step.aim(pool.objective):  # planar's inverse, say, ends when it is exact
            pool.draws = pool.slopes = None
            return
        self.step.adam.reset()  # gradients are of another size now
        if not pool.several:
            self.schedule.lr *= CALM
        self.best, self.best_loss = self.step.parameters(), math.inf  # of another objective

    def _refill(self, pool: Pool) -> None:
        """Learn from other draws of the posterior from here on."""
        try:
            pool.refill()
        except NUMERICS:  # numerics: the old ones serve
            return
        self.best_loss = math.inf  # what is best so far was so for others

    def _finish(self, how: str) -> None:
        """Choose among the states that could be the result, by their losses on equal draws."""
        states: dict[str, Tensor] = {}
        if self.summed:  # the first, since a round that was the last has set it
            states[f"{AVERAGE} of {self.summed} iterates"] = self.sum / self.summed
        states |= {"the last iterate": self.step.parameters(), "the best state": self.best}
        states["the start"] = self.first
        self.step.weight.fill_(1.0)
        # The same batches for all of them.
        data: list[Sequence[Any]] = [self.step.data[0]] * FINALS
        if self.feed is not None:
            data = list(islice(self.feed, FINAL_BATCHES))
        scores = {name: self._score(state, data) for name, state in states.items()}
        chosen = choose(scores, batches=self.feed is not None)
        score = scores[chosen]
        self._set(states[chosen])
        skipped = sum(map(math.isnan, self.losses))
        self.message = (
            f"{how} after {len(self.losses):,} steps ({self.step.fastest}); {chosen}, "
            f"ELBO {-score.mean:.2f} ± {score.error:.2f}"
            + (f"; there are {self.pool.modes} modes" if self.pool and self.pool.several else "")
            + (f"; {skipped} steps were skipped" if skipped else "")
            + (f"; {self.retries} returns to the best state" if self.retries else "")
        )
        self.finished = how != "interrupted"
        if self.path is not None:
            self.save()

    def _score(self, state: Tensor, data: Sequence[Sequence[Any]]) -> Score:
        """The losses of a state on some data, and what else there is to learn."""
        self._set(state)
        losses = []
        with kept_random_state():
            for args in data:
                self.step.feed(args, self.step.data[1])
                try:
                    losses.append(self.step(0.0))
                except NUMERICS:
                    losses.append(torch.tensor(math.nan))
        rest = self.pool.loss() if self.pool else 0.0
        return Score(torch.stack([loss.to(self.sum) for loss in losses]), rest)

    def _set(self, state: Tensor) -> None:
        self.step.set_parameters(state)

    def history(self) -> Tensor:
        """The losses so far, with shape ``(steps,)``."""
        return torch.tensor(self.losses, dtype=torch.float64)

    def _show(self, bar: Any) -> None:
        bar.total = self.schedule.end
        loss, spread = level(self.losses, WINDOW)
        error = MEDIAN * spread / math.sqrt(min(WINDOW, len(self.losses)))
        epoch = self.batches.length if self.batches is not None else None
        where = f"epoch {len(self.losses) // epoch}, " if epoch else ""
        bar.set_postfix_str(f"{where}ELBO {-loss:.2f} ± {error:.2f}", refresh=False)
        bar.update(len(self.losses) - bar.n)

    # ---------------------------------------------------------------- checkpoints

    def save(self) -> None:
        """Write a checkpoint; a path that cannot be written is a warning, and the run goes on."""
        assert self.path is not None  # the callers have looked
        self._saved = time.monotonic()
        content: dict[str, Any] = {name: getattr(self, name) for name in _KEPT}
        content |= {"schedule": asdict(self.schedule)}
        content |= {"kind": "checkpoint", "parameters": self.step.parameters()}
        content |= {"adam": self.step.adam.state(), "random": torch.get_rng_state()}
        content["pool"] = (
            None if self.pool is None else (self.pool.draws, self.pool.slopes, self.pool.modes)
        )
        content["modules"] = [dict(module.state_dict()) for module in self.modules]
        try:
            write(self.path, content)
        except OSError as error:
            warnings.warn(
                f"the checkpoint {os.fspath(self.path)!r} cannot be written: {error}; the fit goes "
                "on without",
                stacklevel=4,
            )
            self.path = None

    def restore(self, content: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        if content["identity"] != self.identity:
            raise ValueError(
                "the checkpoint is of another fit: it was made with "
                f"{content['identity']}, and this call has {self.identity}; delete the file, or "
                "name another"
            )
        for name in _KEPT:
            setattr(self, name, content[name])
        self.schedule = Schedule(**content["schedule"])
        for module, state in zip(self.modules, content["modules"], strict=True):
            module.load_state_dict(state)
        if self.pool is not None:
            self.pool.draws, self.pool.slopes, self.pool.modes = content["pool"]
            if self.pool.draws is not None:
                self.step.aim(self.pool.objective)
        self._set(content["parameters"])
        self.step.adam.reset(content["adam"])
        torch.set_rng_state(content["random"])


_KEPT = (
    *("identity", "retries", "losses", "message", "finished", "order"),
    *("first", "best", "best_loss", "best_spread", "sum", "summed"),
)
