"""The modes that a search found, and a proposal that covers them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.special import gammaln

from lvm_jax import distributions, precision
from lvm_jax.distributions.normals import LOG_2PI
from lvm_jax.typing import Array, Bool, Distribution, Float, Int, Key, Latent, Scalar
from lvm_jax.weights import LogJoint

SLOTS = 32  # modes of a point
# Of the Student component of a mode: degrees of freedom nu, scale. The weights of a Cauchy density
# have the tail index 1 - 1 / nu, 0.5 here. Draws of nu = 1 reach places where densities overflow.
FREEDOM, WIDTH = 2.0, 1.2
KINDS = 2  # components of a mode: a normal and a Student t


class Modes(NamedTuple):
    """K slots for distinct modes of log p(x, z), of ONE point; z is a flat vector of D numbers."""

    means: Float[Array, "K D"]
    factors: Float[Array, "K D D"]  # C, lower, of the precision C C^T
    heights: Float[Array, " K"]  # log p(x, z) at the mode; -inf in an unused slot

    @classmethod
    def none(cls, like: Float[Array, " D"], slots: int = SLOTS) -> "Modes":
        """Unused slots: standard normals."""
        eye = jnp.eye(like.size, dtype=like.dtype)
        return cls(
            jnp.zeros((slots, like.size), like.dtype),
            jnp.broadcast_to(eye, (slots, *eye.shape)),
            jnp.full(slots, -jnp.inf, like.dtype),
        )

    @property
    def used(self) -> Bool[Array, " K"]:
        """Whether each slot has a mode."""
        return ~jnp.isneginf(self.heights)

    @property
    def number(self) -> Int[Array, ""]:
        """The number of modes; they occupy the first slots."""
        return self.used.sum()

    def log_masses(self) -> Float[Array, " K"]:
        """The integral of p(x, z) under each mode by Laplace's approximation, in nats."""
        return self.heights + 0.5 * self.means.shape[1] * LOG_2PI - self._log_dets()

    def _log_dets(self) -> Float[Array, " K"]:
        return jnp.log(jnp.diagonal(self.factors, axis1=1, axis2=2)).sum(1)

    @precision.full
    def log_parts(self, value: Float[Array, " D"]) -> Float[Array, "K 2"]:
        """Log-densities of the normal and the Student component of each mode."""
        dim, nu = value.size, FREEDOM
        white = jnp.einsum("kd,kde->ke", value[None] - self.means, self.factors)
        square, log_det = (white**2).sum(1), self._log_dets()
        normal = log_det - 0.5 * (square + dim * LOG_2PI)
        constant = gammaln(0.5 * (nu + dim)) - gammaln(0.5 * nu)
        constant -= dim * (0.5 * jnp.log(nu * jnp.pi) + jnp.log(WIDTH))
        student = constant + log_det - 0.5 * (nu + dim) * jnp.log1p(square / (nu * WIDTH**2))
        return jnp.stack([normal, student], 1)

    @precision.full
    def place(
        self, key: Key[Array, ""], mode: Int[Array, " S"], kind: Int[Array, " S"]
    ) -> Float[Array, "S D"]:
        """One draw of component (mode, kind) each."""
        key_noise, key_chi = jax.random.split(key)
        dtype, dim = self.means.dtype, self.means.shape[1]
        noise = jax.random.normal(key_noise, (*mode.shape, dim), dtype)
        chi = 2 * jax.random.gamma(key_chi, 0.5 * FREEDOM, mode.shape, dtype)
        noise *= jnp.where(kind == 0, 1.0, WIDTH * jnp.sqrt(FREEDOM / chi))[:, None]
        roots = inverses(self.factors)  # (C C^T)^-1 = roots^T roots
        # Every mode places all draws, because a factor for each draw takes more memory.
        away = jnp.einsum("sd,kde->ske", noise, roots)
        away = jnp.take_along_axis(away, mode[:, None, None], 1)[:, 0]
        return self.means[mode] + away


