"""The linear VAE, trained by `training.fit` from a random start, and what it has found."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import linear_vae_exact as exact
from experiments.linear_vae_exact import Measured, Spectrum
from lvm_jax import diagnostics, gradients, guides, models, training
from lvm_jax.guides import Guide
from lvm_jax.models import LinearGaussian, Model
from lvm_jax.training import Parameters
from lvm_jax.typing import Array, Key, Params, Scalar

if TYPE_CHECKING:
    from experiments.linear_vae import Config


class Setup(NamedTuple):
    """What every training of an experiment shares, so that each program compiles once."""

    model: Model
    guide: Guide
    x: np.ndarray  # [N, D] float32
    mean: np.ndarray  # [D], 0 to rounding
    spectrum: Spectrum
    moments: np.ndarray  # the few points that average like all rows what is quadratic in x
    rows: np.ndarray  # what averages of this guide are taken over: those points, or all rows
    batch_size: int
    optimizers: dict[bool, optax.GradientTransformation]  # whether s2 is learned


class Record(NamedTuple):
    """Where a training stands, in nats per point of the scaled data; leaves [T] in a curve."""

    step: Any
    noise_variance: Any
    log_evidence: Any
    elbo: Any
    active_variance: Any  # A_u, [L]


class Trained(NamedTuple):
    """One training, in scaled units; the units of z in the order of the eigenvalues they took."""

    given: float | None  # the fixed s2, or None where it was learned
    theta: LinearGaussian
    phi: Params  # as it was trained: its units in their own order
    order: np.ndarray  # [L], the trained unit that took each eigenvalue
    curve: Record  # leaves [T]; A_u [T, L] in the order above
    measured: Measured  # in the order above, float64
    num_active: int  # by Burda's criterion, of all data points


def make_guide(config: "Config", latent_dim: int, dim: int) -> Guide:
    """q(z | x) with a mean that is linear in x; its covariance is shared or depends on x too."""
    family = exact.FAMILIES[config.guide]
    fields = ("loc",) if config.covariance == "shared" else None
    return guides.linear(family(latent_dim), dim, fields)


def make_optimizer(
    config: "Config", num_steps: int, learn_noise: bool
) -> optax.GradientTransformation:
    """Adam on a cosine; p(z) stays N(0, I), and s2 where it is given."""
    adam = optax.adam(optax.cosine_decay_schedule(config.learning_rate, num_steps))
    still = Parameters(LinearGaussian(True, False, False, not learn_noise), False)
    return optax.chain(adam, optax.masked(optax.set_to_zero(), still))


def make_setup(config: "Config", latent_dim: int, x: np.ndarray, spectrum: Spectrum) -> Setup:
    """Model, guide and optimisers; the optimisers know how many steps there will be."""
    dim, batch_size = x.shape[1], min(config.batch_size, len(x))
    num_steps = config.num_epochs * (len(x) // batch_size)
    wide = np.asarray(x, np.float64)
    moments = exact.moment_points(spectrum, wide.mean(0))
    return Setup(
        model=models.linear_gaussian(latent_dim, dim),
        guide=make_guide(config, latent_dim, dim),
        x=x,
        mean=wide.mean(0),
        spectrum=spectrum,
        moments=moments,
        rows=wide if config.covariance == "per_x" else moments,
        batch_size=batch_size,
        optimizers={learn: make_optimizer(config, num_steps, learn) for learn in (False, True)},
    )


def closed_form(setup: Setup, latent_dim: int, noise_variance: float | None) -> LinearGaussian:
    """The maximum of the likelihood at the s2 of a training, or over s2 too; float64."""
    if noise_variance is not None:
        held = float(np.exp(2 * np.float64(log_noise(noise_variance))))
        return exact.optimum(setup.spectrum, setup.mean, latent_dim, held)
    with jax.enable_x64(True):
        best = models.ppca(np.asarray(setup.x, np.float64), latent_dim)
    return jax.tree.map(np.asarray, best)


def epochs_to_record(num_epochs: int, num_records: int) -> list[int]:
    """About `num_records` numbers of epochs, dense at the beginning, the last one among them."""
    found = np.geomspace(1, num_epochs, num_records).round().astype(int)
    return sorted(set(found.tolist()))


def log_noise(noise_variance: float) -> np.float32:
    """log s as a training holds it. exp(2 log s) is the s2 that its closed form must have too."""
    return np.float32(0.5 * np.log(noise_variance))


def train(
    key: Key[Array, ""],
    setup: Setup,
    noise_variance: float | None,
    config: "Config",
    directory: Path,
    on_record: Callable[[Record], None],
) -> Trained:
    """One training from a random start. It is resumed at every record, so no bit of it changes."""
    key_theta, key_phi, key_fit = jax.random.split(key, 3)
    theta = setup.model.init(key_theta)
    if noise_variance is not None:
        theta = theta._replace(log_noise=jnp.float32(log_noise(noise_variance)))
    start, records = (theta, setup.guide.init(key_phi)), []
    for epochs in epochs_to_record(config.num_epochs, config.num_records):
        fit = training.fit(
            *(key_fit, setup.model, setup.guide, setup.x),
            estimate=gradients.ESTIMATORS[config.estimator].estimate,
            num_samples=config.num_samples,
            optimizer=setup.optimizers[noise_variance is None],
            batch_size=setup.batch_size,
            num_epochs=epochs,
            initial=start,
            directory=directory,
            keep=1,
        )
        records.append(record(setup, fit))
        on_record(records[-1])
    theta = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), fit.theta)
    return conclude(setup, noise_variance, theta, fit.phi, records)


@partial(jax.jit, static_argnums=(0, 1))
def _watch(
    model: Model, guide: Guide, theta: Params, phi: Params, rows: Array
) -> tuple[Scalar, Scalar, Array]:
    found = exact.measure(model, guide, theta, phi, rows)
    # log p less the divergence, which in float32 has more digits than the average log-weight.
    elbo = found.log_evidence - found.kl_posterior
    return found.log_evidence, elbo, jnp.diagonal(found.means)


def record(setup: Setup, fit: training.Fit) -> Record:
    """The exact averages at the end of a part of the training, in float32."""
    rows = np.asarray(setup.rows, np.float32)
    values = _watch(setup.model, setup.guide, fit.theta, fit.phi, rows)
    noise = float(np.exp(2 * np.float64(fit.theta.log_noise)))
    return Record(fit.step, noise, *(np.asarray(value, np.float64) for value in values))


def conclude(
    setup: Setup,
    given: float | None,
    theta: LinearGaussian,
    phi: Params,
    records: list[Record],
) -> Trained:
    """Measure in float64, and put the units in the order of the eigenvalues."""
    order = match_units(theta, setup.spectrum)
    measured = exact.measure_double(setup.model, setup.guide, theta, phi, setup.rows)
    measured = measured._replace(
        kl_units=measured.kl_units[order], means=measured.means[order][:, order]
    )
    curve = Record(*(np.stack(leaves) for leaves in zip(*records, strict=True)))
    curve = curve._replace(active_variance=curve.active_variance[:, order])
    theta = theta._replace(prior_mean=theta.prior_mean[order], loadings=theta.loadings[:, order])
    means = diagnostics.posterior_means(jax.random.key(0), setup.guide, phi, setup.x, 1)  # exact
    number = int(diagnostics.active_units(means).number)
    return Trained(given, theta, phi, order, curve, measured, number)


def match_units(theta: LinearGaussian, found: Spectrum) -> np.ndarray:
    """The unit that points along each of the leading L eigenvectors: the best assignment, [L].

    By |u_i^T w_j|, so that the long columns choose first and the collapsed ones take what is left.
    """
    from scipy.optimize import linear_sum_assignment

    loadings = np.asarray(theta.loadings, np.float64)
    shadow = np.zeros((loadings.shape[1],) * 2)
    width = min(loadings.shape[1], found.vectors.shape[1])
    shadow[:width] = np.abs(found.vectors[:, :width].T @ loadings)
    return linear_sum_assignment(-shadow)[1]


def reordered(theta: LinearGaussian, order: np.ndarray) -> LinearGaussian:
    """The same model with the units of z in another order."""
    return theta._replace(prior_mean=theta.prior_mean[order], loadings=theta.loadings[:, order])
