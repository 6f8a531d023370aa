"""The VAE experiment, once and small: its numbers from the parameters alone; its options."""

import html
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from experiment_cycle import check_whole, run_once
from scipy.special import logsumexp
from scipy.stats import norm

from experiments.vae import config as options
from experiments.vae import evaluation, measure
from experiments.vae.config import Config
from lvm_jax import evidence, gradients, likelihoods, networks, training, vae
from lvm_jax.evidence import Evidence
from lvm_jax.report import opened
from lvm_jax.report.options import hints

SMALL = {
    "hidden": (12,), "epochs": 2, "batch_size": 100, "evaluated": 40, "evidence_samples": 300,
    "bound": "iwae", "num_samples": 3, "estimator": "reparameterized", "learning_rate": 3e-3,
}  # fmt: skip


finished = run_once("vae", Config(**SMALL))


@pytest.fixture(scope="module")
def saved(finished):
    return training.load(finished.path)


def test_the_run_is_whole(finished):
    names = ("training", "reconstructions", "samples", "latent", "aggregate")
    found, lines = check_whole(finished, *names)
    assert found["evidence"]["num_points"] == 40
    assert found["num_parameters"]["theta"] == 2 * 12 + 12 + 12 * 128 + 128
    assert found["num_parameters"]["phi"] == 64 * 12 + 12 + 12 * 4 + 4 + 4
    assert len(lines) == 2


def test_an_extended_run_has_the_bits_of_one_without_a_stop(finished, result, tmp_path):
    longer, fits = Config(**SMALL | {"epochs": 3, "evaluated": 30}), []
    shutil.copytree(finished.path, tmp_path / "extended")
    for name in ("extended", "whole"):
        with opened("vae", longer, tmp_path / name) as run:
            fits.append(measure.train(result.prepared._replace(config=longer), run.path, run.note))
            assert len((run.path / "training" / "metrics.jsonl").read_text().splitlines()) == 3
    np.testing.assert_array_equal(*(fit.history.bound for fit in fits))
    jax.tree.map(np.testing.assert_array_equal, *(fit.params for fit in fits))
    with (
        pytest.raises(FileExistsError, match="epochs = 3, this one has 2"),
        opened("vae", result.config, tmp_path / "extended"),
    ):
        pass


def by_hand(saved, x, num_draws):
    """log-weights [S], log p(x | z) [S] and q's mean and scale, from the parameters alone."""
    rng = np.random.default_rng(0)
    theta, phi = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64), (saved.p.theta, saved.q.phi)
    )

    def dense(params, rows):
        hidden = rows @ params["hidden_0"]["kernel"] + params["hidden_0"]["bias"]
        return np.maximum(hidden, 0) @ params["output"]["kernel"] + params["output"]["bias"]

    loc, log_scale = np.split(dense(phi.network, x), 2)
    loc, scale = loc + phi.offset.loc, np.exp(log_scale + phi.offset.log_scale)
    z = loc + scale * rng.normal(size=(num_draws, 2))
    middle, free = np.split(dense(theta.decoder, z), 2, axis=1)
    width = np.exp(8 * np.tanh(free / 8))
    low = np.where(x < 1 / 32, -np.inf, x - 1 / 32)  # the 17 levels of the digits
    high = np.where(x > 31 / 32, np.inf, x + 1 / 32)
    cdf = [1 / (1 + np.exp(-np.clip((e - middle) / width, -700, 700))) for e in (low, high)]
    log_likelihood = np.log(np.maximum(cdf[1] - cdf[0], 1e-300)).sum(1)
    log_prior, log_q = norm.logpdf(z).sum(1), norm.logpdf(z, loc, scale).sum(1)
    return log_likelihood + log_prior - log_q, log_likelihood, loc, scale


def test_log_p_and_its_bounds_are_recomputed_for_each_point(result, saved):
    points = result.points
    z = {name: [] for name in ("bound", "elbo", "kl_prior", "log_evidence")}
    for row, x in enumerate(result.test.astype(np.float64)):
        log_w, log_likelihood, loc, scale = by_hand(saved, x, 1_500)
        kl = (0.5 * (loc**2 + scale**2 - 1) - np.log(scale)).sum()
        groups = logsumexp(log_w.reshape(-1, 3), axis=1) - np.log(3)
        w = np.exp(log_w - log_w.max())
        found = {
            "bound": (groups.mean(), groups.std() / 500**0.5),
            "elbo": (log_likelihood.mean() - kl, log_likelihood.std() / 1500**0.5),
            "kl_prior": (kl, 1e-4),
            "log_evidence": (logsumexp(log_w) - np.log(1500), w.std() / w.mean() / 1500**0.5),
        }
        for name, (value, error) in found.items():
            own = points["standard_error" if name == "log_evidence" else f"{name}_error"][row]
            z[name].append((points[name][row] - value) / np.hypot(error, own))
    for name, values in z.items():
        assert np.abs(values).max() < 5, name  # 40 points, weights with tails
        assert np.abs(np.mean(values)) < 5 / np.sqrt(40), name


