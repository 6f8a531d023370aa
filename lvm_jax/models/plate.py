"""The joint density of a whole data set with global, or global and local, latent variables."""

from typing import Any

import jax
import jax.numpy as jnp

from lvm_jax._core import checks
from lvm_jax.distributions import Rows
from lvm_jax.distributions.kinds import has_parts
from lvm_jax.models.base import Model
from lvm_jax.typing import Distribution, Latent, Params


def plate(model: Model, num_points: int) -> Model:
    """p(X, beta, Z) = p(beta) prod_n p(z_n | beta) p(x_n | z_n, beta): all rows are ONE data point.

    `model` is the model of one row. Its prior is a `Successive` of p(beta) and p(z | beta), or
    p(beta) alone without local latents. A data point of the result is X, leaves [N, ...], and
    z = {"beta": ..., "z": leaves [N, ...]} with the names of the `Successive`. All methods of
    `evidence` and `annealing` then estimate log p(X):

        P, Q = models.plate(model, N)(theta), guides.plate(guide)(phi)
        evidence.evaluate(key, P, Q, X[None], num_samples)

    Raises ValueError for num_points < 1. Source: Bishop 2006, section 8.1.1 (plates).
    """
    num_points = checks.integer(num_points, "num_points", 1)
    given = None if model.given is None else jax.vmap(model.given)
    numbers = jnp.arange(num_points)

    of_row: Any = model.prior

    def prior(theta: Params, *c: Any) -> Distribution:
        one = of_row(theta, *jax.tree.map(lambda leaf: leaf[0], c))
        if not has_parts(one):
            return one

        def second(beta: Latent) -> Rows:
            return Rows(lambda row: of_row(theta, *row[1]).second(beta), (numbers, c))

        return one._replace(second=second)

    def likelihood(theta: Params, z: Latent, *c: Any) -> Distribution:
        one = of_row(theta, *jax.tree.map(lambda leaf: leaf[0], c))
        if not has_parts(one):
            return Rows(lambda row: model.likelihood(theta, z, *row[1]), (numbers, c))
        beta, local = (z[name] for name in one.names)
        make = lambda row: model.likelihood(theta, one.join(beta, row[2]), *row[1])  # noqa: E731
        return Rows(make, (numbers, c, local))

    return Model(
        model.init, prior, likelihood, support=model.support, observed=model.observed, given=given
    )
