"""Variational inference on a log-density: q, log Z and posterior draws.

    found = vi.fit(key, log_density, {"mu": 0.0, "log_tau": 0.0}, family="full_rank")
    found.elbo, found.log_evidence, found.k_hat
    draws = found.resample(key, 1_000)          # .z is a pytree of the structure of the start

For a model of many data points, see `training.fit`.
"""

from lvm_jax.vi.fit import FAMILIES, VariationalFit, fit

__all__ = ["FAMILIES", "VariationalFit", "fit"]
