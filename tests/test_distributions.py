import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from model_cases import quick_jit

import lvm_jax
from lvm_jax import distributions
from lvm_jax._core import keys
from lvm_jax.distributions import FullRankNormal, LowRankNormal, Table
from lvm_jax.distributions.normals import LogCholesky

LOC = np.array([0.5, -1.0, 2.0])
SCALE = np.array([0.4, 1.3, 0.8])
LOWER = np.array([[1.0, 0, 0], [-0.7, 0.5, 0], [0.3, 0.9, 1.5]])
FACTOR = np.array([[1.2], [-0.4], [0.9]])
LOGITS = np.array([[0.3, -1.0, 0.8], [1.5, 0.0, -0.4]])  # two variables of three values
BITS = np.array([0.7, -1.6, 0.2])
ROWS = np.array([[0, 1], [2, 0], [1, 1], [0, 0]])
MASS = np.array([0.4, 0.1, 0.3, 0.2])


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


PROBS = softmax(LOGITS)
ON = 1 / (1 + np.exp(-BITS))

# name: (build from parameters, parameters)
FAMILIES = {
    "normal": (distributions.normal, (LOC, SCALE)),
    "uniform": (distributions.uniform, (LOC, LOC + SCALE)),
    "full": (FullRankNormal, (LOC, LOWER)),
    "low": (LowRankNormal, (LOC, FACTOR, SCALE)),
    "label": (lambda logits: distributions.Categorical(logits=logits), (LOGITS[0],)),
    "categorical": (distributions.categorical, (LOGITS,)),
    "one_hot": (distributions.one_hot, (LOGITS,)),
    "bernoulli": (distributions.Bernoulli, (BITS,)),
    "table": (lambda logits: Table(jax.nn.log_softmax(logits), jnp.asarray(ROWS)), (np.log(MASS),)),
}
COVARIANCES = {
    "normal": np.diag(SCALE**2),
    "full": LOWER @ LOWER.T,
    "low": FACTOR @ FACTOR.T + np.diag(SCALE**2),
}
GAUSSIANS = tuple(COVARIANCES)
CONTINUOUS = (*GAUSSIANS, "uniform")
DISCRETE = tuple(name for name in FAMILIES if name not in CONTINUOUS)
each_family = pytest.mark.parametrize("name", FAMILIES)


def build(name):
    function, parameters = FAMILIES[name]
    return function(*(jnp.asarray(value, float) for value in parameters))


def values(name):
    """Some z of the family, [M, ...], and their log-probability by another implementation."""
    if name in GAUSSIANS:
        z = np.random.default_rng(0).normal(size=(5, 3)) * 2
        return z, scipy.stats.multivariate_normal(LOC, COVARIANCES[name]).logpdf(z)
    if name == "uniform":
        z = LOC + np.array([[0.1, 0.5, 0.2], [-0.1, 0.5, 0.2]])
        return z, np.array([-np.log(SCALE).sum(), -np.inf])
    digits = np.array([[i, j] for i in range(3) for j in range(3)])
    log_p = np.log(PROBS[0][digits[:, 0]] * PROBS[1][digits[:, 1]])
    if name == "label":
        return np.arange(3), np.log(PROBS[0])
    if name == "categorical":
        return digits, log_p
    if name == "one_hot":
        return np.eye(3)[digits], log_p
    if name == "bernoulli":
        z = np.array([[i, j, k] for i in (0.0, 1) for j in (0.0, 1) for k in (0.0, 1)])
        return z, (z * np.log(ON) + (1 - z) * np.log(1 - ON)).sum(1)
    return ROWS, np.log(MASS)


def exact_entropy(name):
    if name in GAUSSIANS:
        return scipy.stats.multivariate_normal(LOC, COVARIANCES[name]).entropy()
    if name == "uniform":
        return np.log(SCALE).sum()
    log_p = values(name)[1]
    return -(np.exp(log_p) * log_p).sum()


def moments(name):
    """Mean and covariance of z, flat."""
    if name in GAUSSIANS:
        return LOC, COVARIANCES[name]
    if name == "uniform":
        return LOC + SCALE / 2, np.diag(SCALE**2 / 12)
    z, log_p = values(name)
    z, p = z.reshape(len(z), -1).astype(float), np.exp(log_p)
    mean = p @ z
    return mean, ((z - mean) * p[:, None]).T @ (z - mean)


