"""The expected log-weight of unadjusted annealed chains on the linear-Gaussian bed, exactly.

All densities are quadratic, so every leapfrog step is linear and log w is a quadratic function of
the normal noise: its expectation is its value at 0 and half the trace of its Hessian.
"""

import jax
import jax.numpy as jnp


def expected_log_weight(bed, theta, phi, temperatures, step_sizes, refreshment=0.1):
    """E[log w]; differentiable in theta, phi, temperatures and step sizes."""
    joint, q = bed.log_joint(theta, bed.x), bed.guide(phi)
    keep, renew = (1 - refreshment) ** 0.5, refreshment**0.5
    loc, scale = phi["loc"], jnp.exp(phi["log_scale"])
    num_steps = temperatures.shape[0] - 1

    def log_weight(noise):  # [T + 1, 2]: of z_0, v_0, and of every refreshment but the last
        z, v = loc + scale * noise[0], noise[1]
        total = -q.log_prob(z)
        for t in range(num_steps):
            beta, step = temperatures[t + 1], step_sizes[t]
            middle = z + step * v / 2
            force = beta * jax.grad(joint)(middle) - (1 - beta) * (middle - loc) / scale**2
            u = v + step * force
            z = middle + step * u / 2
            total = total + (v @ v - u @ u) / 2
            if t + 1 < num_steps:
                v = keep * u + renew * noise[t + 2]
        return total + joint(z)

    origin = jnp.zeros((num_steps + 1, 2))
    hessian = jax.hessian(log_weight)(origin).reshape(2 * num_steps + 2, -1)
    return log_weight(origin) + jnp.trace(hessian) / 2
