"""One small problem for every test of training: fits that share it share one compilation."""

import json

import jax
import numpy as np
import optax

from lvm_jax import gradients, guides, models, training
from lvm_jax.training.step import Keys

KEY = jax.random.key(5)
MODEL = models.linear_gaussian(2, 3)
GUIDE = guides.linear(guides.full_rank(2), 3)
ESTIMATE = gradients.sticking_the_landing()
OPTIMIZER = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adam(optax.exponential_decay(0.05, 10, 0.8))
)
BATCH = 10  # of 43 rows: four steps an epoch, three rows left over


def epoch_order(key, epoch, num_rows):
    """The order of the rows in an epoch, by JAX itself."""
    return jax.random.permutation(jax.random.fold_in(key, epoch), num_rows)


def data(num_rows=43, seed=0):
    generator = np.random.default_rng(seed)
    z, noise = generator.normal(size=(num_rows, 2)), generator.normal(size=(num_rows, 3))
    weight = np.array([[1.5, -0.3, 0.8], [0.2, 1.1, -0.9]])
    return (z @ weight + 0.4 * noise + np.array([0.5, -1.0, 2.0])).astype(np.float32)


def fit(x=None, params=None, **options):
    pair = (MODEL, GUIDE) if params is None else (training.Separate(MODEL, GUIDE), params)
    settings = {
        "estimate": ESTIMATE,
        "num_samples": 2,
        "optimizer": OPTIMIZER,
        "batch_size": BATCH,
        "num_epochs": 5,
    }
    return training.fit(KEY, *pair, data() if x is None else x, **settings | options)


def by_hand(x, num_steps, transform=None):
    """theta, phi and the bound of every step, by a loop that shares nothing but the keys."""
    keys = Keys(*jax.random.split(KEY, 5))
    parameters = training.Parameters(MODEL.init(keys.theta), GUIDE.init(keys.phi))
    state, per_epoch, found, bounds = OPTIMIZER.init(parameters), len(x) // BATCH, [], []

    @jax.jit
    def advance(parameters, state, keys, rows):
        def mean_bound(parameters):
            def one(key, row):
                theta, phi = parameters
                if transform is not None:
                    first, key = jax.random.split(key)
                    row = transform(first, row)
                joint = MODEL(theta).log_joint(row)
                return ESTIMATE(key, joint, lambda phi: GUIDE.posterior(phi, row), phi, 2)

            return jax.vmap(one)(keys, rows).mean()

        bound, gradient = jax.value_and_grad(mean_bound)(parameters)
        descent = jax.tree.map(lambda leaf: -leaf, gradient)
        updates, state = OPTIMIZER.update(descent, state, parameters)
        return bound, optax.apply_updates(parameters, updates), state

    for step in range(num_steps):
        epoch, place = divmod(step, per_epoch)
        rows = np.asarray(epoch_order(keys.order, epoch, len(x)))[place * BATCH :][:BATCH]
        noise = jax.random.split(jax.random.fold_in(keys.noise, step), BATCH)
        bound, parameters, state = advance(parameters, state, noise, x[rows])
        found.append(parameters)
        bounds.append(float(bound))
    return found, bounds


def same(left, right):
    """Whether two pytrees are equal to the bit."""
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return jax.tree.structure(left) == jax.tree.structure(right) and all(
        np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs
    )


def lines(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