@each_family
@pytest.mark.parametrize(("x64", "rtol"), [(False, 2e-5), (True, 1e-12)])
def test_log_prob_and_entropy(name, x64, rtol):
    with jax.enable_x64(x64):
        q = build(name)
        z, want = values(name)
        z = jnp.asarray(z, jax.eval_shape(lambda: q.sample(seed=jax.random.key(0))).dtype)
        found, entropy = quick_jit(lambda z: (jax.vmap(q.log_prob)(z), distributions.entropy(q)))(z)
        assert found.dtype == (jnp.float64 if x64 else jnp.float32)
        np.testing.assert_allclose(found, want, rtol=rtol, atol=rtol)
        np.testing.assert_allclose(entropy, exact_entropy(name), rtol=rtol)


@each_family
def test_samples_have_the_moments(name):
    q = build(name)
    draw = quick_jit(lambda key: (q.sample(seed=key), q.sample(seed=key, sample_shape=(20_000,))))
    one, draws = draw(jax.random.key(2))
    assert one.shape == draws.shape[1:]
    draws = np.asarray(draws, float)
    draws = draws.reshape(20_000, -1)
    mean, covariance = moments(name)
    products = (draws - mean)[:, :, None] * (draws - mean)[:, None]
    for got, want in ((draws, mean), (products, covariance)):
        assert (np.abs(got.mean(0) - want) <= 5 * got.std(0) / np.sqrt(len(got))).all()


@each_family
def test_support_lists_every_value_once(name):
    q = build(name)
    if name in CONTINUOUS:
        assert distributions.support(q) is None
        assert distributions.expectation(q, lambda z: z[0]) is None
        return
    z, log_p = values(name)
    np.testing.assert_array_equal(distributions.support(q), z)
    weights = np.arange(1.0, len(z) + 1)  # f(z): which row of the support z is

    def function(value):
        same = (jnp.asarray(z) == value[None]).reshape(len(z), -1).all(1)
        return jnp.asarray(weights, jnp.float32) @ same

    found = distributions.expectation(q, function)
    np.testing.assert_allclose(found, np.exp(log_p) @ weights, rtol=1e-5)


@each_family
def test_which_families_carry_gradients_through_their_draws(name):
    assert distributions.is_reparameterized(build(name)) == (name in CONTINUOUS)


@pytest.mark.parametrize("left", GAUSSIANS)
@pytest.mark.parametrize("right", GAUSSIANS)
def test_kl_of_gaussians(left, right, x64):
    def moved(parameters):  # another member of the same family
        return (parameters[0] + 0.4, *(0.7 * p for p in parameters[1:]))

    function, parameters = FAMILIES[right]
    p = function(*(jnp.asarray(value) for value in moved(parameters)))
    s_q, s_p = COVARIANCES[left], 0.49 * COVARIANCES[right]
    inverse = np.linalg.inv(s_p)
    log_det = np.linalg.slogdet(s_p)[1] - np.linalg.slogdet(s_q)[1]
    want = 0.5 * (np.trace(inverse @ s_q) + 0.16 * inverse.sum() - 3 + log_det)
    np.testing.assert_allclose(distributions.kl_divergence(build(left), p), want, rtol=1e-11)
    mean, cholesky = distributions.gaussian_parts(build(left))
    np.testing.assert_allclose(mean, LOC)
    np.testing.assert_allclose(cholesky @ cholesky.T, s_q, rtol=1e-12, atol=1e-15)


def test_kl_of_finite_families(x64):
    p_logits = np.array([[0.1, 0.9, -0.3], [0.0, -1.0, 1.0]])
    log_p = np.log(softmax(p_logits))

    @quick_jit
    def compute(q_logits, p_logits, q_table):
        pairs = [
            (family(q_logits), family(p_logits))
            for family in (distributions.categorical, distributions.one_hot)
        ]
        p = distributions.categorical(p_logits)
        return [distributions.kl_divergence(*pair) for pair in (*pairs, (q_table, p), (p, q_table))]

    integers, rows, table, reverse = compute(LOGITS, p_logits, build("table"))
    np.testing.assert_allclose(integers, (PROBS * (np.log(PROBS) - log_p)).sum(), rtol=1e-12)
    np.testing.assert_allclose(rows, integers, rtol=1e-12)
    # A table against the independent family with its support: the dependence is the KL.
    joint = np.log(MASS) - log_p[0][ROWS[:, 0]] - log_p[1][ROWS[:, 1]]
    np.testing.assert_allclose(table, MASS @ joint, rtol=1e-12)
    assert reverse == np.inf  # some values of p are impossible under the table


