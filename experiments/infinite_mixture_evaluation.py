"""What the infinite-mixture experiment measures: densities, held-out log p and its errors."""

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from experiments.infinite_mixture_training import Curve
from lvm_jax import bounds, em, evidence, models
from lvm_jax.evidence import Summary
from lvm_jax.guides import Guide
from lvm_jax.models import Model, log_joint
from lvm_jax.typing import Array, Key, Params, Scalar
from lvm_jax.weights import log_weights

if TYPE_CHECKING:
    from experiments.infinite_mixture import Config
    from experiments.infinite_mixture_data import LogDensity

BLOCK = 1024  # rows of every call of the quadrature, so that it compiles once
GRID = 128  # points of the figures' density along each axis


class Frame(NamedTuple):
    """The standardisation by the training points, and the window of the figures."""

    mean: np.ndarray  # [2]
    sd: np.ndarray  # [2]
    low: np.ndarray  # [2]
    high: np.ndarray  # [2]

    def standardize(self, x: np.ndarray) -> np.ndarray:
        """Points in the units that the models see."""
        return np.asarray((x - self.mean) / self.sd, np.float32)

    def restore(self, x: np.ndarray) -> np.ndarray:
        """Points in the data's units."""
        return np.asarray(x, np.float64) * self.sd + self.mean

    @property
    def log_volume(self) -> float:
        """log p in the data's units is log p of the standardised less this, in nats."""
        return float(np.log(self.sd).sum())

    @property
    def points(self) -> np.ndarray:
        """The window as a grid of points, [GRID^2, 2], x1 running fastest."""
        axes = [np.linspace(a, b, GRID) for a, b in zip(self.low, self.high, strict=True)]
        return np.stack([axis.ravel() for axis in np.meshgrid(*axes)], axis=1)


class Density(NamedTuple):
    """A density in the plane and how well it predicts; all in the data's units, nats per point."""

    name: str
    num_parameters: int
    log_p: np.ndarray  # [M], of the held-out points
    train_log_p: float
    grid: np.ndarray  # [GRID, GRID], log-density over the window
    heights: tuple[float, float]  # log-density above which 90% and 50% of its mass lie
    samples: np.ndarray  # [N, 2]
    details: dict[str, Any]  # for results.json


class Deep(NamedTuple):
    """A trained infinite mixture; theta is in standardised units."""

    density: Density
    model: Model
    theta: Params
    curve: Curve
    elbo: float  # of the held-out points, nats per point, in the data's units
    importance: Summary  # log p of the held-out points by importance sampling, data's units
    quadrature_change: float  # the largest change of log p from 1.5 times as many nodes, nats
    num_guide_parameters: int


def make_frame(train: np.ndarray, test: np.ndarray) -> Frame:
    """The standardisation of the training points; ValueError if a column does not vary."""
    sd = train.std(axis=0)
    if not (sd > 0).all():
        raise ValueError("data: expected two columns that vary, got a constant one")
    every = np.concatenate([train, test])
    low, high = np.quantile(every, [0.0, 1.0], axis=0)
    margin = 0.12 * (high - low)
    return Frame(train.mean(axis=0), sd, low - margin, high + margin)


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """A mean over points, and its standard error."""
    values = np.asarray(values, np.float64)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def paired(one: Density, other: Density) -> tuple[float, float]:
    """Mean of log p(x_n) under one less that under the other, and its standard error."""
    return mean_and_error(one.log_p - other.log_p)


@partial(jax.jit, static_argnums=(0, 3))
def _quadrature(model: Model, theta: Params, x: Array, num_nodes: int) -> Array:
    one = partial(models.log_evidence_quadrature, model, theta, num_nodes=num_nodes)
    return jax.vmap(one)(x)


def log_density(model: Model, theta: Params, x: np.ndarray, num_nodes: int) -> np.ndarray:
    """log p of standardised rows [N, 2] by quadrature over z, in blocks of one shape."""
    found = []
    for start in range(0, len(x), BLOCK):
        block = x[start : start + BLOCK]
        full = np.concatenate([block, np.repeat(block[:1], BLOCK - len(block), axis=0)])
        found.append(np.asarray(_quadrature(model, theta, full, num_nodes))[: len(block)])
    return np.concatenate(found).astype(np.float64)


@partial(jax.jit, static_argnums=(1, 3))
def draw(key: Key[Array, ""], model: Model, theta: Params, num_samples: int) -> Array:
    """Ancestral draws x, [n, 2]: first z, then x given z."""

    def one(key: Array) -> Array:
        key_z, key_x = jax.random.split(key)
        z = model.prior(theta).sample(seed=key_z)
        return model.likelihood(theta, z).sample(seed=key_x)

    return jax.vmap(one)(jax.random.split(key, num_samples))


@partial(jax.jit, static_argnums=0)
def conditional(model: Model, theta: Params, z: Array) -> tuple[Array, Array]:
    """Mean and standard deviations of x | z for rows z [N, K], each [N, 2]."""

    def one(z: Array) -> tuple[Array, Array]:
        q = model.likelihood(theta, z)
        return q.mean(), q.stddev()

    return jax.vmap(one)(z)


