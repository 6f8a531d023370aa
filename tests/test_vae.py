"""The VAE experiment, once and small: every number against the reloaded model, and a stopped run."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from experiment_cycle import check_whole
from scipy.special import logsumexp
from scipy.stats import norm

from experiments import __main__ as cli
from experiments import vae as experiment
from experiments import (
    vae_evaluation,
    vae_evidence,
    vae_figures,
    vae_models,
    vae_objectives,
    vae_report,
    vae_setup,
)  # fmt: skip
from experiments.progress import Progress
from lvm_jax import training
from lvm_jax.evidence import Certificate, Evidence

SMALL = {
    "hidden": (12,), "epochs": 3, "batch_size": 100, "evaluated": 40, "evidence_samples": 300,
    "bound": "iwae", "num_samples": 3, "estimator": "reparameterized", "learning_rate": 3e-3,
}  # fmt: skip
ROOT = Path(__file__).parent.parent
WORKER = str(Path(__file__).with_name("vae_worker.py"))

pytestmark = pytest.mark.usefixtures("compile_quickly")


@pytest.fixture(scope="module")
def prepared(compile_quickly):
    config = vae_setup.filled(experiment.Config(**SMALL))
    vae_setup.check(config)
    return vae_setup.prepare(config)


@pytest.fixture(scope="module")
def result(prepared, tmp_path_factory):
    config = experiment.Config(out=tmp_path_factory.mktemp("vae") / "run", **SMALL)
    with pytest.MonkeyPatch.context() as patch:  # the same functions, so that they compile once
        patch.setattr(vae_setup, "prepare", lambda config: prepared._replace(config=config))
        return experiment.main(config)


@pytest.fixture(scope="module")
def saved(result):
    return training.load_model(result.path, vae_models.build)


def by_hand(saved, x, num_draws):
    """log-weights [S], log p(x | z) [S] and q's mean and scale, from the parameters alone."""
    rng = np.random.default_rng(0)
    theta, phi = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (saved.theta, saved.phi))

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


def test_log_p_and_its_bounds_are_recomputed_from_the_saved_parameters(result, saved):
    test = result.measured.parts[-1]
    chosen = vae_evaluation.choose(result.pixels, result.config)
    found, log_p, errors = [], [], []
    for x in chosen.rows["test"].astype(np.float64):
        log_w, log_likelihood, loc, scale = by_hand(saved, x, 3_000)
        kl = (0.5 * (loc**2 + scale**2 - 1) - np.log(scale)).sum()
        groups = logsumexp(log_w.reshape(-1, 3), axis=1) - np.log(3)
        reconstruction = log_likelihood.mean()
        found.append((groups.mean(), reconstruction - kl, reconstruction, kl))
        log_p.append(logsumexp(log_w) - np.log(len(log_w)))
        w = np.exp(log_w - log_w.max())
        spreads = (groups.std() / 1000**0.5, log_likelihood.std() / 3000**0.5)
        errors.append((*spreads, w.std() / w.mean() / 3000**0.5))
    sums = np.sqrt((np.array(errors) ** 2).sum(0)) / len(errors)
    pairs = zip((test.bound, test.elbo, test.reconstruction, test.kl_prior), np.mean(found, 0),
                (sums[0], sums[1], sums[1], 0), strict=True)  # fmt: skip
    for mean, want, error in pairs:
        assert abs(mean.value - want) < 5 * np.hypot(error, mean.monte_carlo_error) + 1e-3
    summary = result.measured.chosen.summary
    error = np.hypot(summary.monte_carlo_error, sums[2])
    assert abs(summary.log_evidence - np.mean(log_p)) < 5 * error + 1e-3
    assert test.elbo.value < test.bound.value < summary.log_evidence  # 3 draws are between


def test_the_terms_of_every_part_add_up_and_know_their_size(result):
    parts = {part.name: part for part in result.measured.parts}
    assert {name: (p.num_points, p.out_of) for name, p in parts.items()} == {
        "train": (40, 1297), "validation": (40, 200), "test": (40, 300)
    }  # fmt: skip
    for part in parts.values():
        terms = part.reconstruction.value - part.kl_prior.value
        assert part.elbo.value == pytest.approx(terms, abs=1e-4)
        assert part.kl_prior.monte_carlo_error == 0  # by its closed form