def test_the_means_are_those_of_the_points(result):
    points, test = result.points, result.parts[-1]
    sizes = {part.name: (part.num_points, part.out_of) for part in result.parts}
    assert sizes == {"train": (40, 1297), "validation": (40, 200), "test": (40, 300)}
    for name in ("bound", "elbo", "reconstruction", "kl_prior"):
        mean, values = getattr(test, name), points[name].astype(float)
        assert mean.value == pytest.approx(values.mean(), rel=1e-6)
        assert mean.sampling_error == pytest.approx(values.std(ddof=1) / 40**0.5, rel=1e-6)
    summary = result.log_p[-1].summary
    assert summary.log_evidence == pytest.approx(points["log_evidence"].mean(), rel=1e-6)
    assert test.elbo.value < test.bound.value < summary.log_evidence  # 3 draws are between
    np.testing.assert_allclose(
        points["elbo"], points["reconstruction"] - points["kl_prior"], atol=1e-4
    )


def test_the_lines_of_the_report_reload_the_model(finished, result, tmp_path, monkeypatch):
    page = html.unescape((finished.path / "report.html").read_text())
    lines = page[page.index("import jax\n") :].partition("</code>")[0].partition("found = ")[0]
    space = {}
    monkeypatch.chdir(tmp_path)
    exec(lines, space)
    assert 0 <= space["mean"].min() < space["mean"].max() <= 1  # a grey image
    jax.tree.map(np.testing.assert_array_equal, space["p"].theta, result.fit.p.theta)


def given(failed, **values):
    """LogP of 4 images."""
    count = np.zeros(4, np.int32)
    given = {"log_evidence": [-90.0, -80, -70, -60], "standard_error": [0.3, 0.4, 0.0, 0.0]}
    floats = [np.array(v, np.float32) for v in (given | values).values()]
    found = (*floats, count + 9.0, count + 0.5, count, count, count, count, np.array(failed))
    points = Evidence(*found)
    return evaluation.LogP("importance", "draws", points, evidence.summarize(points))


def test_unreliable_images_are_counted_and_excluded_from_differences():
    one, other = given([2, 0, 6, 0]), given([0, 0, 0, 8], log_evidence=[-88, -80, -70, -9])
    found = evaluation.as_numbers(one)
    assert (found["reliable"], found["num_untrusted"]) == (False, 2)
    assert found["monte_carlo_error"] == pytest.approx(0.125)
    assert "2 of 4 not reliable: Pareto k-hat" in found["verdict"]
    apart = evaluation.difference(other, one)  # of the first three images
    np.testing.assert_allclose(
        [*apart.values()], (2 / 3, np.hypot(0.3, 0.4) * 2**0.5 / 3, 3), rtol=1e-5
    )
    assert evaluation.as_numbers(given([0] * 4))["verdict"] == "reliable"


def test_pictures_are_of_the_test_images_and_of_the_model(result, saved):
    pictures = result.pictures
    low = jnp.asarray(pictures.window[0], jnp.float32)  # of both axes
    corner = saved.p.likelihood(low).mean()
    np.testing.assert_allclose(pictures.plane[-16], corner, atol=1e-5)  # lower left
    means = [saved.q(x).mean() for x in result.test[:3]]
    np.testing.assert_allclose(pictures.codes[:3], means, atol=1e-5)
    several = replace(result, config=Config(latent_dims=(2, 1)))
    assert (result.names, several.names) == (["z1", "z2"], ["z1.1", "z1.2", "z2.1"])


def test_the_words_are_those_of_the_library():
    """But for estimators of discrete z or chains, and aliases with a bound in their name."""
    words = {name: set(str(hint).split("'")[1::2]) for name, hint in hints(Config).items()}
    assert words["likelihood"] == set(likelihoods.LIKELIHOODS)
    assert words["guide"] == set(vae.GUIDES)
    assert words["prior"] == set(vae.PRIORS)
    assert words["activation"] == set(networks.ACTIVATIONS)
    left_out = {"reparameterized_iwae", "score_function_iwae"}
    for name, row in gradients.ESTIMATORS.items():
        known = row.latent in ("any", "reparameterized") and row.bound in options.BOUNDS
        assert (name in options.ESTIMATORS) == (known and name not in left_out), name
        if name in options.ESTIMATORS:
            assert options.ESTIMATORS[name][0] == row.bound


@pytest.mark.parametrize("name", likelihoods.LIKELIHOODS)
def test_digits_come_in_the_units_of_every_likelihood(name):
    pixels = measure.load_pixels(Config(likelihood=name))
    assert pixels.high == (16 if name in vae.COUNTS else 1)
    assert (pixels.transform is not None) == (name == "bernoulli")
    assert pixels.levels == (2 if name == "bernoulli" else 17)
    assert pixels.train.max() == pixels.high


