import pickle
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from lvm_jax import evidence
from lvm_jax.evidence import dataset
from lvm_jax.likelihoods import LIKELIHOODS
from lvm_jax.models import log_joint
from lvm_jax.sklearn import ProbabilisticPCA, VariationalAutoencoder
from lvm_jax.sklearn.vae_parts import build, choose_estimator, first_outputs
from lvm_jax.sklearn.vae_programs import labels, units_of
from lvm_jax.training import feed

RNG = np.random.default_rng(0)
N, D, L = 120, 4, 2
LOADINGS = RNG.normal(size=(D, L)) * np.array([2.0, 1.0])
X = RNG.normal(size=(N, L)) @ LOADINGS.T + 0.5 * RNG.normal(size=(N, D)) + np.arange(D) - 3.0
LINEAR = {
    "n_components": L,
    "hidden_layer_sizes": (),
    "learning_rate": 0.01,
    "batch_size": N,
    "n_gradient_samples": 4,
    "n_importance_samples": 50,
    "random_state": 0,
}


# Programs that run for a moment: these options compile them in a third of the time.
QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


@pytest.fixture(autouse=True, scope="module")
def quick_training():
    """Training, in which check_estimator meets a dozen shapes."""
    function = feed.advance.__wrapped__
    with pytest.MonkeyPatch.context() as patch:
        quick = jax.jit(function, static_argnums=0, compiler_options=QUICK)
        patch.setattr(feed, "advance", quick)
        yield


@pytest.fixture
def quick_evidence(monkeypatch):
    """Importance sampling likewise, where no bits are compared with those of another process."""
    function = dataset._evaluate.__wrapped__
    static = {"static_argnums": (4, 5, 6, 7)}
    monkeypatch.setattr(dataset, "_evaluate", jax.jit(function, compiler_options=QUICK, **static))


@pytest.fixture(scope="module")
def linear():
    """A linear VAE at its optimum, to which it was led by large steps and then by small ones."""
    model = VariationalAutoencoder(**LINEAR, max_iter=1_500, warm_start=True).fit(X)
    return model.set_params(learning_rate=1e-4, max_iter=3_000).fit(X)


def short(**options):
    """A fit of the same shapes, which compiles nothing more."""
    return VariationalAutoencoder(**{**LINEAR, "max_iter": 20, **options})


def test_check_estimator_has_no_failures(quick_evidence):
    estimator = VariationalAutoencoder(hidden_layer_sizes=(), max_iter=2, n_importance_samples=20)
    results = check_estimator(estimator, on_fail=None, on_skip=None)
    failed = [r["check_name"] for r in results if r["status"] not in ("passed", "skipped")]
    # The only check that scikit-learn itself skips needs an environment variable of SciPy.
    skipped = {r["check_name"] for r in results if r["status"] == "skipped"}
    assert failed == []
    assert skipped <= {"check_array_api_input"}


def test_a_linear_vae_becomes_probabilistic_pca(linear):
    ppca = ProbabilisticPCA(L).fit(X)
    ppca.noise_variance_ *= (N - 1) / N  # scikit-learn's, over N - 1, is not quite the likeliest
    ppca.explained_variance_ *= (N - 1) / N
    found = linear.evidence(X)
    # q has become the posterior, so that the weights hardly vary, and the bound is log p.
    assert found.standard_error.max() < 1e-3
    np.testing.assert_allclose(linear.score_samples(X), ppca.score_samples(X), atol=0.05)
    error = np.sqrt((found.standard_error**2).sum()) / N
    assert linear.score(X) == pytest.approx(ppca.score(X), abs=5 * error + 1e-4)
    assert linear.bound_curve_[-50:].mean() == pytest.approx(ppca.score(X), abs=1e-3)
    assert linear.noise_variance_ == pytest.approx(ppca.noise_variance_, rel=0.01)
    # The posterior means are PPCA's up to a rotation: their Gram matrices agree.
    ours, theirs = linear.transform(X), ppca.transform(X)
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=0.1)
    np.testing.assert_allclose(
        linear.inverse_transform(ours), ppca.inverse_transform(theirs), atol=0.02
    )