def test_annealed_chains_find_the_integral_over_z(prepared, saved):
    """log p of 5 images by 40 chains against the rectangle rule over z in [-6, 6]^2."""
    config = dataclasses.replace(prepared.config, evidence_chains=40, evidence_temperatures=7)
    x = prepared.pixels.test[:5]
    axis = np.linspace(-6, 6, 97)
    z = np.stack([a.ravel() for a in np.meshgrid(axis, axis)], 1).astype(np.float32)

    def log_joints(z):
        likelihood = saved.model.likelihood(saved.theta, z)
        return saved.model.prior(saved.theta).log_prob(z) + jax.vmap(likelihood.log_prob)(x)

    values = np.asarray(jax.lax.map(log_joints, z, batch_size=97), np.float64)
    exact = logsumexp(values, axis=0) + 2 * np.log(axis[1] - axis[0])
    method, how, found = vae_evidence.by_annealing(
        jax.random.key(8), prepared._replace(config=config), saved.theta, saved.phi, x
    )
    assert (method, "40 annealed chains each from the guide over 7" in how) == ("annealed", True)
    error = np.asarray(found.standard_error)
    assert (error < 0.3).all()
    assert (np.abs(found.log_evidence - exact) < 5 * error + 1e-3).all()


def given(failed, **values):
    """Evidence of 4 images."""
    count = np.zeros(4, np.int32)
    given = {"log_evidence": [-90.0, -80, -70, -60], "standard_error": [0.3, 0.4, 0.0, 0.0]}
    floats = [np.array(v, np.float32) for v in (given | values).values()]
    return Evidence(*floats, count + 9.0, count + 0.5, count, count, count, count, np.array(failed))


def test_an_untrusted_number_is_flagged_wherever_it_is_shown(result):
    """In the words, in results.json, in the report's headline, in its table and in a note."""
    first = vae_evidence.log_p("importance", "draws", given([2, 0, 6, 0]))
    other = vae_evidence.log_p(
        "annealed", "chains", given([0, 0, 0, 8], log_evidence=[-88, -80, -70, -9])
    )
    flag = "NOT RELIABLE at 2 of 4 images"
    assert str(first) == (
        "log p -75.000 ± 0.125 (Monte Carlo) ± 6.455 (sampling) nats per image, " + flag
    )
    numbers = first.as_numbers()
    assert (numbers["reliable"], numbers["num_untrusted"]) == (False, 2)
    assert "2 of 4 not reliable: Pareto k-hat" in numbers["verdict"]
    apart = vae_evidence.difference(other, first)  # of the first three images
    np.testing.assert_allclose(apart, (2 / 3, np.hypot(0.3, 0.4) * 2**0.5 / 3, 3), rtol=1e-5)
    measured = result.measured._replace(log_p=[first, other])
    figures = dict.fromkeys(("training", "reconstructions", "samples", "latent", "aggregate"), b"")
    _, _, facts, sections = vae_report.page(result._replace(measured=measured), figures)
    assert facts[0].value.endswith("(not reliable)")
    assert "NOT RELIABLE at 1 of 4 images" in facts[0].name
    words = str(sections)
    assert "log p, importance (not reliable)" in words
    assert (
        "On the 3 images where annealed is reliable, importance sampling is lower by 0.667" in words
    )
    assert "--evidence certify" in words
    good = vae_evidence.log_p("importance", "draws", given([0, 0, 0, 0]))
    assert (good.reliable, good.flag, good.as_numbers()["verdict"]) == (True, "", "reliable")


def test_a_certificate_is_evidence_whose_error_is_unknown_where_it_is_open():
    """Half-widths of 95% are 1.96 standard errors."""
    found = Certificate(
        log_evidence=np.array([-3.0, -4.0]), low=np.array([-3.5, -np.inf]),
        high=np.array([-2.5, np.inf]), within=np.array([True, False]), failed=np.array([0, 32]),
        method=np.array(["importance", "annealed"]), contradicted=np.array([False, True]),
        k_hat=np.array([0.1, 0.6]), cost=np.ones(2), tolerance=0.5, level=0.95, rounds=(),
    )  # fmt: skip
    points = vae_evidence.as_evidence(found)
    np.testing.assert_allclose(points.standard_error, [0.5 / 1.959964, np.inf], rtol=1e-6)
    made = vae_evidence.log_p("certify", "certify", points)
    assert (made.summary.log_evidence, made.summary.num_untrusted) == (-3.5, 1)
    assert made.summary.monte_carlo_error == np.inf


