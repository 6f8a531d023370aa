"""Fixed-rate epochs with averaged iterates, and the rule that ends a fit.

At one rate of the steps the iterates reach a stationary distribution around the best q. The rate
is halved when they are stationary, and the fit ends when the error of their average is small.

    block      the average of the parameters over 1 / rate steps, about the iterates' memory
    window     the last blocks, in four groups; stationary if the first two groups and the last two
               differ by no more than their noise, and the ELBO's predicted gain is no larger
    noise      nats that the window's average loses to Monte-Carlo error, from the groups' spread
    bias       nats that it loses to the rate: the distance of the averages of two rates, and at
               most half of it for each half of the rate (a quarter if proportional to the rate)

A fit has converged when noise + bias <= tolerance, and natural-gradient steps at twice the rate
show no slow drift: a direction of small curvature moves too little in a window to be seen, and may
still have a gain. `lvm_jax.vi.trend` estimates it over windows that grow until

    gain       nats that the ELBO rises in as much time again, with its standard error,

is below the tolerance. After a drift the rate is lowered once more, for the noise.

The rate rises again where a window is not stationary, or two rates' averages differ by more than
their bias, and the ELBO rises. Where it falls the rate is halved, from the best state so far. The
ELBO never ends a fit.

Source: Welandawe et al. (2024), RABVI; Dhaka et al. (2020) for averages of iterates and R-hat.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from lvm_jax.typing import Array, Key, Params
from lvm_jax.vi.blocks import (
    Block,
    Iteration,
    distance_of,
    mean_of,
    products_of,
    refresh,
    run_block,
)
from lvm_jax.vi.method import Found, Reason, Task, Trace
from lvm_jax.vi.trend import NUM_GROUPS, squared_slope

GROUPS = 4  # of the blocks of a window
MAX_BLOCKS = 16  # of a window; more are joined in pairs
LAST_BLOCKS = 8  # the fewest of a window that ends the fit
CORRELATED = 2.0  # the variance of averages of a block, in units of independent ones
DRIFT = 3.0  # the largest distance of two halves of a window, in units of its expectation
SHRINKS = 0.5  # the largest ratio of the biases of a rate and its double
SMALLEST_RATE = 2.0**-14  # in units of the first rate
CLEAR = 3.0  # standard errors of a change of the ELBO
FALL = 5.0  # standard errors of a block's ELBO below the best that count as divergence


class Window(NamedTuple):
    """The average of the last blocks at one rate, and its error in nats."""

    average: Params
    noise: float
    stationary: bool
    rows: tuple[int, int]  # of the trace: the blocks of its rate
    bias: float = np.inf
    drifts: bool = False

    @property
    def error(self) -> float:
        """Noise and bias."""
        return self.noise + self.bias


def iterate(
    key: Key[Array, ""], iteration: Iteration, state: Any, task: Task, first_rate: float, spent: int
) -> Found:
    """Run epochs from `state` until the rule above or the budget ends them."""
    course = _Course(key, iteration, state, task, spent, first_rate)
    rate, before, steady = first_rate, None, iteration.products is None
    while rate > SMALLEST_RATE * first_rate:
        window = course.epoch(rate, before)
        if window is None and not course.fell:
            return course.found(Reason.BUDGET, before)
        if window is None:
            rate, before, course.highest = rate / 2, None, rate / 2
            continue
        if window.error <= task.tolerance:
            drifted = not steady and course.drift(min(2 * rate, course.highest))
            if drifted is None:
                return course.found(Reason.BUDGET, window)
            if not drifted:
                return course.found(Reason.CONVERGED, window)
            rate, before, steady = min(2 * rate, course.highest), None, True
            continue
        rate = min(2 * rate, course.highest) if window.drifts else rate / 2
        before = window
    finite = np.isfinite(course.best.elbo)
    return course.found(Reason.NO_PROGRESS if finite else Reason.DIVERGED, before)


class _Best(NamedTuple):
    """The highest ELBO of a block, its error, and the state before the block."""

    elbo: float
    standard_error: float
    state: Any


class _Course:
    """The mutable part of a fit: its state, the blocks of the current rate, and the trace."""

    def __init__(
        self,
        key: Key[Array, ""],
        iteration: Iteration,
        state: Any,
        task: Task,
        spent: int,
        highest: float,
    ) -> None:
        self.key, self.iteration, self.state, self.task = key, iteration, state, task
        self.spent, self.num_steps = spent, 0
        self.highest = highest  # rate at which the ELBO did not fall
        self.first = 0  # row of the trace of the current rate
        self.blocks: list[Params] = []
        self.length = 1  # of a block, in units of 1 / rate steps
        self.time = 0  # in the same units, at all rates
        self.rows: list[tuple[float, ...]] = []
        self.best = _Best(-np.inf, 0.0, state)
        self.fell = False

    def epoch(self, rate: float, before: Window | None) -> Window | None:
        """Blocks at one rate until a window is stationary, and precise where its bias is small.

        None if the budget does not suffice, or if the ELBO fell.
        """
        self.blocks, self.length, self.first = [], 1, len(self.rows)
        while self.extend(rate) and not self.fell:
            if len(self.blocks) % GROUPS:
                continue
            window = self.compare(before, self.window())
            self.rows[-1] = (*self.rows[-1][:4], window.error)
            tolerance = self.task.tolerance
            done = window.error <= tolerance and len(self.blocks) >= LAST_BLOCKS
            if window.stationary and (done or window.bias > tolerance / 2):
                return window
            if not window.stationary and len(self.blocks) >= LAST_BLOCKS:
                middle = (self.first + len(self.rows)) // 2
                rise = self.rise((self.first, middle), (middle, len(self.rows)))
                if rise > CLEAR and rate < self.highest:
                    return window._replace(drifts=True)
                if rise < -CLEAR:
                    self.state, self.fell = self.best.state, True
        return None

    def rise(self, first: tuple[int, int], second: tuple[int, int]) -> float:
        """The change of the mean ELBO between two ranges of blocks, in its standard errors."""
        parts = [np.array(self.rows[slice(*rows)])[:, 1:3] for rows in (first, second)]
        means = [part[:, 0].mean() for part in parts]
        square = sum((part[:, 1] ** 2).sum() / len(part) ** 2 for part in parts)
        return float((means[1] - means[0]) / max(np.sqrt(square), 1e-30))

    def drift(self, rate: float) -> bool | None:
        """Blocks at one rate until the predicted gain of as much time again is small.

        Whether they moved in a slow direction before; None if the budget does not suffice. No new
        blocks where those of the last window show the small gain.
        """
        if len(self.blocks) % NUM_GROUPS == 0 and sum(self.gain()) <= self.task.tolerance:
            return False
        self.blocks, self.length, drifted = [], 1, False
        while self.extend(rate):
            if self.fell:
                self.blocks, self.length, self.fell, rate = [], 1, False, rate / 2
            if not self.blocks or len(self.blocks) % NUM_GROUPS:
                continue
            gain, error = self.gain()
            if gain + error <= self.task.tolerance:
                self.blocks = []
                return drifted
            if gain - 2 * error > self.task.tolerance:
                drifted = True
                self.blocks = self.blocks[len(self.blocks) // 2 :]
        self.blocks = []
        return None

    def gain(self) -> tuple[float, float]:
        """Nats that the ELBO rises in as much time again, from the blocks' slope, and the error."""
        size = len(self.blocks) // NUM_GROUPS
        groups = [mean_of(self.blocks[place * size :][:size]) for place in range(NUM_GROUPS)]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *groups)
        products = np.asarray(products_of(stacked, mean_of(groups), self.iteration), float)
        if not np.isfinite(products).all():
            return np.inf, np.inf
        slope, error = squared_slope(products)
        factor = self.time / (size * self.length) ** 2
        return factor * slope, factor * error

    def extend(self, rate: float) -> bool:
        """One more block; False if the budget does not suffice."""
        num_steps = self.length * int(np.ceil(1 / rate))
        refreshes = self.iteration.refresh is not None
        cost = num_steps * self.iteration.num_samples + refreshes * self.iteration.refresh_cost
        if self.spent + cost > self.task.max_evaluations:
            return False
        density, before = self.task.density, self.state
        if refreshes:
            key = jax.random.fold_in(jax.random.fold_in(self.key, 1), self.num_steps)
            before = refresh(density, key, before, self.iteration)
        steps = np.int32(self.num_steps), np.int32(num_steps)
        block = run_block(density, self.key, before, np.float32(rate), *steps, self.iteration)
        self.spent, self.num_steps = self.spent + cost, self.num_steps + num_steps
        self.time += self.length
        self.blocks.append(block.average)
        if len(self.blocks) > MAX_BLOCKS:
            pairs = zip(self.blocks[1::2], self.blocks[2::2], strict=True)
            self.blocks, self.length = [mean_of(pair) for pair in pairs], 2 * self.length
        self.accept(block, before)
        self.rows.append((self.spent, float(block.elbo), float(block.standard_error), rate, np.nan))
        return True

    def accept(self, block: Block, before: Any) -> None:
        """Continue from the block's end, or from before the best block if the ELBO fell."""
        elbo, error = float(block.elbo), float(block.standard_error)
        limit = max(FALL * np.hypot(error, self.best.standard_error), self.task.density.dim / 2)
        self.fell = not elbo >= self.best.elbo - limit
        if elbo > self.best.elbo:
            self.best = _Best(elbo, error, before)
        self.state = self.best.state if self.fell else block.state

    def window(self) -> Window:
        """All blocks of the rate if they are stationary, otherwise the last half of them.

        At the first rate the average is of the last half: the first blocks come from far.
        """
        used, half = len(self.blocks) // GROUPS * GROUPS, len(self.blocks) // 2
        window = self.assess(self.blocks[-used:])
        if not window.stationary and half >= GROUPS:
            return self.assess(self.blocks[half:])
        if self.first:
            return window
        return window._replace(average=mean_of(self.blocks[half:]), noise=2 * window.noise)

    def assess(self, blocks: list[Params]) -> Window:
        """The average of some blocks, its noise, and whether their halves agree."""
        size = len(blocks) // GROUPS
        groups = [mean_of(blocks[place * size :][:size]) for place in range(GROUPS)]
        average = mean_of(groups)
        correlated = CORRELATED if self.length * size == 1 else 1.0
        spread = sum(self.distance(group, average) for group in groups) / GROUPS
        noise = correlated * spread / (GROUPS - 1)
        drift = self.distance(mean_of(groups[:2]), mean_of(groups[2:]))
        least = self.task.tolerance / 10  # a drift that does not matter
        stationary = drift <= DRIFT * max(4 * noise, least)
        if stationary and self.iteration.products is not None:
            gain = self.time * self.crossed(groups) / (size * self.length) ** 2
            stationary = gain <= 2 * max(noise, self.task.tolerance)
        return Window(average, noise, stationary, (self.first, len(self.rows)))

    def crossed(self, groups: list[Params]) -> float:
        """The product (x_2 - x_1)(x_4 - x_3): the squared slope of a drift, in nats."""
        one, two, three, four = groups
        positive = self.distance(one, four) + self.distance(two, three)
        return positive - self.distance(one, three) - self.distance(two, four)

    def compare(self, before: Window | None, now: Window) -> Window:
        """The window with its bias, and whether it drifts, from the window of the rate before."""
        if before is None:
            return now
        apart = self.distance(before.average, now.average)
        if self.rows[-1][3] > self.rows[before.rows[0]][3]:
            return now._replace(bias=4 * apart)  # if proportional to the rate
        gain = max(apart - before.noise - now.noise, 0.0)
        if gain > SHRINKS * before.bias:
            return now._replace(bias=apart, drifts=self.rise(before.rows, now.rows) > CLEAR)
        return now._replace(bias=min(apart, SHRINKS * before.bias))

    def distance(self, first: Params, second: Params) -> float:
        """The iteration's distance of two averages; inf if it is not finite."""
        found = float(distance_of(first, second, self.iteration))
        return abs(found) if np.isfinite(found) else np.inf

    def found(self, reason: Reason, before: Window | None) -> Found:
        """The window before, or the current one if it is less noisy, or far away and higher."""
        best = before
        if reason is not Reason.CONVERGED and len(self.blocks) >= GROUPS:
            now = self.window()
            if before is None or now.noise < before.noise:
                best = now
            elif self.distance(before.average, now.average) > before.error + now.noise:
                best = before if self.rise(before.rows, now.rows) < 0 else now
        if best is None:
            last = self.blocks[len(self.blocks) // 2 :]
            average = mean_of(last) if last else self.iteration.average_of(self.state)
        else:
            average = best.average
            self.rows[-1] = (*self.rows[-1][:4], best.error)
        flat = self.iteration.build(average)
        return Found(flat, reason, self.spent, Trace.of_rows(self.rows), "", average)