def test_score_samples_is_importance_sampling_by_hand(linear, quick_evidence):
    rows = X[:7]
    key = jax.random.split(jax.random.key(linear.seed_))[0]
    measured = (rows - linear.mean_) / linear.scale_

    def one(label, x):
        joint = log_joint(linear.model_, linear.theta_, x)
        q = linear.guide_.posterior(linear.phi_, x)
        return evidence.importance(jax.random.fold_in(key, label), joint, q, 50)

    with jax.enable_x64(True):
        by_hand = jax.jit(jax.vmap(one), compiler_options=QUICK)(
            labels(measured), jnp.asarray(measured)
        )
    by_hand = jax.tree.map(np.asarray, by_hand)
    expected = by_hand.log_evidence - np.log(linear.scale_).sum()
    found = linear.evidence(rows)
    np.testing.assert_allclose(found.log_evidence, expected, rtol=1e-12)
    np.testing.assert_allclose(found.k_hat, by_hand.k_hat, rtol=1e-6)
    assert (found.num_samples == 50).all()
    np.testing.assert_array_equal(linear.score_samples(rows), found.log_evidence)
    backwards = linear.evidence(rows[::-1]).log_evidence[::-1]
    np.testing.assert_allclose(backwards, found.log_evidence, rtol=1e-13)


def test_scores_that_rest_on_a_few_draws_are_said_to(linear, quick_evidence):
    stray = pickle.loads(pickle.dumps(linear)).set_params(n_importance_samples=400)
    offset = stray.phi_.offset
    narrow = offset._replace(log_scale=offset.log_scale - 2)  # by e^2 in every direction
    stray.phi_ = stray.phi_._replace(offset=narrow)
    number = (stray.evidence(X).k_hat > 0.7).sum()
    assert number > N / 2
    with pytest.warns(UserWarning, match=rf"of {number} of 120 rows rest on a few of 400 draws"):
        low = stray.score_samples(X)
    assert low.mean() < linear.score(X) - 0.5


def test_samples_have_the_models_moments(linear):
    draws = linear.set_params(random_state=3).sample(20_000)
    np.testing.assert_array_equal(draws, linear.sample(20_000))
    origin = linear.inverse_transform(np.zeros((1, L)))[0]
    loadings = (linear.inverse_transform(np.eye(L)) - origin[None]).T
    covariance = loadings @ loadings.T + linear.noise_variance_ * np.eye(D)
    variances = np.diag(covariance)
    assert (np.abs(draws.mean(0) - origin) < 5 * np.sqrt(variances / len(draws))).all()
    # var of a product of centred Gaussians: s_ii s_jj + s_ij^2.
    error = np.sqrt((np.outer(variances, variances) + covariance**2) / len(draws))
    assert (np.abs(np.cov(draws.T) - covariance) < 5 * error).all()