def test_closed_forms_that_do_not_exist_are_none():
    assert distributions.kl_divergence(build("uniform"), build("normal")) is None
    assert distributions.gaussian_parts(build("uniform")) is None

    class Bare:
        def log_prob(self, value):
            return value

    assert distributions.entropy(Bare()) is None


@pytest.mark.parametrize("name", GAUSSIANS)
def test_cubature_is_exact_for_cubics(name, x64):
    # E[(a.z)^3 + (b.z)^2 + c.z] in closed form: with u = a.z, E[u^3] = m^3 + 3 m s^2.
    a, b, c = np.array([[0.3, -1.0, 0.5], [1.0, 0.2, -0.4], [0.0, 2.0, 1.0]])

    def function(z):
        return (z @ a) ** 3 + (z @ b) ** 2 + z @ c

    sigma = COVARIANCES[name]
    want = (a @ LOC) ** 3 + 3 * (a @ LOC) * (a @ sigma @ a)
    want += (b @ LOC) ** 2 + b @ sigma @ b + c @ LOC
    np.testing.assert_allclose(distributions.cubature(build(name), function), want, rtol=1e-12)


def test_cubature_refuses_what_is_not_gaussian():
    with pytest.raises(TypeError, match="q: expected a Gaussian, got Bernoulli"):
        distributions.cubature(build("bernoulli"), jnp.sum)


@pytest.mark.parametrize("name", ["one_hot", "bernoulli"])
def test_relaxed_values_have_the_density_that_is_linear_in_z(name):
    # What straight-through and Concrete estimators differentiate, at a corner too.
    q = build(name)
    z = jnp.asarray(values(name)[0][1], jnp.float32)
    slope = BITS if name == "bernoulli" else np.log(PROBS)
    np.testing.assert_allclose(jax.grad(q.log_prob)(z), slope, rtol=1e-5)
    half = jnp.full_like(z, 0.5)
    start = -np.log1p(np.exp(BITS)).sum() if name == "bernoulli" else 0.0
    np.testing.assert_allclose(q.log_prob(half), start + 0.5 * slope.sum(), rtol=1e-5)


@each_family
def test_the_distrax_trap_is_shut(name):
    """q crosses stop_gradient, jit and vmap with its own parameters, and none that it had before."""
    function, parameters = FAMILIES[name]
    parameters = tuple(jnp.asarray(value, float) for value in parameters)
    z = jnp.asarray(values(name)[0][0])
    z = z.astype(jax.eval_shape(lambda: build(name).sample(seed=jax.random.key(0))).dtype)

    def live(p):
        return function(*p).log_prob(z)

    def frozen_object(p):
        return jax.lax.stop_gradient(function(*p)).log_prob(z)

    @quick_jit
    def compute(p, both):
        batch = jax.vmap(lambda p: function(*p))(both)  # two different q leave one vmap ...
        found = jax.vmap(lambda q: q.log_prob(z))(batch)  # ... and enter another
        apart = [live(jax.tree.map(lambda leaf, i=i: leaf[i], both)) for i in (0, 1)]
        # The object itself leaves jit too.
        return jax.grad(live)(p), jax.grad(frozen_object)(p), found, apart, function(*p)

    both = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.9 * leaf]), parameters)
    gradient, frozen, found, apart, q = compute(parameters, both)
    assert max(np.abs(leaf).max() for leaf in gradient) > 0.1
    assert not any(leaf.any() for leaf in frozen)
    np.testing.assert_allclose(found, apart, rtol=1e-5)
    assert apart[0] != apart[1]
    np.testing.assert_allclose(quick_jit(lambda q: q.log_prob(z))(q), apart[0], rtol=1e-5)


def test_too_large_an_enumeration_is_refused():
    with pytest.raises(ValueError, match=r"at most 4,194,304 values to enumerate, got 2\^23"):
        distributions.support(distributions.Bernoulli(jnp.zeros(23)))
    np.testing.assert_array_equal(
        distributions.digits(3, 2), [[i, j] for i in range(3) for j in range(3)]
    )


