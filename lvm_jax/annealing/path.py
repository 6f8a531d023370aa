"""The geometric path between q and the joint density, and schedules of temperatures."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax import distributions, weights
from lvm_jax._core import checks
from lvm_jax.typing import Array, ArrayLike, Distribution, Float, Latent, Scalar
from lvm_jax.weights import LogJoint

STEEPNESS = 4.0  # of the sigmoid schedule, in Grosse et al. (2015)


class Place(NamedTuple):
    """A point with both log-densities there, and their gradients for moves that use them.

    A chain carries it, so that another temperature takes no evaluation.
    """

    z: Latent
    log_q: Scalar
    log_joint: Scalar
    slope_q: Latent = ()
    slope_joint: Latent = ()

    @property
    def log_weight(self) -> Float[Array, "..."]:
        """log p(x, z) - log q(z), in nats; of all places if leaves have leading axes."""
        return self.log_joint - self.log_q


class Path(NamedTuple):
    """log f_beta = log q + beta (log p - log q), unnormalised: q at 0, the joint density at 1."""

    log_q: LogJoint  # z -> log q(z), normalised
    log_joint: LogJoint  # z -> log p(x, z)

    def log_weight(self, z: Latent) -> Scalar:
        """log p(x, z) - log q(z), the derivative of log f_beta in beta; in nats."""
        return self.log_joint(z) - self.log_q(z)

    def log_density(self, beta: Scalar, z: Latent) -> Scalar:
        """log f_beta(z), in nats; NaN, which all moves reject, if q and p are both 0."""
        log_q = self.log_q(z)
        return log_q + beta * (self.log_joint(z) - log_q)

    def place(self, z: Latent, slopes: bool) -> Place:
        """z with both log-densities, and their gradients if `slopes`."""
        if not slopes:
            return Place(z, self.log_q(z), self.log_joint(z))
        log_q, slope_q = jax.value_and_grad(self.log_q)(z)
        log_joint, slope_joint = jax.value_and_grad(self.log_joint)(z)
        return Place(z, log_q, log_joint, slope_q, slope_joint)

    def dtype(self, z: Latent) -> jnp.dtype:
        """The dtype of the log-weights of draws z [C, ...], to be used for temperatures."""
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), z)
        return jax.eval_shape(self.log_weight, one).dtype


class Tempered(NamedTuple):
    """The density f_beta of a path, for moves."""

    path: Path
    beta: Scalar
    slopes: bool  # whether places have gradients

    def at(self, z: Latent) -> Place:
        """The place of z: one evaluation."""
        return self.path.place(z, self.slopes)

    def slope_at(self, z: Latent) -> Latent:
        """The gradient of log f_beta at z."""
        return jax.grad(lambda z: self.path.log_density(self.beta, z))(z)

    def value(self, place: Place) -> Scalar:
        """log f_beta, in nats; NaN, which all moves reject, if q and p are both 0."""
        return place.log_q + self.beta * (place.log_joint - place.log_q)

    def slope(self, place: Place) -> Latent:
        """The gradient of log f_beta in z."""

        def between(q: Array, p: Array) -> Array:
            return q + self.beta * (p - q)

        return jax.tree.map(between, place.slope_q, place.slope_joint)


def make_path(log_joint: LogJoint, q: Distribution, z: Latent, continuous: bool) -> Path:
    """The path from q, after validation of the log-joint, q and its draws z [C, ...].

    With `continuous`, the moves need a real-valued z. Raises ValueError or TypeError.
    """
    weights.check_log_joint(log_joint, z)
    weights.check_log_prob(q)
    integers = any(not jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(z))
    if continuous and (integers or distributions.is_discrete(q)):
        raise TypeError(
            "transition: expected annealing.gibbs or annealing.flip for a discrete z, got a move "
            "for real-valued z"
        )
    return Path(q.log_prob, log_joint)


def linear(num_temperatures: int) -> Float[Array, " T1"]:
    """beta_t = t / T for t = 0, ..., T, [T + 1]."""
    return jnp.linspace(0.0, 1.0, checks.integer(num_temperatures, "num_temperatures", 1) + 1)


def sigmoid(num_temperatures: int, steepness: float = STEEPNESS) -> Float[Array, " T1"]:
    """Temperatures by a sigmoid of steepness (2 t / T - 1), rescaled to [0, 1], [T + 1].

    They are dense near 0 and 1, where the densities change fastest.

    Source: Grosse, Ghahramani and Adams (2015), with steepness 4.
    """
    num_temperatures = checks.integer(num_temperatures, "num_temperatures", 1)
    if not checks.number(steepness, "steepness") > 0:
        raise ValueError(f"steepness: expected a number > 0, got {steepness}")
    raw = jax.nn.sigmoid(steepness * jnp.linspace(-1.0, 1.0, num_temperatures + 1))
    betas = (raw - raw[0]) / (raw[-1] - raw[0])
    return betas.at[-1].set(1.0)


def check_temperatures(temperatures: ArrayLike) -> Float[Array, " T1"]:
    """Return [T + 1] temperatures; ValueError unless they rise from 0 to 1.

    For traced temperatures only the shape is checked.
    """
    shape = jnp.shape(temperatures)
    if len(shape) != 1 or shape[0] < 2:
        raise ValueError(
            f"temperatures: expected [T + 1] numbers from 0 to 1 with T >= 1, got shape {shape}; "
            "annealing.sigmoid(100) makes 100"
        )
    if not isinstance(temperatures, jax.core.Tracer):
        values = np.asarray(temperatures)
        if not (np.isfinite(values).all() and values[0] == 0 and values[-1] == 1):
            raise ValueError(
                f"temperatures: expected to start at 0 and end at 1, got {values[0]} and "
                f"{values[-1]}"
            )
        if not (np.diff(values) > 0).all():
            first = int(np.argmin(np.diff(values) > 0))
            raise ValueError(
                f"temperatures: expected to rise at every step, got {values[first]} before "
                f"{values[first + 1]} at index {first}"
            )
    return jnp.asarray(temperatures)
