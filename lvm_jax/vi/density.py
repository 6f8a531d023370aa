"""A log-density of a pytree as a function of a vector, with its evaluations in float arrays."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from lvm_jax._core import checks
from lvm_jax._core.recognition import bindable
from lvm_jax.compiling import bounded_jit
from lvm_jax.distributions import Unflattened
from lvm_jax.typing import Array, Distribution, Float, Key, Latent, Scalar
from lvm_jax.vi.constraints import Constraint, Unconstrained, check_constraint
from lvm_jax.vi.rows import Expansion, Posterior, Unbound, minibatch

LogDensity = Callable[[Latent], Scalar]


@partial(
    jax.tree_util.register_dataclass, data_fields=["start", "data"], meta_fields=["log_density"]
)
@dataclass(frozen=True, eq=False)
class Density:
    """log_density of a z like `start`, and the same function of u = flattened z - start, [D].

    A pytree with the leaves of start; log_density is static.
    """

    log_density: Any = field(repr=False)  # a function of z, or unbound
    start: Latent  # float arrays
    data: Any = None  # of a log_density that is `rows.Unbound`, or is of one

    @property
    def dim(self) -> int:
        """D, the number of numbers in z."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.start))

    @property
    def dtype(self) -> Any:
        """The type of u."""
        return jnp.result_type(*jax.tree.leaves(self.start))

    def __call__(self, u: Float[Array, " D"]) -> Scalar:
        """log_density(start + u), in nats."""
        return self.bound(self.posterior)(self.unflatten(u))

    def bound(self, posterior: Any) -> LogDensity:
        """The log-density of z, with `posterior` in place of an unbound one."""
        if posterior is None:
            return self.log_density
        if isinstance(self.log_density, Unconstrained):
            return Unconstrained(posterior, self.log_density.constraint)
        return posterior

    def unflatten(self, u: Float[Array, " D"]) -> Latent:
        """The z at start + u."""
        flat, unravel = ravel_pytree(self.start)
        return unravel(flat + u)

    def around(self, flat: Distribution) -> Unflattened:
        """The distribution of z = start + u, u ~ `flat`."""
        return Unflattened.around(flat, self.start)

    @property
    def posterior(self) -> Any:
        """The `Posterior` of a density of rows of data, in constrained z; None of another."""
        inner = self.log_density
        inner = inner.log_density if isinstance(inner, Unconstrained) else inner
        return inner.bind(self.data) if isinstance(inner, Unbound) else None

    def constrained(self, u: Float[Array, " D"]) -> Latent:
        """The z that log_density takes from the user, at u."""
        z = self.unflatten(u)
        inner = self.log_density
        return inner.constraint.forward(z)[0] if isinstance(inner, Unconstrained) else z

    def minibatch(
        self, key: Key[Array, ""], batch_size: int, expansion: Expansion
    ) -> Callable[[Float[Array, " D"]], Scalar]:
        """An unbiased estimate of this density of u, by `rows.minibatch` of random rows."""
        posterior = self.posterior
        index = jax.random.choice(key, posterior.num_rows, (batch_size,), replace=False)
        estimate = self.bound(minibatch(index, posterior, expansion))
        return lambda u: estimate(self.unflatten(u))

    def leaf(self, index: int) -> str:
        """The name of the leaf that holds number `index` of u, such as "start['mu']"."""
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.start):
            if index < leaf.size:
                return f"start{jax.tree_util.keystr(path)}"
            index -= leaf.size
        raise IndexError(index)


@bounded_jit(lean=True)
def value_and_grad(u: Float[Array, " D"], density: Density) -> tuple[Scalar, Array]:
    """The log-density of one u with its gradient."""
    return jax.value_and_grad(density)(u)


def check_density(
    log_density: LogDensity, start: Latent, constrain: Any = None
) -> tuple[Density, Constraint | None]:
    """The density of unconstrained numbers, and the constraint.

    Refuses a `start` that is no pytree of real numbers, a `constrain` that does not fit it, and a
    log_density that does not map it to a number.
    """
    constraint, u = check_constraint(constrain, _check_start(start))
    z = u if constraint is None else jax.eval_shape(constraint.forward, u)[0]
    _check_log_density(log_density, z)
    function: Any = log_density
    data = None
    if isinstance(log_density, Posterior):
        function, data = log_density.unbound, jax.tree.map(jnp.asarray, log_density.data)
    if constraint is not None:
        function = Unconstrained(function, constraint)
    return Density(bindable(function), u, data), constraint


def _check_start(start: Latent) -> Latent:
    """The start as arrays; refuses all but a pytree of finite real numbers."""
    leaves = jax.tree_util.tree_leaves_with_path(start)
    if not leaves:
        raise ValueError(f"start: expected at least one array of numbers, got {start!r}")
    for path, leaf in leaves:
        name = f"start{jax.tree_util.keystr(path)}"
        kind = checks.real_array(leaf, name).dtype
        if not jnp.issubdtype(kind, jnp.floating):
            raise TypeError(
                f"{name}: expected real numbers, got {kind}; write 0.0 for 0, and sum a discrete "
                "part of z out of log_density"
            )
        checks.finite(np.asarray(leaf), name)
    return jax.tree.map(jnp.asarray, start)


def _check_log_density(log_density: LogDensity, start: Latent) -> None:
    """Refuse a function that does not map the start, arrays or their shapes, to one number."""
    shapes = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", start)
    expected = f"log_density: expected a function of one z, {shapes}, to one real number"
    if not callable(log_density):
        raise TypeError(f"{expected}, got a {type(log_density).__name__}")
    try:
        value = jax.eval_shape(log_density, start)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(
            f"{expected}, but it fails on the start ({type(error).__name__}: {error})"
        ) from error
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"{expected}, got {value}; sum over all that is not z")
