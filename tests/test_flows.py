import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from exact_problems import linear_gaussian
from flow_cases import KEY, drawn, kinds, one_layer, random_flow
from jax.flatten_util import ravel_pytree
from model_cases import grid, quick_jit

from lvm_jax import bounds, evidence, gradients, guides
from lvm_jax.distributions.flows.autoregressive import autoregressive_masks, fixed_point
from lvm_jax.networks import mlp
from lvm_jax.weights import draw, log_weights, weigh


def test_autoregressive_layers_have_a_triangular_jacobian(x64):
    layer, context = one_layer("iaf")
    z = jnp.linspace(-1.0, 1.5, 5)

    @quick_jit
    def compute(layer):
        # A conditioner reads the coordinates before its own only.
        parts = jax.jacfwd(layer.affine(context))(z)
        first = [layer.affine(h)(z)[0][0] for h in (context, -context)]
        return jax.jacfwd(lambda z: layer.forward(z, context)[0])(z), parts, first

    jacobian, parts, first = compute(layer)
    assert (np.triu(jacobian, 1) == 0).all()
    assert (jacobian[np.tril_indices(5)] != 0).all()  # and nothing that is allowed is missing
    assert (np.diag(jacobian) > 0).all()
    for part in parts:
        assert (np.triu(part) == 0).all()
        assert (part[np.tril_indices(5, -1)] != 0).all()
    assert first[0] != first[1]  # what no coordinate moves, the context does


@pytest.mark.parametrize("dim, hidden", [(1, (3,)), (2, (1,)), (6, (3, 20)), (4, (4, 2))])
@pytest.mark.parametrize("has_context", [True, False])
def test_masks_allow_no_path_from_a_coordinate_to_itself(dim, hidden, has_context):
    masks = autoregressive_masks(dim, hidden, has_context)
    paths = masks[0].astype(int)
    for mask in masks[1:]:
        paths = mask.astype(int) @ paths
    assert paths.shape == (2 * dim, dim)
    for half in (paths[:dim], paths[dim:]):
        assert (np.triu(half) == 0).all()
        assert dim == 1 or half[-1, -2] > 0  # the narrowest network sees the last but one


def test_coupling_layers_move_the_second_half_by_the_first(x64):
    layer, context = one_layer("coupling")
    z = jnp.linspace(-1.0, 1.5, 5)
    large = jax.tree.map(lambda leaf: 1e3 * leaf, layer)

    @quick_jit
    def compute(layer):
        jacobian = jax.jacfwd(lambda z: layer.forward(z, context)[0])(z)
        return jacobian, large.affine(z[:2], context)[0]

    jacobian, log_scale = map(np.asarray, compute(layer))
    np.testing.assert_array_equal(jacobian[:2], np.eye(5)[:2])
    assert (jacobian[2:, :2] != 0).all()
    np.testing.assert_array_equal(jacobian[2:, 2:], np.diag(np.diag(jacobian)[2:]))
    # However large the network's outputs, the scale stays within exp(+-2).
    np.testing.assert_allclose(np.abs(log_scale), 2.0, rtol=1e-3)


@kinds
def test_inverse_and_jacobian(kind, x64):
    q = random_flow(kind)
    noise = jnp.asarray(2 * np.random.default_rng(1).standard_normal((20, 5)))

    @quick_jit
    def compute(q):
        z, log_det = jax.vmap(q.forward)(noise)
        jacobian = jax.vmap(jax.jacfwd(lambda one: q.forward(one)[0]))(noise)
        return z, log_det, jax.vmap(q.inverse)(z), jacobian

    _, log_det, (back, same), jacobian = compute(q)
    np.testing.assert_allclose(back, noise, atol=1e-12)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-12)
    np.testing.assert_allclose(same, log_det, atol=1e-12)
    # Three layers bring every coordinate to every other; one pair of a coupling needs a fourth.
    assert (jacobian != 0).any(0).sum() == (25 if kind == "iaf" else 24)


