import deep_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guide_cases import (
    FAMILIES,
    FLOWS,
    HIERARCHIES,
    NUM_OUTPUTS,
    ROWS,
    X_DIM,
    as_latent,
    each_family,
    guide_of,
    random_phi,
)
from model_cases import CASES, grid, quick_jit

from lvm_jax import bounds, distributions, guides, models
from lvm_jax.distributions.normals import LogCholesky
from lvm_jax.weights import log_weights

each_row = pytest.mark.parametrize(("name", "place"), ROWS)


@each_row
def test_every_q_has_mass_one_and_draws_with_its_density(name, place, x64):
    guide = guide_of(name, place)
    phi, x = random_phi(guide, place), jnp.array([0.5, -1.0, 0.3])
    step = 0.1 if name in FLOWS or place == "hierarchy" else 0.2
    points = grid(14.0, step, 2)

    @quick_jit
    def compute(phi, x):
        q = guide.posterior(phi, x)
        support = distributions.support(q)
        z, cell = (as_latent(q, points), step**2) if support is None else (support, 1.0)
        log_q = jax.vmap(q.log_prob)(z)
        mass = jnp.exp(log_q) * cell
        entropy = distributions.entropy(q)
        entropy = -(mass @ log_q) if entropy is None else entropy
        draws = q.sample(seed=jax.random.key(1), sample_shape=(2_000,))
        return mass.sum(), entropy, jax.vmap(q.log_prob)(draws)

    mass, entropy, log_q = compute(phi, x)
    assert log_q.dtype == jnp.float64
    np.testing.assert_allclose(mass, 1.0, atol=1e-9)
    log_q = np.asarray(log_q)
    error = log_q.std() / np.sqrt(log_q.size)
    assert 0.001 < error < 0.03  # nats: tight, and not of a flat q
    assert abs(log_q.mean() + entropy) < 5 * error


@each_row
def test_nothing_leaves_single_precision(name, place):
    guide = guide_of(name, place)

    def log_prob(key, x):
        phi = guide.init(key)
        phi = jax.tree.map(lambda leaf: leaf[0], phi) if place == "per_point" else phi
        q = guide.posterior(phi, x)
        z = q.sample(seed=key)
        return z, q.log_prob(z)

    z, log_q = jax.eval_shape(log_prob, jax.random.key(0), jnp.ones(X_DIM))
    assert log_q.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(z)} <= {jnp.dtype("float32"), jnp.dtype("int32")}


@pytest.mark.parametrize(
    ("name", "place"),
    [*((name, "amortized") for name in FAMILIES), ("full_rank", "refined"), *HIERARCHIES],
)
def test_a_batch_is_its_points_apart(name, place):
    guide = guide_of(name, place)
    phi = random_phi(guide, place)
    x = jnp.array([[0.5, -1.0, 0.3], [4.0, 2.0, -3.0]])

    @quick_jit
    def compute(x):
        z = guide.posterior(phi, x[0]).sample(seed=jax.random.key(0))

        def log_prob(x):
            return guide.posterior(phi, x).log_prob(z)

        return jax.vmap(log_prob)(x), jax.lax.map(log_prob, x)

    together, apart = compute(x)
    np.testing.assert_allclose(together, apart, rtol=1e-5)
    assert apart[0] != apart[1]


@pytest.mark.parametrize(("name", "place"), [("full_rank", "refined"), *HIERARCHIES])
def test_a_stopped_phi_stops_every_gradient_and_a_live_one_none(name, place, x64):
    # As tests/test_guides_families.py asks it of the families, here along one direction of phi.
    guide = guide_of(name, place)
    phi, x = random_phi(guide, place), jnp.array([0.5, -1.0, 0.3])
    along = deep_cases.moved(jax.tree.map(jnp.zeros_like, phi), seed=1)

    @quick_jit
    def compute(phi, along):
        z = guide.posterior(phi, x).sample(seed=jax.random.key(3))

        def log_q(phi):
            return guide.posterior(phi, x).log_prob(z)

        def at(step):
            return log_q(jax.tree.map(lambda leaf, to: leaf + step * to, phi, along))

        stopped = jax.grad(lambda phi: log_q(jax.lax.stop_gradient(phi)))(phi)
        slopes = jax.tree.map(lambda one, to: (one * to).sum(), jax.grad(log_q)(phi), along)
        return stopped, sum(jax.tree.leaves(slopes)), jax.vmap(at)(jnp.array([-1e-5, 1e-5]))

    stopped, slope, ends = compute(phi, along)
    assert not any(leaf.any() for leaf in jax.tree.leaves(stopped))
    np.testing.assert_allclose(slope, np.diff(ends)[0] / 2e-5, rtol=1e-6)
    assert abs(slope) > 0.1


