"""What the tests of single gradient estimators share: one seed, and gradients as flat vectors."""

import functools

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

KEY = jax.random.key(3)
# Compiling is most of these tests' time, and eager differentiation takes longer still.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def gradients_of(estimate, log_joint, guide, num_samples=4):
    """(theta, phi, key) -> value, gradient for theta, gradient for phi; log_joint: theta -> z -> nats."""

    def run(theta, phi, key=KEY):
        def surrogate(theta, phi):
            return estimate(key, log_joint(theta), guide, phi, num_samples)

        value, (theta, phi) = jax.value_and_grad(surrogate, (0, 1))(theta, phi)
        return value, ravel_pytree(theta)[0], ravel_pytree(phi)[0]

    return run


def on_problem(estimate, problem, num_samples=4):
    """The same for a problem, as a compiled function of the key."""
    run = gradients_of(
        estimate, lambda theta: problem.log_joint(theta, problem.x), problem.guide, num_samples
    )
    return jit(lambda key: run(problem.theta, problem.phi, key))


def every_key(estimate, log_joint, guide, phi, num_keys, num_samples):
    """The phi-gradients for many keys, [num_keys, P]."""

    def one(key):
        slope = jax.grad(lambda phi: estimate(key, log_joint, guide, phi, num_samples))(phi)
        return ravel_pytree(slope)[0]

    return np.asarray(jit(jax.vmap(one))(jax.random.split(KEY, num_keys)), np.float64)