@kinds
def test_a_new_flow_is_the_mean_field_one(kind, x64):
    loc, log_scale = jnp.array([0.5, -3.0, 2.0]), jnp.array([-1.0, 0.3, 2.0])
    family = guides.flow_family(kind, 3, 3, (8,), context_dim=2)
    noise, context = jnp.array([1.3, -0.4, 0.7]), jnp.array([2.0, -1.0])

    @quick_jit
    def compute(key):
        q = family.build(family.init(key)._replace(loc=loc, log_scale=log_scale, context=context))
        z, _ = q.forward(noise)
        return z, q.log_prob(z)

    z, log_q = compute(KEY)
    np.testing.assert_allclose(z, loc + jnp.exp(log_scale) * noise, rtol=1e-14)
    want = scipy.stats.norm(loc, np.exp(log_scale)).logpdf(z).sum()
    np.testing.assert_allclose(log_q, want, rtol=1e-12)


@kinds
def test_mass_is_one_and_draws_have_the_density(kind, x64):
    q = random_flow(kind, dim=2, hidden=(6,), size=0.25)
    step = 0.08
    z = grid(16.0, step, 2)

    @quick_jit
    def compute(q):
        log_q = jax.vmap(q.log_prob)(z)
        mass = jnp.exp(log_q) * step**2
        return mass.sum(), mass @ z, (mass @ z**2), -mass @ log_q

    mass, first, second, entropy = compute(q)
    np.testing.assert_allclose(mass, 1.0, atol=1e-9)
    sample_and_log_prob = quick_jit(
        lambda q: q.sample_and_log_prob(seed=KEY, sample_shape=(20_000,))
    )
    draws, log_q = sample_and_log_prob(q)
    for values, want in ((draws, first), (draws**2, second), (-log_q, entropy)):
        error = np.std(values, axis=0) / len(values) ** 0.5
        assert (np.abs(np.mean(values, axis=0) - want) < 5 * error).all()
        assert (5 * error < 0.1 * np.std(values, axis=0)).all()


@kinds
def test_draws_know_their_own_density(kind, x64):
    q = random_flow(kind)

    @quick_jit
    def compute(q):
        z, log_q = q.sample_and_log_prob(seed=KEY, sample_shape=(2, 3))
        one, log_one = q.sample_and_log_prob(seed=KEY)
        both = jnp.concatenate([z.reshape(6, 5), one[None]])
        again = q.sample(seed=KEY, sample_shape=(2, 3))
        return z, again, jnp.append(log_q.ravel(), log_one), jax.vmap(q.log_prob)(both), log_q

    z, again, log_q, want, shaped = compute(q)
    assert z.shape == (2, 3, 5)
    assert shaped.shape == (2, 3)
    np.testing.assert_allclose(again, z, rtol=1e-12)
    np.testing.assert_allclose(log_q, want, rtol=1e-12)


