"""The published toy: minimise E[(b - t)^2] over the logit l of b ~ Bernoulli(sigmoid(l)).

At l = 0, with f1 = (1 - t)^2 and f0 = t^2, everything about an estimator can be derived; this file
has the derivations, the measurements, and the descents.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import diagnostics, gradients
from lvm_jax.distributions import Bernoulli
from lvm_jax.typing import Array, Key, Scalar

if TYPE_CHECKING:
    from experiments.discrete_gradients import Config

TEMPERATURES = (0.1, 0.5, 1.0)  # of concrete


class ToyRow(NamedTuple):
    """Mean and variance of an estimator's gradient at l = 0, derived and measured."""

    mean: float
    variance: float
    measured_mean: float
    mean_error: float  # standard error
    measured_variance: float
    variance_error: float
    num_samples: int


class Member(NamedTuple):
    """An estimator on the toy: the function, its S, and (mean, variance) derived from t."""

    estimate: gradients.Estimate
    num_samples: int
    derive: Callable[[float], tuple[float, float]]


def slope(t: float) -> float:
    """The exact gradient, sigmoid'(0) (f1 - f0) = (1 - 2 t) / 4."""
    return (1 - 2 * t) / 4


def reinforce(baseline: float) -> Callable[[float], tuple[float, float]]:
    """(f(b) - c)(b - 1/2) takes two values, (f1 - c)/2 and -(f0 - c)/2, with equal odds."""
    return lambda t: (slope(t), (((1 - t) ** 2 + t**2 - 2 * baseline) / 4) ** 2)


def derive_concrete(temperature: float) -> Callable[[float], tuple[float, float]]:
    """f'(s) s (1 - s) / temperature at s = sigmoid(z / temperature), z logistic: by quadrature."""

    def derive(t: float) -> tuple[float, float]:
        u = (np.arange(1_000_000) + 0.5) / 1_000_000
        s = sigmoid(np.log(u / (1 - u)) / temperature)
        g = 2 * (s - t) * s * (1 - s) / temperature
        return float(g.mean()), float(g.var())

    return derive


def derive_control(
    value: Callable[[np.ndarray, float], np.ndarray], gradient: Callable
) -> Callable[[float], tuple[float, float]]:
    """(f(b) - c(z'))(b - 1/2) + c'(z) - c'(z') dz'/dl over two uniforms: by quadrature.

    z' given b is sign softplus(n + softplus(sign l)), with derivative sigmoid(n + ln 2) / 2 at 0.
    """

    def derive(t: float) -> tuple[float, float]:
        u = (np.arange(1500) + 0.5) / 1500
        z, n = np.meshgrid(np.log(u / (1 - u)), np.log(u / (1 - u)), indexing="ij")
        b = (z > 0).astype(float)
        tied = (2 * b - 1) * np.logaddexp(0, n + np.log(2))
        path = gradient(z, t) - gradient(tied, t) * sigmoid(n + np.log(2)) / 2
        g = ((b - t) ** 2 - value(tied, t)) * (b - 0.5) + path
        return float(g.mean()), float(g.var())

    return derive


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    return np.exp(-np.logaddexp(0, -x))


def rebar_value(z: np.ndarray, t: float) -> np.ndarray:
    """The relaxed f of REBAR at temperature 1/2."""
    return (sigmoid(2 * z) - t) ** 2


def rebar_gradient(z: np.ndarray, t: float) -> np.ndarray:
    """Its derivative in z."""
    s = sigmoid(2 * z)
    return 4 * (s - t) * s * (1 - s)


def free_control(log_weight: Callable, soften: Callable, z: Array) -> Scalar:
    """A control for RELAX that needs f at 0 and 1 only: (f1 - f0) sigmoid(2 z)."""
    rise = log_weight(jnp.ones_like(z)) - log_weight(jnp.zeros_like(z))
    return rise * soften(2 * z).sum()


