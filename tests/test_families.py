"""Scalar families and labels, bit for bit against distrax's of the same names."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import quick_jit

from lvm_jax import distributions
from lvm_jax._core import keys

KEY = jax.random.key(4)
LOC = np.array([[0.5, -1.0, 2.0], [0.1, 7.0, -3.0]])
SCALE = np.array([0.4, 1.3, 80.0])
LOGITS = np.array([[0.3, -1.0, 0.8], [1.5, -np.inf, -40.0]])
PROBS = np.array([[0.3, 0.7, 0.5], [0.25, 0.0, 0.75]])
INSIDE = LOC + np.array([0.0, 0.3, 80.1])  # on an end, inside, outside of [LOC, LOC + SCALE]

# name: (ours, distrax's, values)
FAMILIES = {
    "normal": (
        lambda: distributions.Normal(jnp.asarray(LOC), jnp.asarray(SCALE)),
        lambda: distrax.Normal(jnp.asarray(LOC), jnp.asarray(SCALE)),
        INSIDE,
    ),
    "standard": (lambda: distributions.Normal(0, 1.0), lambda: distrax.Normal(0, 1.0), np.float32(0.3)),
    "numpy": (lambda: distributions.Normal(LOC, SCALE), lambda: distrax.Normal(LOC, SCALE), INSIDE),
    "uniform": (
        lambda: distributions.Uniform(LOC, LOC + SCALE), lambda: distrax.Uniform(LOC, LOC + SCALE),
        INSIDE,
    ),
    "logits": (
        lambda: distributions.Categorical(LOGITS), lambda: distrax.Categorical(LOGITS),
        np.array([[0, 1], [2, 2], [-1, 3]]),
    ),
    "probs": (
        lambda: distributions.Categorical(probs=PROBS), lambda: distrax.Categorical(probs=PROBS),
        np.array([[0, 1], [2, 2]]),
    ),
    "no probability": (
        lambda: distributions.Categorical(probs=np.array([-0.1, 1.1])),
        lambda: distrax.Categorical(probs=np.array([-0.1, 1.1])), np.array(1),
    ),
    "rows": (
        lambda: distributions.OneHotCategorical(LOGITS, dtype=float),
        lambda: distrax.OneHotCategorical(LOGITS, dtype=float), np.eye(3)[np.array([0, 2])],
    ),
    "rows of integers": (
        lambda: distributions.OneHotCategorical(probs=np.array([np.nan, 1.0])),
        lambda: distrax.OneHotCategorical(probs=np.array([np.nan, 1.0])), np.eye(2, dtype=int)[0],
    ),
    "independent": (
        lambda: distributions.Independent(distributions.Normal(LOC, SCALE), 2),
        lambda: distrax.Independent(distrax.Normal(LOC, SCALE), 2), INSIDE,
    ),
    "one axis": (
        lambda: distributions.Independent(distributions.Uniform(LOC, LOC + SCALE)),
        lambda: distrax.Independent(distrax.Uniform(LOC, LOC + SCALE)), INSIDE,
    ),
    "independent rows": (
        lambda: distributions.Independent(distributions.OneHotCategorical(LOGITS), 1),
        lambda: distrax.Independent(distrax.OneHotCategorical(LOGITS), 1),
        np.eye(3, dtype=int)[np.array([0, 2])],
    ),
}  # fmt: skip
NUMBERS = ("normal", "standard", "numpy", "uniform", "independent", "one axis")
# Normals, one operation at a time: a program of both rounds mean + scale noise as it is compiled.
ONE_BY_ONE = ("normal", "numpy", "independent")
READ = ("mean", "stddev", "variance", "entropy")
PARTS = ("loc", "scale", "low", "high", "logits", "num_categories", "batch_shape")
each_family = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(autouse=True)
def broadcasts():
    """distrax's labels need them."""
    with jax.numpy_rank_promotion("allow"):
        yield


def same(ours, theirs):
    assert jnp.result_type(ours) == jnp.result_type(theirs)
    np.testing.assert_array_equal(ours, theirs)


