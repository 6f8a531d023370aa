"""Every family of guides, every place that its parameters come from, and some values of them.

And the hierarchical guides, which are neither: z is a tuple there.
"""

from typing import Any, NamedTuple

import deep_cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lvm_jax import guides, models, networks

X_DIM = 3
FAMILIES = {
    "location": guides.location(2, [0.6, 1.4]),
    "mean_field": guides.mean_field(2),
    "full_rank": guides.full_rank(2),
    "low_rank": guides.low_rank(2, 1),
    "label": guides.label(3),
    "categorical": guides.categorical(2, 3),
    "one_hot": guides.one_hot(2, 3),
    "bernoulli": guides.bernoulli(3),
    "iaf": guides.flow_family("iaf", 2, 2, (3,), context_dim=1),
    "coupling": guides.flow_family("coupling", 2, 2, (3,), context_dim=1),
}
NUM_OUTPUTS = {
    "location": 2, "mean_field": 4, "full_rank": 5, "low_rank": 6, "label": 3, "categorical": 6,
    "one_hot": 6, "bernoulli": 3, "iaf": 61, "coupling": 39,
}  # fmt: skip
FLOWS = ("iaf", "coupling")
GAUSSIAN = ("location", "mean_field", "full_rank", "low_rank")
each_family = pytest.mark.parametrize("name", FAMILIES)


def network(num_outputs):
    """The smallest network: tanh of a linear map."""
    return (
        lambda key: 0.3 * jax.random.normal(key, (num_outputs, X_DIM)),
        lambda weight, x: jnp.tanh(weight @ x),
    )


def mlp(family):
    """The family amortised by a network of lvm_jax.networks."""
    net = networks.mlp(X_DIM, (4,), guides.num_outputs(family))
    return guides.amortized(family, net.init, net.apply)


MODEL = models.linear_gaussian(2, X_DIM)  # whose ELBO the refined guides climb


class Tied(NamedTuple):
    """phi of a refined guide with a model of its own: a pair's parameters as those of a guide."""

    start: Any
    theta: Any


def refined(family):
    """Two local steps from what the linear place gives."""
    steps = guides.cubature_elbo, optax.sgd(0.05), 2
    semi = guides.refined(family, WHERE["linear"], *steps)
    return guides.Guide(
        lambda key: Tied(semi.init(key), MODEL.init(key)),
        lambda phi, x: semi(MODEL(phi.theta), phi.start)(x),
    )


WHERE = {
    "shared": guides.shared,
    "per_point": lambda family: guides.per_point(family, 1),
    "linear": lambda family: guides.linear(family, X_DIM),
    "amortized": lambda family: guides.amortized(family, *network(guides.num_outputs(family))),
    "mlp": mlp,
    "refined": refined,
}
HIERARCHIES = [(name, "hierarchy") for name in deep_cases.GUIDES]
# Every family in one place, one family in every place, and what is neither.
ROWS = dict.fromkeys(
    [
        *((name, "linear") for name in FAMILIES),
        *(("full_rank", place) for place in WHERE),
        *HIERARCHIES,
    ]
)


def guide_of(name, place):
    """The guide of a row."""
    if place == "hierarchy":
        return deep_cases.bent_guides()[name][0]
    return WHERE[place](FAMILIES[name])


def random_phi(guide, place):
    """phi at random, without the axis N of a guide with one eta a point."""
    phi = deep_cases.drawn(guide, seed=7, size=0.3)
    return jax.tree.map(lambda leaf: leaf[0], phi) if place == "per_point" else phi


def as_latent(q, points):
    """Flat points [M, D] as M values of a z, which may have several parts."""
    one = jax.eval_shape(lambda key: q.sample(seed=key), jax.random.key(0))
    leaves, tree = jax.tree.flatten(one)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
    return jax.tree.unflatten(tree, jnp.split(points, ends, axis=1))
