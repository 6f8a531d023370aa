"""The published toy: minimise E[(b - t)^2] over the logit l of b ~ Bernoulli(sigmoid(l)).

At l = 0 mean and variance of every estimator are derived (`lvm_jax.problems.one_bit`). This module
measures them, and runs gradient descent.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from experiments.discrete_gradients.config import Config
from lvm_jax import diagnostics, gradients
from lvm_jax.distributions import Bernoulli
from lvm_jax.problems import one_bit
from lvm_jax.typing import Array, Key, Scalar

BLOCKS = 10  # of gradients, for the standard error of a variance
LEARNING_RATE = 1.0  # of the descents


class ToyRow(NamedTuple):
    """Mean and variance of an estimator's gradient at l = 0, derived and measured."""

    mean: float
    variance: float
    measured_mean: float
    mean_error: float  # standard error
    measured_variance: float
    variance_error: float
    num_samples: int

    @property
    def z(self) -> list[float]:
        """(measured - derived) / standard error of mean and variance, if that error is not 0."""
        of_mean = (self.measured_mean - self.mean, self.mean_error, 1e-12)
        least = 1e-5 * self.variance or np.inf
        of_variance = (self.measured_variance - self.variance, self.variance_error, least)
        return [gap / error for gap, error, least in (of_mean, of_variance) if error > least]


class Member(NamedTuple):
    """An estimator on the toy: the function, its S, and t -> derived mean and variance."""

    estimate: gradients.Surrogate
    num_samples: int
    derive: Callable[[float], one_bit.Gradient]


def free_control(log_weight: Callable, soften: Callable, z: Array) -> Scalar:
    """A control for RELAX that evaluates f at 0 and 1 only: (f1 - f0) sigmoid(2 z)."""
    rise = log_weight(jnp.ones_like(z)) - log_weight(jnp.zeros_like(z))
    return rise * soften(2 * z).sum()


def derive_free(t: float) -> one_bit.Gradient:
    """The moments of RELAX with `free_control`."""
    rise, soft = 1 - 2 * t, lambda z: expit(2 * z)
    return one_bit.controlled(
        t, lambda z: rise * soft(z), lambda z: 2 * rise * soft(z) * (1 - soft(z))
    )


ESTIMATORS: dict[str, Member] = {
    "enumeration": Member(gradients.enumerated(), 1, one_bit.exact),
    "score function": Member(gradients.score_function(), 1, one_bit.score_function),
    "score function, baseline ¼": Member(
        gradients.score_function(baseline=0.25), 1, lambda t: one_bit.score_function(t, 0.25)
    ),
    "RLOO": Member(gradients.leave_one_out(), 2, one_bit.leave_one_out),
    "ARM": Member(gradients.arm(), 1, one_bit.arm),
    "DisARM": Member(gradients.disarm(), 1, one_bit.exact),
    "REBAR": Member(gradients.rebar(0.5), 1, lambda t: one_bit.rebar(t, 0.5)),
    "RELAX": Member(gradients.relax(free_control), 1, derive_free),
    **{
        f"concrete, τ = {tau:g}": Member(
            gradients.concrete(tau), 1, partial(one_bit.concrete, temperature=tau)
        )
        for tau in (0.1, 0.5, 1.0)
    },
    "straight-through": Member(gradients.straight_through(), 1, one_bit.straight_through),
}


def toy_gradient(
    member: Member, key: Key[Array, ""], logit: Scalar, target: float | Scalar
) -> Scalar:
    """The gradient of E[(b - t)^2] in l: adding log q to the square cancels the entropy."""

    def surrogate(logit: Scalar) -> Scalar:
        still = Bernoulli(jax.lax.stop_gradient(logit)[None])
        square = lambda b: ((b - target) ** 2).sum() + still.log_prob(b)  # noqa: E731
        q = lambda logit: Bernoulli(logit[None])  # noqa: E731
        return member.estimate(key, square, q, logit, member.num_samples)

    # In a relaxed objective the entropy's gradient, -l sigmoid'(l), remains. It is 0 at l = 0, and
    # cancels elsewhere if the relaxed mean of b is sigmoid(l).
    return jax.grad(surrogate)(logit)


def measure(key: Key[Array, ""], config: Config) -> dict[float, dict[str, ToyRow]]:
    """Every estimator at every target, by target and name; float64 where x64 is on."""
    found: dict[float, dict[str, ToyRow]] = {t: {} for t in config.targets}
    repeats = -(-config.toy_repeats // BLOCKS)
    for place, (name, member) in enumerate(ESTIMATORS.items()):

        @jax.jit
        def blocks(key: Key[Array, ""], target: Scalar, member: Member = member) -> tuple:
            gradient = lambda key: toy_gradient(member, key, jnp.zeros(()), target)  # noqa: E731
            return diagnostics.gradient_blocks(key, gradient, BLOCKS, repeats, chunk_size=10_000)

        for t in config.targets:
            drawn = blocks(jax.random.fold_in(key, place), jnp.asarray(t))
            means, variances = (np.asarray(v, np.float64) for v in drawn)
            errors = np.sqrt(variances.mean() / repeats), variances.std(ddof=1)
            of_mean, of_variance = np.array(errors) / np.sqrt(BLOCKS)
            measured = means.mean(), of_mean, variances.mean(), of_variance
            found[t][name] = ToyRow(*member.derive(t), *map(float, measured), member.num_samples)
    return found


def descend(key: Key[Array, ""], config: Config) -> dict[str, np.ndarray]:
    """The exact loss along stochastic gradient descent from l = 0, [seeds, steps + 1]."""
    t = config.targets[0]

    def run(name: str, key: Key[Array, ""]) -> Array:
        def step(logit: Scalar, index: Array) -> tuple[Scalar, Scalar]:
            g = toy_gradient(ESTIMATORS[name], jax.random.fold_in(key, index), logit, t)
            moved = logit - LEARNING_RATE * g
            return moved, moved

        _, logits = jax.lax.scan(step, jnp.zeros(()), jnp.arange(config.toy_steps))
        probability = jax.nn.sigmoid(jnp.concatenate([jnp.zeros(1), logits]))
        return probability * (1 - t) ** 2 + (1 - probability) * t**2

    keys = jax.random.split(key, config.toy_seeds)
    return {
        name: np.asarray(jax.jit(jax.vmap(lambda key, name=name: run(name, key)))(keys))
        for name in ESTIMATORS
    }
