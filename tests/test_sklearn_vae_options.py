import numpy as np
import pytest
from sklearn_vae_cases import LINEAR, D, N, X, short

from lvm_jax.compiling import STORE
from lvm_jax.sklearn import VariationalAutoencoder
from lvm_jax.sklearn.vae_gradients import choose_estimator
from lvm_jax.sklearn.vae_programs import labels, units_of
from lvm_jax.vae import build


def test_units_leave_the_likelihoods_family_as_it_is():
    x = np.column_stack([X, np.full(N, 0.1)])
    together, each = units_of(x, "gaussian"), units_of(x, "gaussian_per_dimension")
    np.testing.assert_allclose(together.scale, np.sqrt(x.var(0).mean()))
    np.testing.assert_allclose(each.scale, [*X.std(0), 1.0])  # a constant column keeps 1
    np.testing.assert_allclose(each.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_array_equal(units_of(x, "gaussian_fixed").scale, np.ones(D + 1))
    assert units_of(x[:, D:], "gaussian").scale == 1
    counts = units_of(x, "poisson")
    np.testing.assert_array_equal(counts.measure(x), x)
    np.testing.assert_allclose(each.restore(each.measure(x)), x, atol=1e-12)
    assert each.log_volume == pytest.approx(np.log(X.std(0)).sum())


def test_rows_have_streams_of_their_own_values():
    found = labels(X)
    assert len(np.unique(found)) == N
    np.testing.assert_array_equal(labels(X[::-1]), found[::-1])
    assert labels(np.array([[0.0]])) == labels(np.array([[-0.0]]))


@pytest.mark.parametrize(
    ("options", "data", "message"),
    [
        ({"n_components": 0}, X, "'n_components' parameter"),
        ({"likelihood": "gausian"}, X, "'likelihood' parameter"),
        ({"learning_rate": 0.0}, X, "'learning_rate' parameter"),
        ({"hidden_layer_sizes": (8, 0)}, X, "hidden_layer_sizes: expected an integer >= 1, got 0"),
        ({"likelihood": "bernoulli"}, X, "likelihood='bernoulli': X: expected bits, 0 or 1, got"),
        ({"likelihood": "poisson"}, X, "likelihood='poisson': X: expected counts"),
        ({"likelihood_params": {"levels": 3}}, X, "'gaussian' takes no options, got 'levels'"),
        ({"guide_params": {"rank": 1}}, X, "guide='mean_field' takes no options, got 'rank'"),
        (
            {"guide": "low_rank", "guide_params": {"rank": 2}},
            X,
            "guide='low_rank': rank: expected fewer than dim = 2, got 2",
        ),
        ({"guide": "coupling", "n_components": 1}, X, "guide='coupling': dim: expected an integer"),
        (
            {"prior": "vamp", "prior_params": {"num_components": N + 1}},
            X,
            "prior='vamp': start: expected at least 121 rows",
        ),
        (
            {"bound": "iwae", "estimator": "sticking_the_landing"},
            X,
            "iwae's, reparameterized_iwae, doubly_reparameterized, got 'sticking_the_landing'",
        ),
        ({}, X[:1], "1 sample"),
        ({}, np.where(X > 3, np.nan, X), "contains NaN"),
    ],
)
def test_bad_input_is_refused_before_training(options, data, message):
    before = len(STORE)
    with pytest.raises(ValueError, match=message):
        VariationalAutoencoder(**{**LINEAR, **options}).fit(data)
    assert len(STORE) == before


def test_numbers_of_rows_share_programs_and_change_no_number():
    """33 to 59 rows lie in one bucket; a fit of each, and all that a fitted model does."""
    model = short(batch_size=11, max_iter=1)
    for size in (33, 47, 59):
        z = model.fit(X[:size]).transform(X[:size])
        model.inverse_transform(z)
        model.sample(size)
        if size == 33:
            before = len(STORE)
    assert len(STORE) == before
    for size in (34, 51):
        np.testing.assert_allclose(model.transform(X[:size]), z[:size], rtol=1e-12)
        means = model.inverse_transform(z[:size])
        np.testing.assert_allclose(means, model.inverse_transform(z)[:size], rtol=1e-12)
    np.testing.assert_array_equal(model.sample(9), model.sample(60)[:9])  # of different buckets


def test_the_same_words_build_the_same_functions():
    first, second = (short(hidden_layer_sizes=sizes)._describe(D) for sizes in (5, [5]))
    assert build(first) is build(second)
    assert build(first) is not build(short()._describe(D))


def test_auto_takes_the_estimator_that_the_guide_makes_cheap():
    for guide, bound, name in (
        ("mean_field", "elbo", "sticking_the_landing"),
        ("coupling", "iwae", "doubly_reparameterized"),
        ("iaf", "elbo", "reparameterized"),
        ("iaf", "iwae", "reparameterized_iwae"),
    ):
        assert choose_estimator(bound, "auto", guide) is choose_estimator(bound, name, guide)
