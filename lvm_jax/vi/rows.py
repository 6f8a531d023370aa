"""The density of a z given rows of data, its minibatches, and a control variate for their noise.

    log p(z) + sum_i l_i(z),    l_i(z) = log p(x_i | z)

Of B rows drawn without replacement from N, with the expansion c_i of l_i to second order at z_0,

    log p(z) + sum_i c_i(z) + N / B sum_b (l_b(z) - c_b(z))

is unbiased for the sum. sum_i c_i is known in closed form from one pass over the data. log p and
log q are not scaled.

Source: Hoffman et al. (2013) for N / B; Miller et al. (2017) and Geffner and Domke (2018) for
expansions as control variates.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from lvm_jax import precision
from lvm_jax.typing import Array, Float, Int, Latent, Scalar

LogLikelihood = Callable[[Latent, Any], Scalar]  # of some rows


@dataclass(frozen=True, eq=False)
class Posterior:
    """log_prior(z) + log_likelihood(z, data), with the likelihood's part for some rows."""

    log_likelihood: LogLikelihood = field(repr=False)
    log_prior: Callable[[Latent], Scalar] | None = field(repr=False)
    data: Any = field(repr=False)  # a pytree of arrays, leaves [N, ...]

    @property
    def unbound(self) -> "Unbound":
        """The functions without the data."""
        return Unbound(self.log_likelihood, self.log_prior)

    @property
    def num_rows(self) -> int:
        """N."""
        return int(np.shape(jax.tree.leaves(self.data)[0])[0])

    def __call__(self, z: Latent) -> Scalar:
        """The sum over all rows, in nats."""
        return self.prior(z) + self.log_likelihood(z, self.data)

    def prior(self, z: Latent) -> Scalar | float:
        """log p(z), 0 without a prior."""
        return 0.0 if self.log_prior is None else self.log_prior(z)


@dataclass(frozen=True)
class Unbound:
    """A `Posterior` without its data, so that new data do not compile again."""

    log_likelihood: LogLikelihood = field(repr=False)
    log_prior: Callable[[Latent], Scalar] | None = field(repr=False)

    def bind(self, data: Any) -> Posterior:
        """The posterior of these data."""
        return Posterior(self.log_likelihood, self.log_prior, data)


class Expansion(NamedTuple):
    """The likelihood of all rows to second order at `centre`, of flattened z."""

    centre: Float[Array, " D"]
    value: Scalar
    gradient: Float[Array, " D"]
    hessian: Float[Array, "D D"]


def expand(posterior: Posterior, z: Latent) -> Expansion:
    """The expansion at z, at the cost of D + 2 gradients over all rows."""
    centre, unravel = ravel_pytree(z)
    of_flat = lambda flat: posterior.log_likelihood(unravel(flat), posterior.data)  # noqa: E731
    value, gradient = jax.value_and_grad(of_flat)(centre)
    return Expansion(centre, value, gradient, jax.hessian(of_flat)(centre))


def minibatch(
    index: Int[Array, " B"], posterior: Posterior, expansion: Expansion | None = None
) -> Callable[[Latent], Scalar]:
    """The estimate of the posterior's log-density from the rows `index`, unbiased for random ones.

    With an `expansion` the estimate has its control variate; it is exact, for any rows, where each
    log-likelihood is quadratic in z.
    """
    rows = jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], posterior.data)
    ratio = posterior.num_rows / index.shape[0]

    if expansion is not None:
        return partial(_controlled, posterior, rows, ratio, expansion)
    return lambda z: posterior.prior(z) + ratio * posterior.log_likelihood(z, rows)


@precision.full
def _controlled(
    posterior: Posterior, rows: Any, ratio: float, expansion: Expansion, z: Latent
) -> Scalar:
    """The estimate with its control variate."""
    flat, unravel = ravel_pytree(z)
    centre, value, gradient, hessian = expansion
    away = flat - centre
    of_flat = lambda one: posterior.log_likelihood(unravel(one), rows)  # noqa: E731
    first, second = jax.jvp(partial(_slope, of_flat, away), (centre,), (away,))
    of_batch = of_flat(centre) + first + second / 2
    of_all = value + away @ gradient + away @ hessian @ away / 2
    return posterior.prior(z) + of_all + ratio * (of_flat(flat) - of_batch)


def _slope(function: Callable, direction: Array, at: Array) -> Scalar:
    """The derivative of a function along a direction."""
    return jax.jvp(function, (at,), (direction,))[1]


def check_posterior(log_density: Any, log_prior: Any, data: Any) -> Any:
    """The posterior of the rows, or the log-density as it is without data."""
    if data is None:
        if log_prior is not None:
            raise ValueError(
                "log_prior: expected None without `data`, where log_density is the whole density"
            )
        return log_density
    for name, function in (("log_density", log_density), ("log_prior", log_prior)):
        if not callable(function) and (name == "log_density" or function is not None):
            raise TypeError(f"{name}: expected a function, got a {type(function).__name__}")
    leaves = jax.tree_util.tree_leaves_with_path(data)
    sizes = {f"data{jax.tree_util.keystr(p)}": np.shape(leaf)[:1] for p, leaf in leaves}
    if not leaves or () in sizes.values() or len(set(sizes.values())) > 1:
        shapes = {name: np.shape(leaf) for name, (_, leaf) in zip(sizes, leaves, strict=True)}
        raise ValueError(f"data: expected arrays [N, ...] with one N, got {shapes or data!r}")
    return Posterior(log_density, log_prior, data)
