"""What flows are for: gradients that are right on average, and posteriors that no Gaussian fits."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from exact_problems import linear_gaussian
from flow_cases import KEY, kinds, random_flow
from jax.flatten_util import ravel_pytree
from model_cases import grid, quick_jit

from lvm_jax import bounds, gradients, guides
from lvm_jax.distributions.normals import LOG_2PI

BOUND_OF = {
    "reparameterized": "elbo",
    "sticking_the_landing": "elbo",
    "doubly_reparameterized": "iwae",
}


def small_flow(kind):
    return random_flow(kind, dim=2, num_layers=2, hidden=(3,), context_dim=0, size=0.3)


def expected(kind, bound, num_samples):
    """E of the bound over all noise, by Gauss-Hermite; and its gradient in every parameter."""
    order = {1: 24, 2: 14}[num_samples]
    nodes, mass = np.polynomial.hermite_e.hermegauss(order)
    noise = np.array(list(itertools.product(nodes, repeat=2 * num_samples)))
    masses = np.prod(list(itertools.product(mass / mass.sum(), repeat=2 * num_samples)), axis=1)
    with jax.enable_x64(True):
        problem = linear_gaussian()
        joint, noise = problem.log_joint(problem.theta, problem.x), jnp.asarray(noise)

        def log_w(q, noise):
            z, log_det = q.forward(noise)
            return joint(z) + 0.5 * (noise @ noise + 2 * LOG_2PI) + log_det

        def value(q):
            pairs = noise.reshape(-1, num_samples, 2)
            log_ws = jax.vmap(jax.vmap(functools.partial(log_w, q)))(pairs)
            return jnp.asarray(masses) @ jax.vmap(bound)(log_ws)

        total, slope = quick_jit(jax.value_and_grad(value))(small_flow(kind))
        return np.append(total, ravel_pytree(slope)[0])


@functools.cache
def exact(kind, bound):
    return expected(kind, getattr(bounds, bound), 1 if bound == "elbo" else 2)


@pytest.mark.parametrize(
    "kind, name",
    [("iaf", name) for name in BOUND_OF] + [("coupling", "doubly_reparameterized")],
)
def test_pathwise_gradients_agree_with_quadrature(kind, name):
    problem, q = linear_gaussian(), small_flow(kind)
    estimate = gradients.ESTIMATORS[name].estimate
    joint = problem.log_joint(problem.theta, problem.x)

    def one(key):
        value, slope = jax.value_and_grad(lambda q: estimate(key, joint, lambda q: q, q, 2))(q)
        return jnp.append(value, ravel_pytree(slope)[0])

    draws = quick_jit(jax.vmap(one))(jax.random.split(KEY, 20_000))
    draws, want = np.asarray(draws, np.float64), exact(kind, BOUND_OF[name])
    error = draws.std(0) / len(draws) ** 0.5
    assert (np.abs(draws.mean(0) - want) < 5 * error + 1e-4).all()
    along = draws[:, 1:] @ want[1:] / (want[1:] @ want[1:])
    assert 5 * along.std() / len(along) ** 0.5 < 0.1  # a factor of 1.1 would fail


# z_1 ~ N(0, 1), z_2 | z_1 ~ N(slope z_1 + bend (z_1^2 - 1), 0.4^2): a tilted Gaussian, a banana.
TARGETS = jnp.array([[1.2, 0.0], [0.0, 0.8]])
LOG_EVIDENCE = -3.0  # of the joint below, whatever the target


def joint_of(target):
    def joint(z):
        mean = target[0] * z[0] + target[1] * (z[0] ** 2 - 1)
        squares = z[0] ** 2 + ((z[1] - mean) / 0.4) ** 2
        return LOG_EVIDENCE - 0.5 * squares - LOG_2PI - jnp.log(0.4)

    return joint


@functools.cache
def gaps(name):
    """KL(q || p), [2 targets], of the family fitted by 800 steps of Adam, and its mass, by quadrature."""
    family = {
        "mean_field": lambda: guides.mean_field(2),
        "iaf": lambda: guides.flow_family("iaf", 2, 3, (16,)),
        "coupling": lambda: guides.flow_family("coupling", 2, 4, (16,)),
    }[name]()
    optimizer = optax.adam(optax.cosine_decay_schedule(0.03, 800))
    step = 0.1
    points = grid(8.0, step, 2)
    estimate = gradients.reparameterized()

    @quick_jit
    def fit(key, target):
        joint = joint_of(target)

        def climb(state, key):
            eta, memory = state
            slope = jax.grad(lambda eta: -estimate(key, joint, family.build, eta, 64))(eta)
            updates, memory = optimizer.update(slope, memory, eta)
            return (optax.apply_updates(eta, updates), memory), None

        key_init, key_fit = jax.random.split(key)
        eta = family.init(key_init)
        state = (eta, optimizer.init(eta))
        (eta, _), _ = jax.lax.scan(climb, state, jax.random.split(key_fit, 800))
        q = family.build(eta)
        log_q = jax.vmap(q.log_prob)(points)
        mass = jnp.exp(log_q) * step**2
        return mass @ (log_q - jax.vmap(joint)(points)) + LOG_EVIDENCE, mass.sum()

    return [
        np.asarray(part) for part in zip(*(fit(KEY, target) for target in TARGETS), strict=True)
    ]


@kinds
def test_a_flow_closes_the_gap_that_mean_field_leaves(kind):
    kl, mass = gaps(kind)
    plain, _ = gaps("mean_field")
    # Closed form for the tilted Gaussian: KL = sum log(Lambda_dd) / 2 - log |Lambda| / 2.
    np.testing.assert_allclose(plain[0], 0.5 * np.log(1 + (1.2 / 0.4) ** 2), rtol=0.02)
    assert plain[1] > 0.5
    np.testing.assert_allclose(mass, 1.0, atol=1e-3)
    assert (kl < 0.15 * plain).all()
