"""Maps of unconstrained numbers u to constrained z, with the log-determinants of a density of u.

    log p(u) = log p(z(u)) + log |det dz/du|

A name of `CONSTRAINTS` holds for one leaf of z. The densities of "simplex" and of
"correlation_cholesky" are densities of the free numbers: the first K - 1 of a simplex, and those
below the diagonal of a factor. A normalised Dirichlet density therefore has Z = 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax._core import checks
from lvm_jax.distributions import Unflattened
from lvm_jax.typing import Array, Key, Latent, Scalar

REAL = "real"


class Bijection(NamedTuple):
    """The constraint of one leaf."""

    forward: Callable[[Array], tuple[Array, Scalar]]  # u -> z, log |det dz/du|
    inverse: Callable[[Array], Array]  # z -> u
    holds: Callable[[np.ndarray], bool]
    words: str  # what holds


def _real(u: Array) -> tuple[Array, Scalar]:
    return u, jnp.zeros((), u.dtype)


def _positive(u: Array) -> tuple[Array, Scalar]:
    return jnp.exp(u), u.sum()


def _unit_interval(u: Array) -> tuple[Array, Scalar]:
    return jax.nn.sigmoid(u), -(jax.nn.softplus(u) + jax.nn.softplus(-u)).sum()


def _logit(z: Array) -> Array:
    return jnp.log(z) - jnp.log1p(-z)


def _simplex(u: Array) -> tuple[Array, Scalar]:
    zero = jnp.zeros((*u.shape[:-1], 1), u.dtype)
    log_z = jax.nn.log_softmax(jnp.concatenate([u, zero], -1), -1)
    return jnp.exp(log_z), log_z.sum()


def _log_ratios(z: Array) -> Array:
    return jnp.log(z[..., :-1]) - jnp.log(z[..., -1:])


def _ordered(u: Array) -> tuple[Array, Scalar]:
    steps = jnp.concatenate([u[..., :1], jnp.exp(u[..., 1:])], -1)
    return jnp.cumsum(steps, -1), u[..., 1:].sum()


def _log_steps(z: Array) -> Array:
    return jnp.concatenate([z[..., :1], jnp.log(jnp.diff(z, axis=-1))], -1)


def _correlation_cholesky(u: Array) -> tuple[Array, Scalar]:
    """Rows (u_i1, ..., u_i(i-1), 1) / s_i of unit norm; |det| = prod_i s_i^-(i + 1), i = 1 to D."""
    dim = (1 + math.isqrt(1 + 8 * u.shape[-1])) // 2
    rows = jnp.eye(dim, dtype=u.dtype).at[np.tril_indices(dim, -1)].set(u)
    squared = (rows**2).sum(1)
    log_det = -0.5 * (jnp.arange(2, dim + 2) * jnp.log(squared)).sum()
    return rows / jnp.sqrt(squared)[:, None], log_det


def _below_diagonal(z: Array) -> Array:
    return (z / jnp.diagonal(z)[:, None])[np.tril_indices(z.shape[0], -1)]


def _is_simplex(z: np.ndarray) -> bool:
    return z.ndim > 0 and bool((z > 0).all() and np.allclose(z.sum(-1), 1, atol=1e-5))


def _is_factor(z: np.ndarray) -> bool:
    square = z.ndim == 2 and z.shape[0] == z.shape[1] > 1
    return square and bool(
        (np.diagonal(z) > 0).all()
        and np.allclose((z**2).sum(1), 1, atol=1e-5)
        and not np.triu(z, 1).any()
    )


CONSTRAINTS: dict[str, Bijection] = {
    REAL: Bijection(_real, lambda z: z, lambda z: True, "real numbers"),
    "positive": Bijection(_positive, jnp.log, lambda z: bool((z > 0).all()), "numbers > 0"),
    "unit_interval": Bijection(
        _unit_interval, _logit, lambda z: bool(((z > 0) & (z < 1)).all()), "numbers in (0, 1)"
    ),
    "simplex": Bijection(_simplex, _log_ratios, _is_simplex, "numbers > 0 with sum 1, [..., K]"),
    "ordered": Bijection(
        _ordered, _log_steps, lambda z: z.ndim > 0 and bool((np.diff(z) > 0).all()),
        "increasing numbers, [..., K]",
    ),
    "correlation_cholesky": Bijection(
        _correlation_cholesky, _below_diagonal, _is_factor,
        "a lower triangle [D, D] with a positive diagonal and rows of norm 1",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Named:
    """A constraint by name for each leaf of z."""

    names: tuple[str, ...]

    def forward(self, u: Latent) -> tuple[Latent, Scalar]:
        """z and log |det dz/du| of one u."""
        leaves, structure = jax.tree.flatten(u)
        pairs = [CONSTRAINTS[n].forward(leaf) for n, leaf in zip(self.names, leaves, strict=True)]
        log_det = jnp.stack([log_det for _, log_det in pairs]).sum()
        return jax.tree.unflatten(structure, [z for z, _ in pairs]), log_det

    def inverse(self, z: Latent) -> Latent:
        """The u of one z."""
        leaves, structure = jax.tree.flatten(z)
        pairs = zip(self.names, leaves, strict=True)
        u = [CONSTRAINTS[n].inverse(jnp.asarray(leaf)) for n, leaf in pairs]
        return jax.tree.unflatten(structure, u)


@dataclass(frozen=True)
class Function:
    """A constraint by a function u -> (z, log |det dz/du|)."""

    forward: Callable[[Latent], tuple[Latent, Scalar]]

    def inverse(self, z: Latent) -> Latent:
        """TypeError: a function has no inverse."""
        raise TypeError(
            "q.log_prob: `constrain` is a function, whose inverse is not known; use "
            "q.sample_and_log_prob, or q.base.log_prob of an unconstrained u"
        )


Constraint = Named | Function


@dataclass(frozen=True)
class Unconstrained:
    """log p(z(u)) + log |det dz/du|, a density of u."""

    log_density: Callable[[Latent], Scalar]
    constraint: Constraint

    def __call__(self, u: Latent) -> Scalar:
        """The log-density of one u, in nats."""
        z, log_det = self.constraint.forward(u)
        return self.log_density(z) + log_det


@partial(jax.tree_util.register_dataclass, data_fields=["base"], meta_fields=["constraint"])
@dataclass(frozen=True, eq=False)
class Constrained:
    """The distribution of z(u), u ~ `base`."""

    base: Unflattened
    constraint: Constraint = field(repr=False)

    @property
    def reparameterized(self) -> bool:
        """Whether draws carry gradients to the parameters."""
        return self.base.reparameterized

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Latent:
        """Draws of z, leaves [*sample_shape, ...]."""
        return self._map(self.base.sample(seed=seed, sample_shape=sample_shape), sample_shape)[0]

    def log_prob(self, value: Latent) -> Scalar:
        """Log-density of one z, in nats; TypeError where `constrain` is a function."""
        u = self.constraint.inverse(value)
        return self.base.log_prob(u) - self.constraint.forward(u)[1]

    def sample_and_log_prob(
        self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()
    ) -> tuple[Latent, Array]:
        """Draws of z, leaves [*sample_shape, ...], and log q of each."""
        u, log_q = self.base.sample_and_log_prob(seed=seed, sample_shape=sample_shape)
        z, log_det = self._map(u, sample_shape)
        return z, log_q - log_det

    def _map(self, u: Latent, sample_shape: tuple[int, ...]) -> tuple[Latent, Array]:
        axes = len(sample_shape)
        rows = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[axes:]), u)
        mapped = jax.vmap(self.constraint.forward)(rows)
        return jax.tree.map(lambda leaf: leaf.reshape(*sample_shape, *leaf.shape[1:]), mapped)


def check_constraint(constrain: Any, start: Latent) -> tuple[Constraint | None, Latent]:
    """The constraint, and the start in unconstrained numbers.

    `start` is unconstrained for a function, and constrained for names.
    """
    if constrain is None:
        return None, start
    if callable(constrain):
        _check_function(constrain, start)
        return Function(constrain), start
    named = _check_names(constrain, start)
    return named, named.inverse(start)


def _check_function(constrain: Callable, start: Latent) -> None:
    """Refuse a function that does not map the start to (z, one number)."""
    shapes = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", start)
    try:
        found = jax.eval_shape(constrain, start)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(
            f"start: expected an unconstrained pytree that `constrain` takes, got {shapes}, on "
            f"which it fails ({type(error).__name__}: {error})"
        ) from error
    pair = isinstance(found, tuple) and len(found) == 2
    if not pair or getattr(found[1], "shape", None) != ():
        raise ValueError(
            f"constrain: expected a function of u to (z, log |det dz/du|), a pair whose second "
            f"part is one number, got {found}; sum the log-determinants of all leaves"
        )


def _check_names(constrain: Any, start: Latent) -> Named:
    """The names, if each is of a leaf of the start that satisfies it; other leaves are real."""
    given = jax.tree_util.tree_leaves_with_path(constrain)
    by_path = {jax.tree_util.keystr(path): name for path, name in given}
    leaves = [(jax.tree_util.keystr(p), z) for p, z in jax.tree_util.tree_leaves_with_path(start)]
    for path, name in by_path.items():
        if path not in dict(leaves):
            raise ValueError(
                f"constrain: expected names for leaves of start, {', '.join(p for p, _ in leaves)},"
                f" got one for {path or 'the whole start'}"
            )
        if not isinstance(name, str):
            raise TypeError(
                f"constrain{path}: expected one of {', '.join(CONSTRAINTS)}, or a function of the "
                f"whole pytree for another map, got a {type(name).__name__}"
            )
        checks.choice(name, f"constrain{path}", tuple(CONSTRAINTS))
    names = tuple(by_path.get(path, REAL) for path, _ in leaves)
    for name, (path, z) in zip(names, leaves, strict=True):
        bijection = CONSTRAINTS[name]
        if not bijection.holds(np.asarray(z)):
            raise ValueError(
                f"start{path}: expected {bijection.words}, as constrain{path} is {name!r}, got {z}"
            )
    return Named(names)