@each_family
@pytest.mark.parametrize("wide", [False, True])
def test_every_number_is_that_of_distrax(name, wide):
    with jax.enable_x64(wide):
        ours, theirs = (make() for make in FAMILIES[name][:2])

        def numbers(q, key, value):
            draw = jax.vmap(lambda key: q.sample(seed=key, sample_shape=(5,)))
            readings = {reading: getattr(q, reading)() for reading in READ if name in NUMBERS}
            return readings | {
                "log_prob": q.log_prob(value),
                "one": q.sample(seed=key),
                "many": q.sample(seed=key, sample_shape=(2, 3)),
                "of many keys": draw(jax.random.split(key, 3)),
            }

        def both(*given):
            return [numbers(q, *given) for q in (ours, theirs)]

        run = both if name in ONE_BY_ONE else quick_jit(both)
        left, right = run(KEY, jnp.asarray(FAMILIES[name][2]))
        for part, number in left.items():
            same(number, right[part])
        for part in PARTS:
            if hasattr(ours, part):
                np.testing.assert_array_equal(getattr(ours, part), getattr(theirs, part))


@pytest.mark.parametrize("name", ["logits", "probs", "rows", "independent rows"])
def test_the_entropy_of_labels(name, x64):
    ours, theirs = (make() for make in FAMILIES[name][:2])
    np.testing.assert_allclose(ours.entropy(), theirs.entropy(), rtol=1e-14)
    inner = getattr(ours, "distribution", ours), getattr(theirs, "distribution", theirs)
    np.testing.assert_allclose(*(q.probs for q in inner), rtol=1e-14)


@pytest.mark.parametrize("name", ["normal", "uniform", "logits", "rows", "independent"])
def test_every_slope_is_that_of_distrax(name):
    ours, theirs, value = FAMILIES[name]

    def total(q, value):
        log_q = q.log_prob(value)
        return jnp.where(jnp.isfinite(log_q), log_q, 0.0).sum()

    def slopes(make):
        q, z = jax.grad(total, (0, 1), allow_int=True)(make(), jnp.asarray(value))
        parts = vars(getattr(q, "distribution", q)).items()
        found = {key.strip("_"): part for key, part in parts if isinstance(part, jax.Array)}
        return found if name == "logits" else found | {"z": z}

    left, right = slopes(ours), slopes(theirs)
    assert left.keys() == right.keys()
    for part, slope in left.items():
        np.testing.assert_array_equal(slope, right[part])


@each_family
def test_a_family_crosses_every_transformation(name):
    make, _, value = FAMILIES[name]
    q, value = make(), jnp.asarray(value)
    want = q.log_prob(value)
    leaves, structure = jax.tree.flatten(q)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert structure == jax.tree.structure(make())
    assert hash(structure) == hash(jax.tree.structure(make()))
    np.testing.assert_allclose(jax.jit(lambda q: q)(q).log_prob(value), want, rtol=1e-6)
    rows = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), q)
    axes = jax.tree.map(lambda leaf: 0, q)  # numbers in the place of arrays
    found = jax.vmap(lambda q: q.log_prob(value), (axes,))(rows)
    np.testing.assert_allclose(found, jnp.stack([want, want]), rtol=1e-6)
    carried = jax.lax.scan(lambda q, _: (q, None), q, length=2)[0]
    same(carried.log_prob(value), want)
    assert repr(q).startswith(type(q).__name__ + "(")


def test_a_normal_is_drawn_by_the_quicker_generator():
    q = distributions.Normal(LOC, SCALE)
    text = str(jax.make_jaxpr(lambda key: q.sample(seed=key))(KEY))
    assert keys.NAME in str(jax.random.key_impl(KEY))
    assert "ufry" in text or jax.default_backend() != "cpu"


def test_what_is_no_family_is_refused():
    with pytest.raises(ValueError, match="Categorical: expected logits or probs, got both"):
        distributions.Categorical(LOGITS, PROBS)
    with pytest.raises(ValueError, match="OneHotCategorical: .* got neither"):
        distributions.OneHotCategorical()
    with pytest.raises(TypeError, match="parameters: expected numbers, got an array of bool"):
        distributions.Normal(True, 1.0)
    with pytest.raises(TypeError, match="distribution: expected a distribution .* got ndarray"):
        distributions.Independent(LOC)
    with pytest.raises(ValueError, match="reinterpreted_batch_ndims: expected 0 to 2, .* got 3"):
        distributions.Independent(distributions.Normal(LOC, SCALE), 3)
