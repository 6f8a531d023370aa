"""The expected log-weight of unadjusted annealed chains on the linear-Gaussian problems, exactly.

All densities are quadratic, so every leapfrog step is linear and log w is a quadratic function of
the n normal numbers of the noise: its mean over the 2 n points +-sqrt(n) e_i is its expectation.
"""

import jax
import jax.numpy as jnp


def expected_log_weight(problem, theta, phi, temperatures, step_sizes, refreshment=0.1):
    """E[log w]; differentiable in theta, phi, temperatures and step sizes."""
    keep, renew = (1 - refreshment) ** 0.5, refreshment**0.5
    (mean, factor), q = problem.moments(phi), problem.guide(phi)
    precision = jnp.linalg.inv(factor @ factor.T)

    def joint(z):
        return problem.log_joint(theta, problem.x)(problem.unflatten(z))

    def step(state, given):
        (z, v, total), (beta, step_size, fresh) = state, given
        middle = z + step_size * v / 2
        force = beta * jax.grad(joint)(middle) - (1 - beta) * precision @ (middle - mean)
        u = v + step_size * force
        z = middle + step_size * u / 2
        return (z, keep * u + renew * fresh, total + (v @ v - u @ u) / 2), None

    def log_weight(noise):  # [T + 2, D]: of z_0, v_0, and of every refreshment
        z = mean + factor @ noise[0]
        start = z, noise[1], -q.log_prob(problem.unflatten(z))
        (z, _, total), _ = jax.lax.scan(step, start, (temperatures[1:], step_sizes, noise[2:]))
        return total + joint(z)

    size = (temperatures.shape[0] + 1) * mean.size
    points = size**0.5 * jnp.concatenate([jnp.eye(size), -jnp.eye(size)])
    return jax.vmap(log_weight)(points.reshape(2 * size, -1, mean.size)).mean()