def test_the_option_decides_the_method_and_importance_sampling_stands_beside_it(
    prepared, monkeypatch
):
    """Each with a key of its own."""
    keys = {}
    for name in ("importance", "annealing", "certifying"):

        def by(key, prepared, theta, phi, x, name=name):
            keys[name] = jax.random.key_data(key).tolist()
            return name, name, given([0, 0, 0, 0])

        monkeypatch.setattr(vae_evidence, f"by_{name}", by)
    used = {
        method: [one.method for one in vae_evidence.measure(
            jax.random.key(1), prepared._replace(
                config=dataclasses.replace(prepared.config, evidence=method)
            ), None, None, None,
        )]
        for method in vae_evidence.METHODS
    }  # fmt: skip
    assert used == {
        "importance": ["importance"],
        "annealed": ["importance", "annealing"],
        "certify": ["importance", "certifying"],
    }
    assert keys["importance"] != keys["annealing"] == keys["certifying"]


def test_the_lines_of_the_report_reload_the_model_and_find_the_same(result, monkeypatch, tmp_path):
    """With test images and the key that the run had, in a namespace of their own."""
    html = (result.path / "report.html").read_text()
    start = html.index("import jax\n")
    lines = html[start : html.index("</pre>", start)].replace("&#34;", '"')
    assert "key_p, *saved[:4], x[None], 1_000" in lines
    lines = lines.replace("key_p, *saved[:4], x[None], 1_000", "key, *saved[:4], rows, 300")
    index = vae_evaluation.choose(result.pixels, result.config).index["test"]
    key_measure, _ = jax.random.split(jax.random.fold_in(jax.random.key(0), 1))
    key = jax.random.split(key_measure, 3)[1]
    space = {"key": key, "rows": result.pixels.test[index]}
    monkeypatch.chdir(tmp_path)
    exec(lines, space)
    mean, log_p = np.asarray(space["mean"]), space["found"].log_evidence
    assert 0 <= mean.min() < mean.max() <= 1  # a grey image
    np.testing.assert_allclose(log_p, result.measured.chosen.points.log_evidence, rtol=1e-5)


def test_a_stopped_run_goes_on_to_the_same_parameters(
    result, prepared, tmp_path, monkeypatch, capsys
):
    """Ctrl-C after the first epoch, then the same command."""
    config = dataclasses.replace(prepared.config, out=tmp_path / "run")
    plain, asked = training.fit, []

    def stopping(*args, on_progress, **options):
        def stop(now):
            on_progress(now)
            if now.epoch >= 1 and not asked:
                asked.append(now.epoch)
                signal.raise_signal(signal.SIGINT)

        return plain(*args, on_progress=stop, **options)

    def train():
        return experiment.train(prepared, vae_setup.open_run(config), Progress(lambda *said: None))

    monkeypatch.setattr(training, "fit", stopping)
    with pytest.raises(KeyboardInterrupt):
        train()
    assert f"the same options and --out {tmp_path / 'run'}\n" in capsys.readouterr().err
    assert asked[0] < 3
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == asked[0]
    again = train()
    assert [len(fit.history.step) for fit in (again, result.fit)] == [3, 3]
    assert_same(again.history.bound, result.fit.history.bound)
    assert_same((again.theta, again.phi), (result.fit.theta, result.fit.phi))


