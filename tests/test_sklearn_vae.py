import pickle
import subprocess
import sys

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
from sklearn_checks import not_passed
from sklearn_vae_cases import DATA, LINEAR, QUICK, D, L, N, X, short

from lvm_jax import evidence
from lvm_jax._core import batching
from lvm_jax.sklearn import ProbabilisticPCA, VariationalAutoencoder, vae_programs
from lvm_jax.sklearn.vae_programs import labels
from lvm_jax.training import batches


@pytest.fixture(autouse=True, scope="module")
def quick_training():
    """Training and sampling."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, static in ((batches, "advance", 0), (vae_programs, "sample", 2)):
            function = getattr(module, name).__wrapped__
            quick = jax.jit(function, static_argnums=static, compiler_options=QUICK)
            patch.setattr(module, name, quick)
        yield


@pytest.fixture
def quick_evidence(monkeypatch):
    """Importance sampling likewise, where no bits are compared with those of another process."""
    program = batching._for_points
    static = {"static_argnums": program.static_argnums}
    quick = jax.jit(program.__wrapped__, compiler_options=QUICK, **static)
    monkeypatch.setattr(batching, "_for_points", quick)


@pytest.fixture(scope="module")
def linear():
    """A linear VAE at its optimum, to which it was led by large steps and then by small ones."""
    model = VariationalAutoencoder(**LINEAR, max_iter=1_500, warm_start=True).fit(X)
    return model.set_params(learning_rate=1e-4, max_iter=3_000).fit(X)


@pytest.mark.filterwarnings("ignore:score_samples")  # of fits of two epochs
def test_check_estimator_has_no_failures(quick_evidence, unchecked):
    # Batches of one size, although the checks' tables have 10 to 150 rows.
    quick = {"hidden_layer_sizes": (), "max_iter": 2, "batch_size": 8, "n_importance_samples": 20}
    estimator = VariationalAutoencoder(1, **quick)
    assert not_passed(estimator) == []


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


def test_score_samples_is_importance_sampling_by_hand(linear):
    key = jax.random.split(jax.random.key(linear.seed_))[0]
    measured = (X - linear.mean_) / linear.scale_

    def one(label, x):
        joint, q = linear.p_.log_joint(x), linear.q_(x)
        return evidence.importance(jax.random.fold_in(key, label), joint, q, 50)

    with jax.enable_x64(True):
        by_hand = jax.jit(jax.vmap(one), compiler_options=QUICK)(
            labels(measured), jnp.asarray(measured)
        )
    by_hand = jax.tree.map(np.asarray, by_hand)
    expected = by_hand.log_evidence - np.log(linear.scale_).sum()
    found = linear.evidence(X)
    np.testing.assert_allclose(found.log_evidence, expected, rtol=1e-12)
    np.testing.assert_allclose(found.k_hat, by_hand.k_hat, rtol=1e-6)
    assert (found.num_samples == 50).all()
    np.testing.assert_array_equal(linear.score_samples(X), found.log_evidence)
    backwards = linear.evidence(X[::-1]).log_evidence[::-1]
    np.testing.assert_allclose(backwards, found.log_evidence, rtol=1e-13)


def stray(linear, **changes):
    """The same model with a q of another offset."""
    copy = pickle.loads(pickle.dumps(linear)).set_params(n_importance_samples=400)
    moved = {name: change(getattr(copy.phi_.offset, name)) for name, change in changes.items()}
    copy.phi_ = copy.phi_._replace(offset=copy.phi_.offset._replace(**moved))
    return copy


def test_scores_that_rest_on_a_few_draws_are_said_to(linear, quick_evidence):
    """q too narrow, and so far away that one weight is all: ESS 1 and weights 100s of nats apart."""
    narrow = stray(linear, log_scale=lambda value: value - 2)  # by e^2 in every direction
    far = stray(linear, loc=lambda value: value + 100.0)
    found = far.evidence(X)
    assert np.median(found.ess) < 1.001
    assert not found.reliable.any()
    for model, least in ((narrow, 0.5 * N), (far, N)):
        number = model.evidence(X).likely_low.sum()
        assert number >= least
        message = (
            rf"score_samples: {number} of 120 not reliable: .* from 400 draws are likely .*low"
        )
        with pytest.warns(UserWarning, match=message):
            low = model.score_samples(X)
        assert low.mean() < linear.score(X) - 0.5


def test_a_few_unreliable_scores_cause_a_warning(linear, quick_evidence):
    """2 of 20 cause a warning; 1 of 20 may be chance."""
    model = stray(linear, log_scale=lambda value: value - 0.5)
    low = model.evidence(X).likely_low
    good, bad = X[~low], X[low]
    assert 2 <= len(bad) < N / 2
    with pytest.warns(UserWarning, match="2 of 20 not reliable"):
        model.score_samples(np.concatenate([good[:18], bad[:2]]))
    model.score_samples(np.concatenate([good[:19], bad[:1]]))


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
    z = np.random.default_rng(1).normal(size=(3, L))
    turned = short().fit(50 - X).inverse_transform(z)
    np.testing.assert_allclose(scaled.inverse_transform(z) - 50, 1_000 * (turned - 50), rtol=1e-6)


def test_probabilities_of_all_bits_add_to_one(quick_evidence):
    x = (np.random.default_rng(1).random((60, 3)) < np.array([0.2, 0.5, 0.9])).astype(np.float32)
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
        jax.tree.map(np.testing.assert_array_equal, model.p_.prior().shared.phi, model.phi_)
    rows = DATA[likelihood][:6]
    np.testing.assert_allclose(model.transform(rows[::-1])[::-1], model.transform(rows), atol=1e-12)
    with jax.enable_x64(True):
        q = model.q_(rows[0])
        draw = jax.jit(
            lambda key: q.sample(seed=key, sample_shape=(4_000,)), compiler_options=QUICK
        )
        draws = np.asarray(draw(jax.random.key(9)))
    error = draws.std(0) * np.sqrt(1 / 4_000 + 1 / model.n_importance_samples)
    assert (np.abs(model.transform(rows)[0] - draws.mean(0)) < 5 * error).all()


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
    for _ in range(30):
        warm.fit(X + 0.01)
    np.testing.assert_array_equal(warm.scale_, units)
    assert warm.bound_curve_[0] > first + 0.1
    with pytest.raises(ValueError, match="warm_start: expected the architecture of the last fit"):
        warm.set_params(n_components=1).fit(X)


@pytest.mark.filterwarnings("ignore:score_samples")  # of fits of 20 epochs
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


@pytest.mark.filterwarnings("ignore:score_samples")  # of fits of 20 epochs
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


def test_bad_arguments_of_a_fitted_model_are_refused(linear):
    with pytest.raises(ValueError, match="X: expected 2 columns, one for each component, got 3"):
        linear.inverse_transform(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="n_samples: expected an integer >= 1, got 0"):
        linear.sample(0)
    with pytest.raises(ValueError, match="X has 3 features"):
        linear.score_samples(X[:, 1:])
    with pytest.raises(ValueError, match="index: expected shape"):
        evidence.evaluate(
            *(jax.random.key(0), linear.p_, linear.q_),
            *(X.astype(np.float32), 5),
            index=np.arange(3),
        )