ESTIMATORS: dict[str, Member] = {
    "enumeration": Member(gradients.enumerated(), 1, lambda t: (slope(t), 0.0)),
    "score function": Member(gradients.score_function(), 1, reinforce(0.0)),
    "score function, baseline ¼": Member(
        gradients.score_function(baseline=0.25), 1, reinforce(0.25)
    ),
    # two draws: 0 if they agree, else (f1 - f0)/2
    "RLOO": Member(gradients.leave_one_out(), 2, lambda t: (slope(t), slope(t) ** 2)),
    # 4 slope |u - 1/2|
    "ARM": Member(gradients.arm(), 1, lambda t: (slope(t), slope(t) ** 2 / 3)),
    "DisARM": Member(gradients.disarm(), 1, lambda t: (slope(t), 0.0)),
    "REBAR": Member(gradients.rebar(0.5), 1, derive_control(rebar_value, rebar_gradient)),
    "RELAX": Member(
        gradients.relax(free_control),
        1,
        derive_control(
            lambda z, t: (1 - 2 * t) * sigmoid(2 * z),
            lambda z, t: 2 * (1 - 2 * t) * sigmoid(2 * z) * sigmoid(-2 * z),
        ),
    ),
    **{
        f"concrete, τ = {tau:g}": Member(gradients.concrete(tau), 1, derive_concrete(tau))
        for tau in TEMPERATURES
    },
    # 2 (b - t) / 4: unbiased here, since a square is symmetric about l = 0
    "straight-through": Member(gradients.straight_through(), 1, lambda t: (slope(t), 1 / 16)),
}


def toy_gradient(
    member: Member, key: Key[Array, ""], logit: Scalar, target: float | Scalar
) -> Scalar:
    """The gradient of E[(b - t)^2] in l, the entropy cancelled: as if the square were the ELBO."""

    def surrogate(logit: Scalar) -> Scalar:
        still = Bernoulli(jax.lax.stop_gradient(logit)[None])
        return member.estimate(
            key,
            lambda b: ((b - target) ** 2).sum() + still.log_prob(b),
            lambda logit: Bernoulli(logit[None]),
            logit,
            member.num_samples,
        )

    # A relaxed objective adds the entropy's own gradient instead, -l sigmoid'(l). It is 0 at l = 0,
    # and elsewhere cancels as far as the relaxed mean of b is sigmoid(l).
    return jax.grad(surrogate)(logit)


def measure(key: Key[Array, ""], config: "Config") -> dict[float, dict[str, ToyRow]]:
    """Every estimator at every target."""
    found: dict[float, dict[str, ToyRow]] = {t: {} for t in config.targets}
    num_blocks = 10
    repeats = -(-config.toy_repeats // num_blocks)
    for place, (name, member) in enumerate(ESTIMATORS.items()):

        def gradient(key: Key[Array, ""], target: Scalar, member: Member = member) -> Scalar:
            return toy_gradient(member, key, jnp.zeros(()), target)

        @jax.jit
        def blocks(key: Key[Array, ""], target: Scalar, gradient: Callable = gradient) -> tuple:
            def one(key: Key[Array, ""]) -> tuple[Scalar, Scalar]:
                statistics = diagnostics.gradient_statistics(
                    key, lambda key: gradient(key, target), repeats, chunk_size=10_000
                )
                return statistics.mean, statistics.variance

            return jax.lax.map(one, jax.random.split(key, num_blocks))

        for t in config.targets:
            means, variances = (
                np.asarray(v, np.float64)
                for v in blocks(jax.random.fold_in(key, place), jnp.asarray(t))
            )
            mean, variance = member.derive(t)
            found[t][name] = ToyRow(
                mean=mean,
                variance=variance,
                measured_mean=float(means.mean()),
                mean_error=float(np.sqrt(variances.mean() / (repeats * num_blocks))),
                measured_variance=float(variances.mean()),
                variance_error=float(variances.std(ddof=1) / np.sqrt(num_blocks)),
                num_samples=member.num_samples,
            )
    return found


def descend(key: Key[Array, ""], config: "Config") -> dict[str, np.ndarray]:
    """The exact loss along stochastic gradient descent from l = 0, [seeds, steps + 1]."""
    t = config.targets[0]

    def run(name: str, key: Key[Array, ""]) -> Array:
        def step(logit: Scalar, index: Array) -> tuple[Scalar, Scalar]:
            g = toy_gradient(ESTIMATORS[name], jax.random.fold_in(key, index), logit, t)
            moved = logit - config.toy_learning_rate * g
            return moved, moved

        _, logits = jax.lax.scan(step, jnp.zeros(()), jnp.arange(config.toy_steps))
        probability = jax.nn.sigmoid(jnp.concatenate([jnp.zeros(1), logits]))
        return probability * (1 - t) ** 2 + (1 - probability) * t**2

    keys = jax.random.split(key, config.toy_seeds)
    return {
        name: np.asarray(jax.jit(jax.vmap(lambda key, name=name: run(name, key)))(keys))
        for name in ESTIMATORS
    }
