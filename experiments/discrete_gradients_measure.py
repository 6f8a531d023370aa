"""Bias, variance and time of one estimator of the digits' gradients."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.discrete_gradients_digits import GROUPS, Entry, Setting, gradient_of
from lvm_jax import diagnostics, gradients
from lvm_jax.typing import Array, Key, Scalar

if TYPE_CHECKING:
    from experiments.discrete_gradients import Config

ROUNDING = 1e-3  # of the exact gradient: what float32 may lose, and no bias worth the name


class Group(NamedTuple):
    """Against the exact gradient, in units of its length (variance: of its square)."""

    bias: float  # length of the mean's error, its noise taken off; 0 if that leaves nothing
    error: float  # standard error of `bias` where it is seen
    z: float  # squared bias in its own standard errors: no bias is seen below 3
    limit: float  # the bias is below this, two standard errors up
    variance: float  # summed over the group
    variance_error: float

    @property
    def is_seen(self) -> bool:
        """Is the bias beyond its noise and beyond float32's rounding?"""
        return self.z > 3 and self.bias > ROUNDING


class Measured(NamedTuple):
    """What one estimator does, by group, and what it costs."""

    groups: dict[str, Group]
    microseconds: float  # a gradient of all images, theta and phi at once; median over blocks
    evaluations: int
    bound: str


def measure(key: Key[Array, ""], setting: Setting, entry: Entry, config: "Config") -> Measured:
    """Bias, variance and time of one estimator."""

    def make(temperature: Scalar) -> gradients.Estimate:
        return entry.estimate

    return _run(key, setting, entry, make, (0.0,), config)[0]


def sweep(
    key: Key[Array, ""],
    setting: Setting,
    make: Callable[[Scalar], gradients.Estimate],
    config: "Config",
) -> list[Measured]:
    """The same at every temperature, in one program."""
    evaluations = config.num_samples * (3 if make is gradients.rebar else 1)
    entry = Entry(make(jnp.ones(())), config.num_samples, evaluations)
    return _run(key, setting, entry, make, config.temperatures, config)


def _run(
    key: Key[Array, ""],
    setting: Setting,
    entry: Entry,
    make: Callable[[Scalar], gradients.Estimate],
    temperatures: tuple[float, ...],
    config: "Config",
) -> list[Measured]:
    repeats = config.num_repeats // config.num_blocks

    def block(key: Key[Array, ""], temperature: Scalar) -> tuple[dict, dict]:
        draw = gradient_of(setting, make(temperature), entry.num_samples, config)
        found = diagnostics.gradient_statistics(key, draw, repeats, chunk_size=repeats)
        return found.mean, found.variance

    compiled = jax.jit(block).lower(key, jnp.float32(0)).compile()
    measured = []
    for place, temperature in enumerate(temperatures):
        keys = jax.random.split(jax.random.fold_in(key, place), config.num_blocks)
        blocks, seconds = [], []
        for one in keys:
            start = time.perf_counter()
            blocks.append(jax.block_until_ready(compiled(one, jnp.float32(temperature))))
            seconds.append(time.perf_counter() - start)
        groups = {
            name: compare(
                np.array([mean[name] for mean, _ in blocks], np.float64),
                np.array([variance[name].sum() for _, variance in blocks], np.float64),
                setting.exact[entry.bound][name],
            )
            for name in GROUPS
        }
        microseconds = 1e6 * float(np.median(seconds)) / repeats
        measured.append(Measured(groups, microseconds, entry.evaluations, entry.bound))
    return measured


def compare(means: np.ndarray, variances: np.ndarray, exact: np.ndarray) -> Group:
    """Bias and variance from the means [B, P] and summed variances [B] of B blocks.

    The squared bias is the average of e_i . e_j over pairs of different blocks, e the error of a
    block's mean: the noise of the mean is not in it. Standard error by delete-one jackknife.
    """
    num, scale = len(means), np.linalg.norm(exact)
    errors = (means - exact) / scale

    def squared(errors: np.ndarray) -> float:
        n = len(errors)
        return float(((errors.sum(0) ** 2).sum() - (errors**2).sum()) / (n * (n - 1)))

    value = squared(errors)
    left = np.array([squared(np.delete(errors, i, axis=0)) for i in range(num)])
    error = float(np.sqrt((num - 1) * left.var()))
    bias = float(np.sqrt(max(value, 0.0)))
    return Group(
        bias=bias,
        error=error / (2 * bias) if bias > 0 else 0.0,
        z=value / error if error > 0 else 0.0,
        limit=float(np.sqrt(max(value, 0.0) + 2 * error)),
        variance=float(variances.mean() / scale**2),
        variance_error=float(variances.std(ddof=1) / np.sqrt(num) / scale**2),
    )