def test_unused_options_are_not_in_the_architecture():
    def architecture(**values):
        config = Config(**values)
        return measure.architecture(config, measure.load_pixels(config))

    plain = architecture(likelihood="gaussian")
    assert plain.guide_options == plain.prior_options == plain.likelihood_options == ()
    assert architecture(guide="low_rank", rank=3, latent_dims=(4,)).guide_options == (("rank", 3),)
    flow = architecture(guide="iaf", flow_layers=3, flow_hidden=(8,), latent_dims=(4,))
    assert dict(flow.guide_options) == {"num_layers": 3, "hidden": (8,), "context_dim": 4}
    layers = architecture(latent_dims=(8, 4), hidden=(9,), hidden_above=(7, 6))
    assert layers.hidden == ((9,), (7, 6))
    assert architecture(likelihood="poisson").encoder_scale == 16.0
    vamp = architecture(prior="vamp", components=5)
    assert vamp.prior_options == (("num_components", 5),)
    assert vamp.likelihood_options == (("num_levels", 17),)


def test_every_bound_goes_with_the_estimators_of_it():
    for bound in options.BOUNDS:
        for name, fitting in options.ESTIMATORS.items():
            config = Config(bound=bound, estimator=name, num_samples=4)
            if bound in fitting:
                config.check()
                assert callable(measure.make_estimate(config, 1))
            else:
                with pytest.raises(ValueError, match="no gradient of the bound .*reparameterized"):
                    config.check()


def test_one_word_is_enough():
    """What the other options have to be follows from it."""
    named = {
        "ladder": {"guide": "ladder"}, "vimco": {"estimator": "vimco"}, "iaf": {"guide": "iaf"},
        "layers": {"latent_dims": (8, 4)}, "warm": {"warm_up": 3}, "renyi": {"bound": "renyi"},
        "rloo": {"estimator": "leave_one_out"}, "dreg": {"estimator": "doubly_reparameterized"},
    }  # fmt: skip
    filled = {name: Config(**values) for name, values in named.items()}
    for config in filled.values():
        config.check()
        assert replace(config) == config
    assert filled["ladder"].latent_dims == (8, 2)
    assert filled["layers"].guide == "bottom_up"
    assert (filled["vimco"].bound, filled["vimco"].num_samples) == ("iwae", 10)
    assert filled["iaf"].estimator == filled["warm"].estimator == "reparameterized"
    assert filled["renyi"].estimator == "doubly_reparameterized"
    assert (filled["rloo"].num_samples, filled["dreg"].bound) == (10, "iwae")


@pytest.mark.parametrize("schedule", ["cosine", "constant", "burda"])
def test_a_longer_run_has_the_rates_of_a_shorter_one(schedule, monkeypatch):
    """So every schedule can be extended; burda also beyond the 8 stages of the paper."""
    made, steps = [], np.arange(3 * 12)

    def adam(rate, **values):
        made.append(
            np.asarray(jax.jit(jax.vmap(rate))(steps) if callable(rate) else np.full(36, rate))
        )
        return optax.identity()

    monkeypatch.setattr(optax, "adam", adam)
    longest = 3_281 if schedule == "burda" else 200  # 3^0 + ... + 3^7 = 3,280 epochs
    for epochs in (3, 7, longest):
        config = Config(schedule=schedule, epochs=epochs, learning_rate=3e-3)
        config.check()
        measure.make_optimizer(config, 12)
    np.testing.assert_array_equal(made[1:], [made[0]] * 2)
    last = {"cosine": 0.5 + 0.5 * np.cos(np.pi * 35 / 2_400), "constant": 1.0}
    want = last.get(schedule, 10 ** (-1 / 7))  # burda's second stage has epochs 2 to 4
    np.testing.assert_allclose(made[0][[0, -1]] / 3e-3, [1, want], rtol=1e-6)


def test_burda_has_the_papers_eps_for_its_sums_over_a_batch():
    """Two steps of Adam on gradients as small as eps: those of its code, which sums them."""
    ours = measure.make_optimizer(Config(schedule="burda", batch_size=20), 10)
    papers, start = optax.adam(1e-3, eps=1e-4), jnp.zeros(3)
    states = [one.init(start) for one in (ours, papers)]
    for mean in (jnp.array([1e-6, -1e-5, 1e-2]), jnp.array([2e-6, 3e-5, 1e-3])):
        found, states[0] = jax.jit(ours.update)(mean, states[0], start)
        want, states[1] = jax.jit(papers.update)(20 * mean, states[1], start)
        np.testing.assert_allclose(found, want, rtol=1e-5)


def test_a_users_file_needs_its_number_of_levels(tmp_path):
    x = np.random.default_rng(0).integers(0, 5, (60, 5, 6)) / 4
    np.save(tmp_path / "mine.npy", x)
    given = {"dataset": str(tmp_path / "mine.npy"), "likelihood": "categorical"}
    with pytest.raises(ValueError, match="levels: expected the number of grey levels"):
        measure.load_pixels(Config(**given))
    with pytest.raises(ValueError, match="split: expected at least 2 images for validation, got 1"):
        measure.load_pixels(Config(levels=5, split="50/1/9", **given))
    pixels = measure.load_pixels(Config(levels=5, **given))
    assert pixels.images.shape == (5, 6)
    assert np.unique(pixels.train).tolist() == [0, 1, 2, 3, 4]