@kinds
def test_gradients_pass_the_inverse(kind, x64):
    """Of log q(z), in z and in every parameter, against central differences."""
    q = random_flow(kind, dim=4, num_layers=2, hidden=(5,), size=1.2)
    flat, unravel = ravel_pytree((q, jnp.array([0.8, -0.3, 1.1, 0.2])))

    def log_q(flat):
        q, z = unravel(flat)
        return q.log_prob(z)

    directions = jnp.asarray(np.random.default_rng(3).standard_normal((6, flat.size)))
    step = 1e-5

    @quick_jit
    def compute(flat):
        slope = jax.grad(log_q)(flat)
        shifts = jnp.concatenate([directions, jnp.eye(flat.size)[-4:]])
        up, down = (jax.vmap(lambda d, s=s: log_q(flat + s * d))(shifts) for s in (step, -step))
        forward = jax.vmap(lambda d: jax.jvp(log_q, (flat,), (d,))[1])(shifts)
        return shifts @ slope, forward, (up - down) / (2 * step)

    reverse, forward, difference = compute(flat)
    np.testing.assert_allclose(reverse, difference, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(forward, reverse, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("x64", [False, True])
def test_the_inverse_is_exact_where_every_pass_settles_one_coordinate(x64):
    """z_d = y_d + 1.5 z_{d-1} in 30 dimensions: no pass fewer would do."""
    with jax.enable_x64(x64):
        y = jnp.linspace(1.0, -0.5, 30)
        found = fixed_point(lambda z: y + 1.5 * jnp.concatenate([jnp.zeros(1), z[:-1]]), y)
        assert found.dtype == (jnp.float64 if x64 else jnp.float32)
        want = np.linalg.solve(np.eye(30) - 1.5 * np.eye(30, k=-1), np.asarray(y, float))
        np.testing.assert_allclose(found, want, rtol=1e-12 if x64 else 1e-5)
        assert np.isnan(
            fixed_point(lambda z: z.at[0].set(jnp.nan), y)[0]
        )  # ends, and hides nothing


@kinds
def test_training_and_evaluation_invert_nothing(kind):
    q, problem = random_flow(kind, dim=2), linear_gaussian()
    joint = problem.log_joint(problem.theta, problem.x)

    @quick_jit
    def compute(q):
        z, log_w = weigh(KEY, joint, q, 6)
        want = jax.vmap(lambda one: joint(one) - q.log_prob(one))(z)
        return z, draw(KEY, q, 6), log_w, want

    z, again, log_w, want = compute(q)
    np.testing.assert_allclose(again, z, rtol=1e-6)
    np.testing.assert_allclose(log_w, want, rtol=1e-4, atol=1e-4)

    def never(*_):
        raise AssertionError("inverted")

    class OneWay(type(q)):
        inverse = never

    one_way = OneWay(*q)
    for estimate in (gradients.reparameterized(), gradients.reparameterized(bounds.iwae)):
        jax.eval_shape(jax.grad(lambda q, e=estimate: e(KEY, joint, OneWay._make, q, 3)), one_way)
    jax.eval_shape(lambda q: evidence.importance(KEY, joint, q, 10, chunk_size=5), one_way)
    with pytest.raises(AssertionError, match="inverted"):
        one_way.log_prob(z[0])


def test_a_flow_refuses_what_every_q_refuses():
    q = random_flow("iaf", dim=2)
    with pytest.raises(ValueError, match="num_samples: expected an integer >= 1, got 0"):
        log_weights(KEY, jnp.sum, q, 0)
    with pytest.raises(TypeError, match="key: expected a typed key"):
        log_weights(0, jnp.sum, q, 2)
    with pytest.raises(ValueError, match="log_joint: expected one real number"):
        jax.eval_shape(lambda: log_weights(KEY, lambda z: z, q, 2))


@pytest.mark.parametrize("kind, context_dim", [("iaf", 3), ("coupling", 0)])
def test_an_amortised_flow_takes_base_and_context_from_x(kind, context_dim, x64):
    network = mlp(3, (4,), 4 + context_dim)
    guide = guides.flow(kind, 2, 2, (5,), network)
    phi = drawn(guide.init)
    x, z = jnp.array([[0.5, -1.0, 0.3], [4.0, 2.0, -3.0]]), jnp.array([0.2, -0.4])

    @quick_jit
    def compute(phi):
        fields = [jax.vmap(lambda row: network.apply(phi.network, row))(x)]
        return fields, jax.vmap(lambda row: guide.posterior(phi, row).log_prob(z))(x)

    (fields,), found = compute(phi)
    for row, log_q in zip(fields, found, strict=True):
        loc, log_scale, context = jnp.split(row, (2, 4))
        q = phi.offset._replace(
            loc=phi.offset.loc + loc,
            log_scale=phi.offset.log_scale + log_scale,
            context=phi.offset.context + context if context_dim else None,
        )
        np.testing.assert_allclose(log_q, quick_jit(q.log_prob)(z), rtol=1e-12)
    # An array of no numbers could not be saved.
    assert all(leaf.size for leaf in jax.tree.leaves(phi))


def test_sizes_are_refused():
    refusals = (
        ("kind: expected one of iaf, coupling, got 'ia'", ("ia", 2, 1, (4,))),
        ("dim: expected an integer >= 2, got 1", ("coupling", 1, 1, (4,))),
        ("num_layers: expected an integer >= 1, got 0", ("iaf", 2, 0, (4,))),
        ("hidden: expected a sequence of 1 or more sizes", ("iaf", 2, 1, ())),
        ("hidden: expected an integer >= 1, got 0", ("iaf", 2, 1, (4, 0))),
        ("context_dim: expected an integer >= 0, got -1", ("iaf", 2, 1, (4,), -1)),
    )
    for message, arguments in refusals:
        with pytest.raises(ValueError, match=message):
            guides.flow_family(*arguments)
    with pytest.raises(ValueError, match="network: expected at least 2 dim = 4 outputs.* got 3"):
        guides.flow("iaf", 2, 1, (4,), mlp(3, (), 3))
