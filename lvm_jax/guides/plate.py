"""The guide of a whole data set with global, or global and local, latent variables."""

from typing import Any

import jax

from lvm_jax.distributions import Rows
from lvm_jax.distributions.kinds import has_parts
from lvm_jax.guides.base import Guide
from lvm_jax.typing import Distribution, Latent, Params


def plate(guide: Guide) -> Guide:
    """q(beta, Z | X) = q(beta) prod_n q(z_n | x_n, beta), for `models.plate`.

    `guide` is the guide of one row: a `Successive` of q(beta) and q(z | x, beta), or q(beta) alone.
    q(beta) must not depend on x; it is taken from the first row.
    """

    def posterior(phi: Params, x: Any) -> Distribution:
        one = guide.posterior(phi, jax.tree.map(lambda leaf: leaf[0], x))
        if not has_parts(one):
            return one

        def second(beta: Latent) -> Rows:
            def make(row: Any) -> Distribution:
                whole: Any = guide.posterior(phi, row)
                return whole.second(beta)

            return Rows(make, x)

        return one._replace(second=second)

    return Guide(guide.init, posterior)
