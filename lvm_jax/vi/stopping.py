"""Fixed-rate epochs with averaged iterates, and the rule that ends a fit.

At one rate of the steps the iterates reach a stationary distribution around the best q. The rate
is halved when they are stationary, and the fit ends when a smaller rate would gain less than the
tolerance. The ELBO takes no part in the rule.

    block      the average of the parameters over 1 / rate steps, about the iterates' memory
    window     the last blocks; stationary if its halves differ by no more than their noise
    noise      nats that the window's average loses to Monte-Carlo error, from the blocks' spread
    gain       nats between the averages of two rates, without their noise; the bias is about
               proportional to the rate, in nats to its square, so this is also what is left

A fit has converged when noise + gain <= tolerance.

Source: Welandawe et al. (2024), RABVI; Dhaka et al. (2020) for averages of iterates and R-hat.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax.compiling import bounded_jit
from lvm_jax.typing import Array, Distribution, Float, Int, Key, Params, Scalar
from lvm_jax.vi.density import Density
from lvm_jax.vi.method import Found, Reason, Task, Trace

MIN_BLOCKS, MAX_BLOCKS = 4, 16  # of a window; more are joined in pairs
CORRELATED = 2.0  # the variance of averages of a block, in units of independent ones
DRIFT = 3.0  # the largest distance of two halves of a window, in units of its expectation
MAX_HALVINGS = 12
FALL = 5.0  # standard errors of a block's ELBO below the best that count as divergence
REFRESHED = tuple(range(100))  # blocks of a rate before which an iteration refreshes its state


class Iteration(NamedTuple):
    """A stochastic fit by steps of a fixed rate."""

    step: Callable[..., Any]  # (density, key, state, rate) -> .state, .log_weights
    average_of: Callable[[Any], Params]  # of a state: what is averaged
    build: Callable[[Params], Distribution]  # q of u from averages
    distance: Callable[[Params, Params], Scalar]  # of two averages, in nats
    num_samples: int  # evaluations of a step
    refresh: Callable[..., Any] | None = None  # (density, key, state) -> state, between blocks
    refresh_cost: int = 0  # evaluations of a refresh


class Block(NamedTuple):
    """The result of some steps at one rate."""

    state: Any
    average: Params
    elbo: Scalar
    standard_error: Scalar
    num_odd: Int[Array, ""]  # log-weights that are not finite


class Window(NamedTuple):
    """The average of the last blocks at one rate, and its error."""

    average: Params
    noise: float  # nats
    stationary: bool


def iterate(
    key: Key[Array, ""], iteration: Iteration, state: Any, task: Task, first_rate: float, spent: int
) -> Found:
    """Run epochs from `state` until the rule above or the budget ends them."""
    course = _Course(key, iteration, state, task, spent)
    rate, before = first_rate, None
    for _ in range(MAX_HALVINGS):
        while True:
            window = course.extend(rate)
            if window is None:
                return course.found(Reason.BUDGET, before)
            if course.fell:
                window = None
                break
            gain = np.inf if before is None else course.gain(before, window)
            course.note(window.noise + gain)
            if window.stationary and window.noise + gain <= task.tolerance:
                return course.found(Reason.CONVERGED, window)
            if window.stationary and (gain > task.tolerance / 2):
                break
        rate, before = rate / 2, window
        course.blocks = []
    return course.found(Reason.NO_PROGRESS, before)


class _Course:
    """The mutable part of a fit: its state, the blocks of the current rate, and the trace."""

    def __init__(
        self, key: Key[Array, ""], iteration: Iteration, state: Any, task: Task, spent: int
    ) -> None:
        self.key, self.iteration, self.state, self.task = key, iteration, state, task
        self.spent, self.num_steps = spent, 0
        self.blocks: list[Params] = []
        self.length = 1  # of a block, in units of 1 / rate steps
        self.rows: list[tuple[float, ...]] = []
        self.best = -np.inf, state  # the highest ELBO of a block, and the state before it
        self.fell = False

    def extend(self, rate: float) -> Window | None:
        """One more block, and the window that it ends; None if the budget does not suffice."""
        if not self.blocks:
            self.length = 1
        num_steps = self.length * int(np.ceil(1 / rate))
        cost = num_steps * self.iteration.num_samples
        if self.spent + cost > self.task.max_evaluations:
            return None
        if self.iteration.refresh is not None and len(self.blocks) in REFRESHED:
            self.spent += self.iteration.refresh_cost
            key = jax.random.fold_in(jax.random.fold_in(self.key, 1), self.num_steps)
            self.state = _refresh(self.task.density, key, self.state, self.iteration)
        place = np.int32(self.num_steps), np.int32(num_steps)
        block = _run(
            self.task.density, self.key, self.state, np.float32(rate), *place, self.iteration
        )
        self.spent += cost
        self.num_steps += num_steps
        self.blocks.append(block.average)
        elbo, error = float(block.elbo), float(block.standard_error)
        self.rows.append((self.spent, elbo, error, rate, np.nan))
        lowest = self.best[0] - max(FALL * error, self.task.density.dim / 2)
        self.fell = not elbo >= lowest
        if elbo > self.best[0]:
            self.best = elbo, self.state
        self.state = self.best[1] if self.fell else block.state
        if len(self.blocks) > MAX_BLOCKS:
            pairs = zip(self.blocks[1::2], self.blocks[2::2], strict=True)
            self.blocks, self.length = [_mean(pair) for pair in pairs], 2 * self.length
        return self.window()

    def window(self) -> Window:
        """The longest window of the current blocks that is stationary, or the last half."""
        count = len(self.blocks)
        sizes = sorted({count, 3 * count // 4, count // 2}, reverse=True)
        for size in sizes:
            window = self._assess(self.blocks[-size:])
            if window.stationary:
                return window
        return self._assess(self.blocks[-max(count // 2, 1) :])

    def _assess(self, blocks: list[Params]) -> Window:
        """The average of some blocks, its noise, and whether their halves agree."""
        average, size = _mean(blocks), len(blocks)
        if size < MIN_BLOCKS // 2:
            return Window(average, np.inf, False)
        correlated = CORRELATED if self.length == 1 else 1.0
        spread = np.mean([self.distance(block, average) for block in blocks])
        noise = correlated * float(spread) / (size - 1)
        half = size // 2
        drift = self.distance(_mean(blocks[:half]), _mean(blocks[-half:]))
        expected = 4 * noise * size / (2 * half)
        stationary = size >= MIN_BLOCKS and drift <= DRIFT * max(expected, self.floor)
        return Window(average, noise, stationary)

    @property
    def floor(self) -> float:
        """A distance that does not matter, in nats."""
        return self.task.tolerance / 10

    def distance(self, first: Params, second: Params) -> float:
        """The iteration's distance of two averages; inf if it is not finite."""
        found = float(_distance(first, second, self.iteration))
        return abs(found) if np.isfinite(found) else np.inf

    def gain(self, before: Window, now: Window) -> float:
        """The nats between the averages of two rates, without the expectation of their noise."""
        apart = self.distance(before.average, now.average)
        return max(apart - before.noise - now.noise, 0.0)

    def note(self, error: float) -> None:
        """Write the estimated error into the last row of the trace."""
        self.rows[-1] = (*self.rows[-1][:4], error)

    def found(self, reason: Reason, before: Window | None) -> Found:
        """The result: the better of the current window and the average of the rate before."""
        best = before
        if reason is not Reason.CONVERGED and self.blocks:
            now = self.window()
            if before is None or now.noise < before.noise or not np.isfinite(before.noise):
                best = now
        average = self.iteration.average_of(self.state) if best is None else best.average
        flat = self.iteration.build(average)
        return Found(flat, reason, self.spent, Trace.of_rows(self.rows), "", average)