@each_family
def test_the_number_of_outputs_is_the_number_of_parameters(name):
    assert guides.num_outputs(FAMILIES[name]) == NUM_OUTPUTS[name]
    phi = guides.linear(FAMILIES[name], X_DIM).init(jax.random.key(0))
    assert phi.network.shape == (NUM_OUTPUTS[name], X_DIM)
    assert not phi.network.any()


def test_amortised_locations_and_a_shared_scale():
    guide = guides.linear(guides.mean_field(2), X_DIM, fields=("loc",))
    phi = guide.init(jax.random.key(0))
    weight = jnp.array([[1.0, 0.0, -1.0], [0.5, 2.0, 0.0]])
    assert phi.network.shape == weight.shape
    offset = phi.offset._replace(loc=jnp.array([0.1, 0.2]), log_scale=jnp.log(jnp.array([0.5, 3])))
    x = jnp.array([1.0, -1.0, 2.0])
    mean, cholesky = distributions.gaussian_parts(guide.posterior(phi._replace(
        offset=offset, network=weight), x))  # fmt: skip
    np.testing.assert_allclose(mean, [-0.9, -1.3], rtol=1e-6)
    np.testing.assert_allclose(np.diag(cholesky), [0.5, 3.0], rtol=1e-6)
    # Any field: only the scale depends on x, through the logarithm.
    guide = guides.linear(guides.mean_field(2), X_DIM, fields=("log_scale",))
    q = guide.posterior(phi._replace(offset=offset, network=0.1 * weight), x)
    mean, cholesky = distributions.gaussian_parts(q)
    np.testing.assert_allclose(mean, [0.1, 0.2], rtol=1e-6)
    np.testing.assert_allclose(np.diag(cholesky), np.exp([-0.1, -0.15]) * [0.5, 3.0], rtol=1e-6)


@pytest.mark.parametrize(("x64", "rtol"), [(False, 1e-5), (True, 1e-10)])
def test_the_gap_of_the_linear_toy(x64, rtol):
    """z ~ N(mu, I), x | z ~ N(z, I), q = N(x/2 + mu/2, 2/3 I) in 20 dimensions."""
    with jax.enable_x64(x64):
        model = models.linear_gaussian(20, 20)
        mu = jnp.linspace(-1.0, 2.0, 20)
        theta = models.LinearGaussian(mu, jnp.eye(20), jnp.zeros(20), jnp.array(0.0))
        guide = guides.linear(guides.location(20, np.sqrt(2 / 3)), 20)
        phi = guide.init(jax.random.key(0))
        phi = phi._replace(offset=phi.offset._replace(loc=mu / 2), network=jnp.eye(20) / 2)

        @quick_jit
        def gap(x):
            q = guide.posterior(phi, x)
            elbo = distributions.cubature(q, model(theta).log_joint(x)) + distributions.entropy(q)
            kl = distributions.kl_divergence(q, model.posterior(theta, x))
            return model.log_evidence(theta, x), elbo, kl

        for seed in (0, 1):
            evidence, elbo, kl = gap(3 * jax.random.normal(jax.random.key(seed), (20,)))
            want = 10 * (1 / 3 - np.log(4 / 3))  # 0.456514, for every x
            np.testing.assert_allclose(kl, want, rtol=rtol)
            np.testing.assert_allclose(elbo + want, evidence, rtol=rtol)


def test_one_eta_for_each_point_maps_over_both():
    # With the posterior's own numbers in every row, each bound is that row's log p.
    model, theta, x, *_ = CASES["full"]()
    guide = guides.per_point(guides.full_rank(2), 2)
    start = guide.init(jax.random.key(0))
    means, cholesky = quick_jit(jax.vmap(lambda x: tuple(model.posterior(theta, x))))(x)
    diagonal = jnp.log(jnp.stack([jnp.diag(lower) for lower in cholesky]))
    phi = type(start)(means, LogCholesky(diagonal, cholesky[:, 1, :1]))
    assert jax.tree.map(jnp.shape, start) == jax.tree.map(jnp.shape, phi)

    def elbo(key, phi, x):
        q = guide.posterior(phi, x)
        return bounds.elbo(log_weights(key, model(theta).log_joint(x), q, 10))

    found = quick_jit(jax.vmap(elbo))(jax.random.split(jax.random.key(0), 2), phi, x)
    want = quick_jit(jax.vmap(model.log_evidence, (None, 0)))(theta, x)
    np.testing.assert_allclose(found, want, rtol=1e-5)
    # Rows start apart where the start is random.
    factor = guides.per_point(guides.low_rank(3, 1), 2).init(jax.random.key(0)).factor
    assert factor.shape == (2, 3, 1)
    assert (factor[0] != factor[1]).all()