def assert_same(one, other):
    """To the bit."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_finished_run_repeated_ends_with_the_same_numbers(result, prepared, monkeypatch, capsys):
    """Nothing is trained again: every epoch keeps its line, and the seconds that it took."""
    metrics = (result.path / "metrics.jsonl").read_text()
    before = numbers(result.path)
    monkeypatch.setattr(vae_setup, "prepare", lambda config: prepared._replace(config=config))
    again = experiment.main(experiment.Config(out=result.path, **SMALL))
    assert (result.path / "metrics.jsonl").read_text() == metrics
    assert numbers(result.path) == before
    assert f"importance: {result.measured.chosen}\n" in capsys.readouterr().out
    assert_same((again.fit.theta, again.fit.phi), (result.fit.theta, result.fit.phi))


def numbers(path):
    """All that was found, without how long it took."""
    found = json.loads((path / "results.json").read_text())
    del found["provenance"], found["training"]["seconds"], found["training"]["history"]["seconds"]
    return found


def test_a_finished_run_is_extended(result, prepared, tmp_path):
    """3 epochs, then 7 by the same command: the bits of 7 epochs without a stop."""

    def train(folder, epochs):
        config = vae_setup.filled(experiment.Config(out=folder, **SMALL | {"epochs": epochs}))
        vae_setup.check(config)
        rates = vae_objectives.optimizer(config, len(prepared.pixels.train) // 100)
        one = prepared._replace(config=config, optimizer=rates)
        return experiment.train(one, vae_setup.open_run(config), Progress(lambda *said: None))

    shutil.copytree(result.path, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3
    extended = train(tmp_path / "run", 7)
    whole = train(tmp_path / "whole", 7)
    assert (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[:3] == lines
    assert_same(extended.history.bound, whole.history.bound)
    assert_same((extended.theta, extended.phi), (whole.theta, whole.phi))


@pytest.mark.parametrize("schedule", vae_objectives.SCHEDULES)
def test_a_longer_run_has_the_rates_of_a_shorter_one(schedule, tmp_path, monkeypatch):
    """So every schedule can be extended; burda also beyond the 8 stages of the paper."""
    made, steps = [], np.arange(3 * 12)

    def adam(rate, **options):
        value = jax.vmap(rate)(steps) if callable(rate) else np.full(len(steps), rate)
        made.append((np.asarray(value), options))
        return optax.identity()

    monkeypatch.setattr(optax, "adam", adam)
    longest = 3_281 if schedule == "burda" else 200  # 3^0 + ... + 3^7 = 3,280 epochs
    for epochs in (3, 7, longest):
        config = experiment.Config(out=tmp_path, **SMALL)
        config = dataclasses.replace(config, schedule=schedule, epochs=epochs)
        config = vae_setup.filled(config)
        vae_setup.check(config)
        assert vae_setup.open_run(config).path == tmp_path
        assert json.loads((tmp_path / "config.json").read_text())["epochs"] == epochs
        vae_objectives.optimizer(config, 12)
    for rates, options in made[1:]:
        np.testing.assert_array_equal(rates, made[0][0])
        assert options == made[0][1]
    rates = made[0][0] / 3e-3
    last = {"cosine": 0.5 + 0.5 * np.cos(np.pi * 35 / 2_400), "constant": 1.0}
    want = last.get(schedule, 10 ** (-1 / 7))  # burda's second stage has epochs 2 to 4
    np.testing.assert_allclose(rates[[0, -1]], [1, want], rtol=1e-6)
    with pytest.raises(ValueError, match=rf"other options \(epochs: {longest} then, 5 now\)"):
        vae_setup.open_run(dataclasses.replace(config, epochs=5))


def test_a_run_is_not_extended_beyond_its_cosine(result):
    """The rates of the first step depend on where it ends; the error says what would do."""
    longer = experiment.Config(out=result.path, **SMALL | {"epochs": 201})
    cure = r"decay_epochs: 200 then, 201 now\).* beyond 200 epochs .*--decay-epochs, or .* constant"
    with pytest.raises(ValueError, match=cure):
        vae_setup.open_run(vae_setup.filled(longer))
    measured = dataclasses.replace(vae_setup.filled(longer), epochs=3, decay_epochs=200)
    measured = dataclasses.replace(measured, evaluated=7, evidence_samples=11)  # only measures
    assert vae_setup.open_run(measured).path == result.path
    vae_setup.open_run(vae_setup.filled(result.config))  # config.json as the other tests have it


def test_other_settings_are_not_gone_on_with(result, tmp_path):
    """What differs is named, with the cures; so is a run of another experiment."""
    other = vae_setup.filled(
        experiment.Config(out=result.path, **SMALL | {"learning_rate": 0.01, "latent_dims": (3,)})
    )
    changed = (
        r"other options \(latent_dims: \[2\] then, \[3\] now; learning_rate: 0.003 then, 0.01 now\)"
    )
    with pytest.raises(ValueError, match=rf"^out: .*{changed}; .* another --out, .* --overwrite$"):
        vae_setup.open_run(other)
    (tmp_path / "config.json").write_text('{"seed": 0, "out": null, "overwrite": false}')
    with pytest.raises(ValueError, match=r"another experiment than vae, .* has no dataset, split"):
        vae_setup.open_run(dataclasses.replace(other, out=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_kill_before_the_first_file_leaves_nothing_in_the_way(prepared, tmp_path):
    (tmp_path / ".writing-abc").write_text("{")
    run = vae_setup.open_run(dataclasses.replace(prepared.config, out=tmp_path))
    assert (run.path / "config.json").exists()


def line(out, **options):
    """The arguments of `python -m experiments`."""
    words = [(f"--{name.replace('_', '-')}", value) for name, value in (SMALL | options).items()]
    given = [str(w) for n, v in words for w in (n, *(v if isinstance(v, tuple) else (v,)))]
    return ["vae", "--out", str(out), *given]


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    """A process of two runs: `spread` over two devices, then one `killed` in its training."""
    folder = tmp_path_factory.mktemp("worker")
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    environment = {
        "PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": flags,
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),  # a kill may cut a file of it
    }  # fmt: skip
    runs = [json.dumps(line(folder / "spread", devices=2)), json.dumps(line(folder / "killed"))]
    done = subprocess.run(
        [sys.executable, WORKER, *runs], env=os.environ | environment,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return folder, done


def test_the_same_command_goes_on_with_a_killed_run(result, prepared, worker, monkeypatch, capsys):
    """SIGKILL in the middle of the training: the numbers are those of a run left alone."""
    folder, done = worker
    assert done.returncode == -signal.SIGKILL, done.stderr
    out = folder / "killed"
    metrics = (out / "metrics.jsonl").read_text().splitlines()
    assert len(metrics) == 2
    assert not (out / "model").exists()
    monkeypatch.setattr(vae_setup, "prepare", lambda config: prepared._replace(config=config))
    assert cli.main(line(out)) == 0
    said = capsys.readouterr().err.splitlines()  # the training, log p, the report: each told once
    assert [line.partition("[")[2][:3] for line in said] == ["1/3", "2/3", "3/3"]
    assert (out / "metrics.jsonl").read_text().splitlines()[0] == metrics[0]  # not made again
    found = training.load_model(out, vae_models.build)
    assert_same((found.theta, found.phi), (result.fit.theta, result.fit.phi))
    one, other = (numbers(path) for path in (out, result.path))
    assert one["training"] == other["training"]
    assert one["evidence"].keys() == other["evidence"].keys()
    for name, value in other["evidence"].items():
        close = pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
        assert one["evidence"][name] == close, name


def test_devices_share_each_batch_and_find_the_same(result, worker):
    """Two devices against the one of the other tests: to rounding."""
    folder, done = worker
    assert done.stdout == "over 2\nthen 1\n", done.stderr
    found = training.load_model(folder / "spread", vae_models.build)
    pairs = zip(
        *(jax.tree.leaves((f.theta, f.phi)) for f in (found, result.fit)),
        strict=True,
    )
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)


def test_pictures_are_of_the_test_images_and_of_the_model(result, saved):
    pictures, pixels = result.pictures, result.pixels
    index = vae_evaluation.choose(pixels, result.config).index["test"]
    np.testing.assert_array_equal(pictures.originals, pixels.test[index[:20]])
    np.testing.assert_array_equal(pictures.labels, pixels.images.test_labels[index])
    assert pictures.plane.shape == (16**2, 64)
    low = jnp.asarray(pictures.window[0], jnp.float32)  # of both axes
    corner = saved.model.likelihood(saved.theta, low).mean()
    np.testing.assert_allclose(pictures.plane[-16], corner, atol=1e-5)  # lower left
    assert pictures.traversals.shape == (2, 11, 64)
    means = [saved.guide.posterior(saved.phi, x).mean() for x in pixels.test[index[:3]]]
    np.testing.assert_allclose(pictures.codes[:3], means, atol=1e-5)
    assert list(pictures.units) == list(np.argsort(-pictures.codes.var(0)))


def test_tiles_stand_in_rows():
    sheet = vae_figures.tiles(np.arange(12.0).reshape(3, 4), (2, 2), 2)
    nan = np.nan
    np.testing.assert_array_equal(
        sheet,
        [[0, 1, nan, 4, 5], [2, 3, nan, 6, 7], [nan] * 5, [8, 9, nan, nan, nan], [10, 11, *[nan] * 3]],
    )  # fmt: skip


def test_the_run_directory_is_whole(result):
    figures = ("training", "reconstructions", "samples", "latent", "aggregate")
    found, lines = check_whole(result, *figures)
    assert found["evidence"]["num_points"] == 40
    assert found["num_parameters"]["theta"] == 2 * 12 + 12 + 12 * 128 + 128
    assert found["num_parameters"]["phi"] == 64 * 12 + 12 + 12 * 4 + 4 + 4
    assert len(lines) == 3