@partial(jax.jit, static_argnums=(1, 2, 6))
def _mean_elbo(
    key: Array, model: Model, guide: Guide, theta: Params, phi: Params, x: Array, num_samples: int
) -> Scalar:
    def one(key: Array, x: Array) -> Scalar:
        q = guide.posterior(phi, x)
        return bounds.elbo(log_weights(key, log_joint(model, theta, x), q, num_samples))

    return jax.vmap(one)(jax.random.split(key, x.shape[0]), x).mean()


def measure(
    key: Key[Array, ""],
    name: str,
    model: Model,
    guide: Guide,
    theta: Params,
    phi: Params,
    curve: Curve,
    train: np.ndarray,
    test: np.ndarray,
    frame: Frame,
    config: "Config",
) -> Deep:
    """A trained model's density, by quadrature and by importance sampling from its guide."""
    key_samples, key_elbo, key_evidence = jax.random.split(key, 3)
    drawn = np.asarray(draw(key_samples, model, theta, len(train)))
    unseen, nodes, shift = frame.standardize(test), config.num_nodes, frame.log_volume
    rows = [unseen, frame.standardize(train), frame.standardize(frame.points), drawn]
    found = log_density(model, theta, np.concatenate(rows), nodes) - shift
    log_p, seen, grid, own = np.split(found, np.cumsum([len(r) for r in rows])[:-1])
    finer = log_density(model, theta, unseen[:BLOCK], 3 * nodes // 2) - shift
    point_evidence = evidence.evaluate(
        key_evidence, model, guide, theta, phi, unseen, config.evidence_samples
    )
    summary = evidence.summarize(point_evidence)
    summary = Summary(*(np.asarray(leaf).item() for leaf in summary))
    density = Density(
        name,
        count(theta),
        log_p,
        float(seen.mean()),
        grid.reshape(GRID, GRID),
        heights(own),
        frame.restore(drawn),
        {},
    )
    elbo = _mean_elbo(key_elbo, model, guide, theta, phi, unseen, config.evidence_samples)
    return Deep(
        density,
        model,
        theta,
        curve,
        float(elbo) - shift,
        summary._replace(log_evidence=summary.log_evidence - shift),
        float(np.abs(finer - log_p[:BLOCK]).max()),
        count(phi),
    )


def count(parameters: Params) -> int:
    """How many numbers a pytree holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(parameters))


def heights(log_p: np.ndarray) -> tuple[float, float]:
    """Log-densities above which 90% and 50% of the mass lie, from those of draws."""
    low, high = np.quantile(log_p, [0.1, 0.5])
    return float(low), float(high)


def fit_mixture(
    key: Key[Array, ""],
    num_parameters: int,
    train: np.ndarray,
    test: np.ndarray,
    frame: Frame,
    config: "Config",
) -> Density:
    """The full-covariance mixture whose 6 K - 1 parameters come nearest, by EM."""
    key_fit, key_samples = jax.random.split(key)
    white, unseen = frame.standardize(train), frame.standardize(test)
    k = min(max(1, round((num_parameters + 1) / 6)), len(train) // 4)
    fit = em.fit(
        *(key_fit, white, k),
        num_restarts=config.num_restarts,
        tolerance=1e-6,
        regularization=1e-4,
        max_steps=1000,
        throw=False,
    )
    drawn, _ = fit.mixture.sample(key_samples, len(train))
    rows = [unseen, white, frame.standardize(frame.points), np.asarray(drawn)]
    log_p = np.asarray(fit.mixture.log_prob(np.concatenate(rows)), np.float64) - frame.log_volume
    of = np.split(log_p, np.cumsum([len(r) for r in rows])[:-1])  # one shape, one compilation
    return Density(
        f"mixture of {k}",
        fit.mixture.num_parameters,
        of[0],
        float(of[1].mean()),
        of[2].reshape(GRID, GRID),
        heights(of[3]),
        frame.restore(np.asarray(drawn)),
        {"num_components": k, "outcome": fit.info.outcome.name, "num_steps": fit.info.num_steps},
    )


def true_density(
    log_density: "LogDensity | None", train: np.ndarray, test: np.ndarray, frame: Frame
) -> Density | None:
    """The density that the data were drawn from, if it is known; its samples are the data."""
    if log_density is None:
        return None
    seen = log_density(train)
    grid = log_density(frame.points).reshape(GRID, GRID)
    return Density(
        *("truth", 0, log_density(test), float(seen.mean()), grid, heights(seen), train, {})
    )


def latent_grid(reach: float = 2.5, lines: int = 21, fine: int = 121) -> list[np.ndarray]:
    """Lines of a square grid in the z plane, each [fine, 2]: first those of constant z1."""
    at, along = np.linspace(-reach, reach, lines), np.linspace(-reach, reach, fine)
    upright = [np.stack([np.full(fine, value), along], axis=1) for value in at]
    return upright + [line[:, ::-1] for line in upright]