@pytest.mark.parametrize("name", ["diagonal", "mixture"])
def test_the_exact_guide_has_no_gap(name):
    model, theta, x, *_ = CASES[name]()
    p = model(theta)

    @quick_jit
    def weigh(q, x):
        return log_weights(jax.random.key(1), p.log_joint(x), q(x), 20), p.log_evidence(x)

    for row in x:
        log_w, want = weigh(guides.exact(p), row)
        np.testing.assert_allclose(log_w, np.full(20, want), rtol=1e-5)


def test_a_fixed_guide_gives_its_distribution_at_every_x():
    low, high = jnp.array([-1.0, 2.0]), jnp.array([1.0, 5.0])
    guide = guides.fixed(distributions.uniform(low, high))
    phi = guide.init(jax.random.key(0))
    assert phi == ()
    inside = jnp.array([0.5, 4.0])
    found = jax.vmap(lambda x: guide.posterior(phi, x).log_prob(inside))(jnp.eye(3))
    np.testing.assert_allclose(found, np.full(3, -np.log(6.0)), rtol=1e-6)


def test_a_fixed_guide_refuses_a_traced_distribution():
    def leak(loc):
        guide = guides.fixed(distributions.normal(loc, jnp.ones(2)))
        return guide.posterior((), jnp.zeros(1)).log_prob(jnp.zeros(2))

    for transformed in (jax.grad(leak), quick_jit(leak)):
        with pytest.raises(ValueError, match="expected concrete parameters, got traced"):
            transformed(jnp.ones(2))


PLAIN = guides.mean_field(2)
LINEAR = guides.linear(PLAIN, X_DIM)
COPY = guides.amortized(PLAIN, lambda key: (), lambda _, x: x)
DEEP = models.deep_gaussian(1, 2)


def start(thing):
    return thing.init(jax.random.key(0))


REFUSALS = (
    (ValueError, "dim: expected an integer >= 1", lambda: guides.mean_field(0)),
    (TypeError, "dim: expected an integer", lambda: guides.full_rank(2.0)),
    (ValueError, "expected fewer than dim = 2, got 2", lambda: guides.low_rank(2, 2)),
    (ValueError, "num_values: expected an integer >= 2", lambda: guides.categorical(3, 1)),
    (ValueError, "num_variables: expected", lambda: guides.one_hot(0, 2)),
    (ValueError, "scale: expected one positive", lambda: guides.location(2, 0.0)),
    (ValueError, "scale: expected one positive", lambda: guides.location(2, [1.0, 1.0, 1.0])),
    (ValueError, "num_points: expected", lambda: guides.per_point(PLAIN, 0)),
    (ValueError, "x_dim: expected", lambda: guides.linear(PLAIN, 0)),
    (ValueError, "did you mean 'loc'", lambda: guides.linear(PLAIN, 3, fields=("loca",))),
    (ValueError, "expected names such as", lambda: guides.linear(PLAIN, 3, fields="loc")),
    (ValueError, "expected names such as", lambda: guides.linear(PLAIN, 3, fields=())),
    (
        ValueError,
        r"x: expected shape \(3,\), got \(2, 3\)",
        lambda: LINEAR.posterior(start(LINEAR), jnp.ones((2, 3))),
    ),
    (
        ValueError,
        r"expected 4 numbers.* got shape \(3,\)",
        lambda: COPY.posterior(start(COPY), jnp.ones(3)),
    ),
    (ValueError, "posterior=None", lambda: guides.exact(DEEP(start(DEEP)))),
    (TypeError, "got ndarray", lambda: guides.fixed(np.zeros(2))),
)


@pytest.mark.parametrize(("error", "message", "call"), REFUSALS)
def test_bad_arguments_are_refused(error, message, call):
    with pytest.raises(error, match=message):
        call()