def test_another_process_answers_with_the_same_bits(linear, tmp_path):
    (tmp_path / "model.pickle").write_bytes(pickle.dumps((linear, X)))
    code = (
        "import pickle, sys\n"
        "folder = sys.argv[1]\n"
        "model, X = pickle.load(open(folder + '/model.pickle', 'rb'))\n"
        "answer = model.score_samples(X), model.transform(X)\n"
        "pickle.dump(answer, open(folder + '/answer.pickle', 'wb'))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=300)
    answer = pickle.loads((tmp_path / "answer.pickle").read_bytes())
    np.testing.assert_array_equal(answer[0], linear.score_samples(X))
    np.testing.assert_array_equal(answer[1], linear.transform(X))
    assert clone(linear).get_params() == linear.get_params()


def test_the_units_of_x_do_not_matter():
    ours, scaled = short().fit(X), short().fit(50 - 1_000 * X)
    np.testing.assert_allclose(
        scaled.bound_curve_, short().fit(50 - X).bound_curve_ - D * np.log(1_000), rtol=1e-9
    )
    assert ours.bound_curve_.shape == (20,)
    z = RNG.normal(size=(3, L))
    turned = short().fit(50 - X).inverse_transform(z)
    np.testing.assert_allclose(scaled.inverse_transform(z) - 50, 1_000 * (turned - 50), rtol=1e-6)


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


DATA = {
    "bernoulli": (X > 0).astype(float),
    "continuous_bernoulli": np.clip(X / 10 + 0.5, 0, 1),
    "poisson": np.floor(np.exp(X / 2 + 3)),
    "discretized_logistic": np.round(np.clip(X / 10 + 0.5, 0, 1) * 16) / 16,
    "categorical": np.round(np.clip(X + 4, 0, 7)),
}
DATA |= {"negative_binomial": DATA["poisson"]}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_decoder_starts_at_the_mean_of_the_data(name, x64):
    options = {"num_levels": {"discretized_logistic": 17, "categorical": 8}.get(name)}
    options = {k: v for k, v in options.items() if v is not None}
    likelihood = LIKELIHOODS[name](D, **options)
    x = DATA.get(name, X - X.mean(0))
    outputs = jnp.asarray(first_outputs(name, likelihood, x))
    assert outputs.shape == (likelihood.num_outputs,)
    mean = likelihood.build(likelihood.init(jax.random.key(0)), outputs).mean()
    if name == "continuous_bernoulli":  # started at a logit, its mean is nearer to 1/2
        assert (np.abs(mean - x.mean(0)) < np.abs(x.mean(0) - 0.5)).all()
    else:  # up to the bit or count that keeps logarithms finite, and the ends of the levels
        np.testing.assert_allclose(mean, x.mean(0), rtol=0.02, atol=0.03)


def test_probabilities_of_all_bits_add_to_one(quick_evidence):
    x = (RNG.random((60, 3)) < np.array([0.2, 0.5, 0.9])).astype(np.float32)
    model = VariationalAutoencoder(
        **{**LINEAR, "likelihood": "bernoulli", "guide": "full_rank", "bound": "iwae"},
        max_iter=50,
    ).fit(x)
    every = np.array([[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)], np.float32)
    found = model.set_params(n_importance_samples=4_000).evidence(every)
    p = np.exp(found.log_evidence)
    error = np.sqrt(((p * found.standard_error) ** 2).sum())
    assert abs(p.sum() - 1) < 5 * error
    assert error < 0.02
    np.testing.assert_allclose(p @ every, x.mean(0), atol=0.1)
    answers = [model.transform(every), model.sample(5), model.score_samples(every)]
    answers += [model.inverse_transform(model.transform(every)), model.mean_]
    assert {answer.dtype for answer in answers} == {np.dtype(np.float32)}
    assert set(np.unique(model.sample(5))) <= {0.0, 1.0}
    assert not hasattr(model, "noise_variance_")


@pytest.mark.parametrize(
    ("likelihood", "guide", "prior"),
    [("poisson", "iaf", "mixture"), ("categorical", "coupling", "vamp")],
)
def test_flows_and_learned_priors(likelihood, guide, prior):
    model = VariationalAutoencoder(
        **{**LINEAR, "likelihood": likelihood, "guide": guide, "prior": prior},
        likelihood_params={"num_levels": 8} if likelihood == "categorical" else None,
        guide_params={"num_layers": 2, "hidden": [3], "context_dim": 1},
        prior_params={"num_components": 3},
        max_iter=30,
    ).fit(DATA[likelihood])
    assert model.bound_curve_[-1] > model.bound_curve_[0]
    if prior == "vamp":  # the prior that scores is made of the encoder that was trained
        jax.tree.map(np.testing.assert_array_equal, model.theta_.prior.encoder, model.phi_)
    rows = DATA[likelihood][:6]
    np.testing.assert_allclose(model.transform(rows[::-1])[::-1], model.transform(rows), atol=1e-12)
    with jax.enable_x64(True):
        q = partial(model.guide_.posterior, model.phi_, rows[0])
        draw = jax.jit(
            lambda key: q().sample(seed=key, sample_shape=(4_000,)), compiler_options=QUICK
        )
        draws = np.asarray(draw(jax.random.key(9)))
    error = draws.std(0) * np.sqrt(1 / 4_000 + 1 / model.n_importance_samples)
    assert (np.abs(model.transform(rows[:1])[0] - draws.mean(0)) < 5 * error).all()


def test_early_stopping_keeps_the_best_of_the_rows_held_out():
    options = {**LINEAR, "early_stopping": True, "validation_fraction": 0.25, "n_iter_no_change": 3}
    model = VariationalAutoencoder(**options, max_iter=1_000).fit(X)
    curve = model.validation_bound_curve_
    assert model.converged_
    assert len(curve) == model.n_iter_ == len(model.bound_curve_) < 1_000
    assert curve.argmax() == model.n_iter_ - 4
    with pytest.warns(ConvergenceWarning, match="within its 2 epochs; increase max_iter"):
        brief = VariationalAutoencoder(**options, max_iter=2).fit(X)
    np.testing.assert_allclose(brief.validation_bound_curve_, curve[:2], rtol=1e-12)
    assert not brief.converged_


def test_a_warm_start_goes_on_where_the_last_fit_ended(linear):
    warm = short(warm_start=True, max_iter=1).fit(X)
    first = warm.bound_curve_[0]
    units = warm.scale_
    for _ in range(100):
        warm.fit(X + 0.01)
    np.testing.assert_array_equal(warm.scale_, units)
    assert warm.bound_curve_[0] > first + 0.1
    with pytest.raises(ValueError, match="warm_start: expected the architecture of the last fit"):
        warm.set_params(n_components=1).fit(X)


def test_random_state():
    once = short(random_state=7).fit(X)
    for same in (short(random_state=7).fit(X), short(random_state=np.random.RandomState(7)).fit(X)):
        jax.tree.map(np.testing.assert_array_equal, same.theta_, once.theta_)
        np.testing.assert_array_equal(same.score_samples(X), once.score_samples(X))
    other = short(random_state=8).fit(X)
    assert not np.array_equal(other.transform(X), once.transform(X))
    assert other.seed_ != once.seed_
    unseeded = short(random_state=None, max_iter=1).fit(X)
    np.testing.assert_array_equal(unseeded.score_samples(X), unseeded.score_samples(X))
    assert not np.array_equal(unseeded.sample(2), unseeded.sample(2))


def test_pipeline_pandas_output_grid_search_and_progress(capsys):
    frame = pd.DataFrame(X, columns=list("abcd"))
    pipe = make_pipeline(StandardScaler(), short(verbose=1)).set_output(transform="pandas")
    names = ["variationalautoencoder0", "variationalautoencoder1"]
    assert list(pipe.fit_transform(frame).columns) == list(pipe.get_feature_names_out()) == names
    progress = capsys.readouterr().out.splitlines()[-1]
    assert progress.startswith("Epoch 20, elbo -")
    model = short().fit(frame)
    assert list(model.feature_names_in_) == list("abcd")
    with pytest.raises(ValueError, match="feature names should match"):
        model.transform(frame[list("dcba")])
    once = [(np.arange(N), np.arange(N))]  # a split of the same shapes
    grid = GridSearchCV(short(), {"max_iter": [1, 200]}, cv=once, refit=False).fit(frame)
    assert grid.best_params_ == {"max_iter": 200}


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
    before = feed.advance._cache_size()
    with pytest.raises(ValueError, match=message):
        VariationalAutoencoder(**{**LINEAR, **options}).fit(data)
    assert feed.advance._cache_size() == before


def test_bad_arguments_of_a_fitted_model_are_refused(linear):
    with pytest.raises(ValueError, match="X: expected 2 columns, one for each component, got 3"):
        linear.inverse_transform(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="n_samples: expected an integer >= 1, got 0"):
        linear.sample(0)
    with pytest.raises(ValueError, match="X has 3 features"):
        linear.score_samples(X[:, 1:])
    with pytest.raises(ValueError, match="index: expected shape"):
        evidence.evaluate(
            *(jax.random.key(0), linear.model_, linear.guide_, linear.theta_, linear.phi_),
            *(X.astype(np.float32), 5),
            index=np.arange(3),
        )


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
