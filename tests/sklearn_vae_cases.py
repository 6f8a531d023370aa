"""Data and settings of the tests of `lvm_jax.sklearn.VariationalAutoencoder`."""

import numpy as np

from lvm_jax.sklearn import VariationalAutoencoder

RNG = np.random.default_rng(0)
N, D, L = 120, 4, 2
LOADINGS = RNG.normal(size=(D, L)) * np.array([2.0, 1.0])
X = RNG.normal(size=(N, L)) @ LOADINGS.T + 0.5 * RNG.normal(size=(N, D)) + np.arange(D) - 3.0
LINEAR = {
    "n_components": L,
    "hidden_layer_sizes": (),
    "learning_rate": 0.01,
    "batch_size": N,
    "n_gradient_samples": 4,
    "n_importance_samples": 50,
    "random_state": 0,
}


# Programs that run for a moment: these options compile them in a third of the time.
QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}

DATA = {
    "bernoulli": (X > 0).astype(float),
    "continuous_bernoulli": np.clip(X / 10 + 0.5, 0, 1),
    "poisson": np.floor(np.exp(X / 2 + 3)),
    "discretized_logistic": np.round(np.clip(X / 10 + 0.5, 0, 1) * 16) / 16,
    "categorical": np.round(np.clip(X + 4, 0, 7)),
}
DATA |= {"negative_binomial": DATA["poisson"]}


def short(**options):
    """A fit of the same shapes, which compiles nothing more."""
    return VariationalAutoencoder(**{**LINEAR, "max_iter": 20, **options})
