"""log Z of the densities of `benchmarks.vi_densities` without a closed form.

    python -m benchmarks.vi_truths

Prints the integrals by quadrature, and for two densities two independent estimates in float64
with standard errors: importance sampling by a Student's t of 8 degrees of freedom, whose mean and
covariance are those of the weighted draws of the round before, and chains annealed from a wide
normal.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import vi_densities
from lvm_jax import annealing, evidence
from lvm_jax.distributions import normal
from lvm_jax.problems import Target

DOF, ROUNDS, DRAWS, BATCHES = 8.0, 6, 200_000, 20
CHAINS, TEMPERATURES = 512, 1_000
INTEGRALS = (
    "kidscore", "radon", "gaussian_process", "sparse_means", "autoregression", "observed_funnel",
    "oxygen", "slopes",
)  # fmt: skip


def by_student(target: Target) -> tuple[np.ndarray, np.ndarray, Any]:
    """log-weights of the last round, and mean and covariance."""
    from scipy.optimize import minimize
    from scipy.stats import multivariate_t

    value = jax.jit(jax.value_and_grad(lambda z: -target.log_density(z)))
    mode = minimize(
        lambda z: [np.asarray(part) for part in value(z)], np.zeros(target.dim), jac=True
    )
    curvature = jax.hessian(target.log_density)(jnp.asarray(mode.x))
    mean, shape = mode.x, np.linalg.inv(-np.asarray(curvature))
    density = jax.jit(lambda z: jax.lax.map(target.log_density, z, batch_size=2_000))
    rng, every = np.random.default_rng(0), []
    for index in range(ROUNDS + BATCHES - 1):
        q = multivariate_t(mean, shape, DOF)
        z = q.rvs(DRAWS, random_state=rng)
        log_w = np.asarray(density(jnp.asarray(z))) - q.logpdf(z)
        if index >= ROUNDS - 1:
            every.append(log_w)
            continue
        p = np.exp(log_w - log_w.max()) / np.exp(log_w - log_w.max()).sum()
        mean = p @ z
        shape = (z - mean).T @ ((z - mean) * p[:, None])
    return np.concatenate(every), mean, shape


def by_chains(target: Target, mean: np.ndarray, shape: np.ndarray) -> evidence.Evidence:
    """log Z by chains annealed from a normal of 1.5 times the standard deviations."""
    wide = normal(jnp.asarray(mean), 1.5 * jnp.sqrt(jnp.asarray(np.diag(shape))))
    plan = annealing.plan(annealing.sigmoid(TEMPERATURES), annealing.hmc(5))
    run = jax.jit(lambda key, q: evidence.annealed(key, target.log_density, q, CHAINS, plan))
    return run(jax.random.key(0), wide).evidence


def main() -> None:
    """Print both estimates of the sampled densities, and the integrals of the others."""
    jax.config.update("jax_enable_x64", True)
    known = dict(vi_densities.LOG_Z)
    for make in (vi_densities.poisson, vi_densities.logistic):
        target = make()
        log_w, mean, shape = by_student(target)
        sampled = jax.jit(evidence.from_log_weights)(jnp.asarray(log_w))
        print(target.name, sampled, by_chains(target, mean, shape), flush=True)
    for name in INTEGRALS:
        del vi_densities.LOG_Z[name.replace("_", " ")]
        make = getattr(vi_densities, name)
        target = make(True) if name == "radon" else make()
        stated = known[name.replace("_", " ")]
        print(target.name, target.log_evidence, target.log_evidence - stated, flush=True)


if __name__ == "__main__":
    main()