def test_log_cholesky_reaches_every_positive_definite_matrix():
    numbers = LogCholesky(jnp.log(jnp.diagonal(jnp.asarray(LOWER))), jnp.array([-0.7, 0.3, 0.9]))
    np.testing.assert_allclose(numbers.factor(), LOWER, rtol=1e-6)


def test_low_rank_keeps_its_digits_where_the_factor_dwarfs_the_scale():
    # Textbook Woodbury subtracts two numbers near 3e7 here; float32 holds seven digits.
    factor = np.array([[3.0], [-2.0], [4.0]])
    point = np.float32(factor[:, 0] * 1.3 + [2e-3, 0.0, 1e-3])
    sigma = factor @ factor.T + 1e-6 * np.eye(3)
    want = scipy.stats.multivariate_normal(np.zeros(3), sigma).logpdf(point.astype(float))
    q = LowRankNormal(jnp.zeros(3), jnp.asarray(factor, jnp.float32), jnp.full(3, 1e-3))
    np.testing.assert_allclose(q.log_prob(jnp.asarray(point)), want, atol=1e-2)


@pytest.mark.parametrize("size", [3e3, 1e6])
def test_low_rank_keeps_its_digits_where_the_columns_are_nearly_collinear(size):
    factor = np.array([[size, size], [0, 1], [-0.5, 0.25]])
    scale = np.array([1.0, 0.5, 2.0])
    u, s, _ = np.linalg.svd(factor / scale[:, None], full_matrices=False)
    log_det = np.log(scale).sum() + 0.5 * np.log1p(s**2).sum()
    arrays = (jnp.asarray(v, jnp.float32) for v in (np.zeros(3), factor, scale))
    q = LowRankNormal(*arrays)
    np.testing.assert_allclose(q.entropy(), 1.5 * (1 + np.log(2 * np.pi)) + log_det, rtol=1e-6)
    point = (factor @ [0.7, -1.2] + scale * [0.3, -0.8, 1.1]).astype(np.float32).astype(float)
    white = point / scale
    along = u.T @ white
    quadratic = ((white - u @ along) ** 2).sum() + (along**2 / (1 + s**2)).sum()
    want = -0.5 * (quadratic + 3 * np.log(2 * np.pi)) - log_det
    np.testing.assert_allclose(q.log_prob(jnp.asarray(point, jnp.float32)), want, rtol=1e-6)
    # A draw of noise e, e' has the quadratic form of [e'; -e] off the columns of [S^-1 F; I].
    log_q = q.sample_and_log_prob(seed=jax.random.key(3), sample_shape=(11,))[1]
    key_factor, key_scale = jax.random.split(keys.unrolled(jax.random.key(3)))
    noise = np.hstack(
        [jax.random.normal(key_scale, (11, 3)), -jax.random.normal(key_factor, (11, 2))]
    ).astype(float)
    basis = np.linalg.qr(np.vstack([factor / scale[:, None], np.eye(2)]))[0]
    quadratic = ((noise - noise @ basis @ basis.T) ** 2).sum(1)
    want = -0.5 * (quadratic + 3 * np.log(2 * np.pi)) - log_det
    np.testing.assert_allclose(log_q, want, rtol=2e-6)
    # Its Cholesky factor as a normal of full rank: the same log-determinant.
    _, cholesky = distributions.gaussian_parts(q)
    np.testing.assert_allclose(np.log(np.diagonal(cholesky)).sum(), log_det, rtol=1e-6)
    dense = np.asarray(cholesky, np.float64)
    target = factor @ factor.T + np.diag(scale**2)
    np.testing.assert_allclose(dense @ dense.T, target, rtol=0, atol=1e-6 * target.max())


def test_no_module_imports_the_distributions_of_another_package():
    """Only the adapters of whole models do, when they are called."""
    root = Path(lvm_jax.__file__).parent
    pattern = re.compile(
        r"^\s*(import|from)\s+(distrax|numpyro|tensorflow_probability|tfp)\b", re.M
    )
    found = {f.name for f in root.rglob("*.py") if pattern.search(f.read_text(encoding="utf-8"))}
    assert found == {"foreign.py", "foreign_tfp.py"}
