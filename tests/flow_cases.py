"""Flows at random parameters, far from the identity that they start at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lvm_jax import guides
from lvm_jax.distributions import flows

KEY = jax.random.key(0)
kinds = pytest.mark.parametrize("kind", flows.LAYERS)


def drawn(init, size=0.7, seed=5):
    """Parameters of the shapes that init gives, all of them at random."""
    rng = np.random.default_rng(seed)
    dtype = jnp.zeros(()).dtype
    return jax.tree.map(
        lambda leaf: jnp.asarray(size * rng.standard_normal(leaf.shape), dtype),
        jax.eval_shape(init, KEY),
    )


def random_flow(kind, dim=5, num_layers=3, hidden=(7, 6), context_dim=2, size=0.7):
    return drawn(guides.flow_family(kind, dim, num_layers, hidden, context_dim).init, size)


def one_layer(kind, dim=5, hidden=(9, 8)):
    layer = drawn(lambda key: flows.LAYERS[kind](key, dim, hidden, 2))
    return layer, jnp.array([0.4, -1.0])