def _mean(trees: Any) -> Params:
    """The average of some pytrees, on the host."""
    return jax.tree.map(lambda *leaves: np.mean([np.asarray(one) for one in leaves], 0), *trees)


@bounded_jit(2)
def _distance(first: Params, second: Params, iteration: Iteration) -> Scalar:
    return iteration.distance(first, second)


@bounded_jit(3)
def _refresh(density: Density, key: Key[Array, ""], state: Any, iteration: Iteration) -> Any:
    return iteration.refresh(density, key, state)


@bounded_jit(6)
def _run(
    density: Any,  # a Density, or one in other coordinates
    key: Key[Array, ""],
    state: Any,
    rate: Scalar,
    first_step: Int[Array, ""],
    num_steps: Int[Array, ""],
    iteration: Iteration,
) -> Block:
    """`num_steps` steps at one rate; the block's average and ELBO."""

    def body(index: Int[Array, ""], carry: tuple) -> tuple:
        state, total, sums = carry
        done = iteration.step(density, jax.random.fold_in(key, first_step + index), state, rate)
        parts = iteration.average_of(done.state)
        total = jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, parts)
        return done.state, total, sums + _sums(done.log_weights)

    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), iteration.average_of(state))
    rate = rate.astype(jnp.result_type(*jax.tree.leaves(zero)))
    first = _sums(iteration.step(density, key, state, rate).log_weights) * 0
    state, total, sums = jax.lax.fori_loop(0, num_steps, body, (state, zero, jnp.nan_to_num(first)))
    count, number, mean_square = sums[0], sums[1], sums[2]
    elbo = number / count
    error = jnp.sqrt(jnp.maximum(mean_square / count - elbo**2, 0) / count)
    average = jax.tree.map(lambda leaf: leaf / num_steps, total)
    return Block(state, average, elbo, error, sums[3].astype(jnp.int32))


def _sums(log_w: Float[Array, " S"]) -> Float[Array, " 4"]:
    """Number, sum, sum of squares, and number of log-weights that are not finite."""
    return jnp.stack(
        [jnp.ones_like(log_w).sum(), log_w.sum(), (log_w**2).sum(), (~jnp.isfinite(log_w)).sum()]
    )