@precision.full
def inverses(factors: Float[Array, "K D D"]) -> Float[Array, "K D D"]:
    """The inverses of lower triangular matrices."""
    eye = jnp.broadcast_to(jnp.eye(factors.shape[-1], dtype=factors.dtype), factors.shape)
    found: Array = jax.lax.linalg.triangular_solve(factors, eye, left_side=True, lower=True)
    return found


class Cover(NamedTuple):
    """A mixture of q, the prior and two components for each mode, as a distribution of z."""

    q: Distribution
    prior: Distribution
    modes: Modes | None  # None for a discrete z
    log_shares: Float[Array, " C"]  # of q, of the prior, and of (mode, kind) row by row
    proper: Bool[Array, ""]  # whether the prior has a density at its own draws

    @property
    def reparameterized(self) -> bool:
        """False: the choice of the component has no gradient."""
        return False

    @property
    def discrete(self) -> bool:
        """Whether z is discrete."""
        return distributions.is_discrete(self.prior)

    def log_parts(self, value: Latent) -> Float[Array, " C"]:
        """Log-densities of the components at one z."""
        prior = outside_is_zero(self.prior.log_prob(value), self.proper)
        both = jnp.stack([self.q.log_prob(value), prior])
        if self.modes is None:
            return both
        own = self.modes.log_parts(ravel_pytree(value)[0]).ravel()
        return jnp.concatenate([jnp.where(prior > -jnp.inf, both, -jnp.inf), own])

    def log_prob(self, value: Latent) -> Scalar:
        """Log-density of one z, in nats."""
        return jax.nn.logsumexp(self.log_parts(value) + self.log_shares)

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Latent:
        """Draws, each from a component that is drawn by the shares."""
        key_label, key_q, key_prior, key_modes = jax.random.split(seed, 4)
        label = jax.random.categorical(key_label, self.log_shares, shape=sample_shape)
        from_q = self.q.sample(seed=key_q, sample_shape=sample_shape)
        from_prior = self.prior.sample(seed=key_prior, sample_shape=sample_shape)
        found = _choose(label == 0, from_q, from_prior)
        if self.modes is None:
            return found
        flat = jnp.maximum(label.ravel() - 2, 0)
        placed = self.modes.place(key_modes, flat // KINDS, flat % KINDS)
        one = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape[len(sample_shape) :], leaf.dtype), found
        )
        own = jax.vmap(ravel_pytree(one)[1])(placed)
        own = jax.tree.map(lambda leaf: leaf.reshape(*sample_shape, *leaf.shape[1:]), own)
        return _choose(label < 2, found, own)


def _choose(first: Bool[Array, " ..."], one: Latent, other: Latent) -> Latent:
    def choose(a: Array, b: Array) -> Array:
        return jnp.where(first.reshape(*first.shape, *[1] * (a.ndim - first.ndim)), a, b)

    return jax.tree.map(choose, one, other)


def cover(
    q: Distribution, prior: Distribution, modes: Modes | None, log_shares: Float[Array, " C"]
) -> Cover:
    """The mixture with these shares."""
    at_draw = prior.log_prob(prior.sample(seed=jax.random.key(0)))
    return Cover(q, prior, modes, log_shares, jnp.isfinite(at_draw))


def outside_is_zero(log_prior: Scalar, proper: Bool[Array, ""]) -> Scalar:
    """-inf for NaN, the log-density of some priors outside their support.

    A prior without a density at its own draws keeps its NaN.
    """
    return jnp.where(jnp.isnan(log_prior) & proper, -jnp.inf, log_prior)


def supported(log_joint: LogJoint, prior: Distribution) -> LogJoint:
    """The log-joint, -inf outside the support of the prior, where it may be NaN."""
    proper = jnp.isfinite(prior.log_prob(prior.sample(seed=jax.random.key(0))))

    def density(z: Latent) -> Scalar:
        inside = outside_is_zero(prior.log_prob(z), proper) != -jnp.inf
        return jnp.where(inside, log_joint(z), -jnp.inf)

    return density
