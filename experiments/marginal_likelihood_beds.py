"""The models of the marginal-likelihood experiment, their exact log p(x), and where z is drawn from."""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import log_ndtr, logsumexp

from lvm_jax import distributions, models
from lvm_jax.distributions import FullRankNormal
from lvm_jax.models.linear_gaussian import LinearGaussian
from lvm_jax.typing import Distribution
from lvm_jax.weights import LogJoint

if TYPE_CHECKING:
    from experiments.marginal_likelihood import Config

PRIOR, UNIFORM, GOOD, MEAN_FIELD = "prior", "uniform", "q", "mean-field q"


class Bed(NamedTuple):
    """One data point x of a model with a known log p(x), and the distributions to draw z from."""

    kind: str  # gaussian, discrete
    size: int  # dimensions, or variables
    x: np.ndarray
    log_joint: LogJoint  # in float32, as a user would run it
    methods: dict[str, Distribution]
    posterior: Distribution  # in float64
    log_evidence: float  # in float64, in nats
    log_second_moment: dict[str, float]  # log E_q[w^2] / p(x)^2, exact; inf where it diverges
    outside_box: float  # posterior mass outside the box is at most this


def mixing(size: int, coupling: float) -> np.ndarray:
    """W, [size, size]: x_i sees z_i, and z_(i+1) by the coupling; nested in the size."""
    return np.eye(size) + coupling * np.eye(size, k=1)


def draws(size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Standard normals [size] and [size], nested in the size: what x is made of."""
    latent, noise = np.random.default_rng([seed, 3]), np.random.default_rng([seed, 4])
    return latent.standard_normal(size), noise.standard_normal(size)


def gaussian(dim: int, config: "Config") -> Bed:
    """z ~ N(0, I), x | z ~ N(W z, s^2 I); x was drawn from the model."""
    w = mixing(dim, config.coupling)
    z, noise = draws(dim, config.seed)
    x = w @ z + config.noise * noise
    model = models.linear_gaussian(dim, dim)
    theta = LinearGaussian(np.zeros(dim), w, np.zeros(dim), np.asarray(math.log(config.noise)))
    with jax.enable_x64(True):
        exact = jax.tree.map(jnp.asarray, theta)
        both = jax.jit(lambda *of: (model.posterior(*of), model.log_evidence(*of)))
        posterior, evidence = jax.tree.map(np.asarray, both(exact, jnp.asarray(x)))
    methods = {
        PRIOR: FullRankNormal(np.zeros(dim), np.eye(dim)),
        GOOD: widened(posterior, config.widen, config.shift),
        MEAN_FIELD: mean_field(posterior),
    }
    moments = {name: gaussian_second_moment(posterior, q) for name, q in methods.items()}
    # The mean of post^2 over a box that holds it: |Z| times the integral of post^2.
    log_det = np.log(np.diagonal(posterior.cholesky)).sum()
    moments[UNIFORM] = dim * (math.log(2 * config.box) - 0.5 * math.log(4 * math.pi)) - log_det
    sd = np.sqrt((posterior.cholesky**2).sum(1))
    tails = [log_ndtr((sign * posterior.mean - config.box) / sd) for sign in (-1, 1)]
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), theta)
    low = jnp.full(dim, -config.box, jnp.float32)
    return Bed(
        "gaussian",
        dim,
        x,
        models.log_joint(model, single, jnp.asarray(x, jnp.float32)),
        {
            PRIOR: model.prior(single),
            UNIFORM: distributions.uniform(low, -low),
            GOOD: float32(methods[GOOD]),
            MEAN_FIELD: diagonal(methods[MEAN_FIELD]),
        },
        posterior,
        float(evidence),
        {name: moments[name] for name in (PRIOR, UNIFORM, GOOD, MEAN_FIELD)},
        float(np.exp(np.concatenate(tails)).sum()),
    )


def widened(posterior: FullRankNormal, widen: float, shift: float) -> FullRankNormal:
    """N(m + shift L 1, widen^2 L L^T), where N(m, L L^T) is the posterior."""
    return FullRankNormal(
        posterior.mean + shift * posterior.cholesky.sum(1), widen * posterior.cholesky
    )


def mean_field(posterior: FullRankNormal) -> FullRankNormal:
    """The best diagonal q by the ELBO: the posterior's mean and its conditional variances."""
    inverse = np.linalg.inv(posterior.cholesky)
    precision = (inverse**2).sum(0)  # the diagonal of L^-T L^-1
    return FullRankNormal(posterior.mean, np.diag(precision**-0.5))


def float32(q: Any) -> Any:
    """The same distribution in the precision that it is drawn in."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), q)


def diagonal(q: FullRankNormal) -> Distribution:
    """The same normal as independent ones."""
    return distributions.normal(float32(q.mean), float32(np.diagonal(q.cholesky)))


def gaussian_second_moment(posterior: FullRankNormal, q: FullRankNormal) -> float:
    """log of the integral of post^2 / q over all z; inf where it diverges.

    The integrand is the exponential of a quadratic with curvature P = 2 V^-1 - C^-1, so its
    integral is its value at the top times (2 pi)^(D/2) |P|^(-1/2); P must be positive definite.
    """
    inverse, other = (np.linalg.inv(part.cholesky) for part in (posterior, q))
    curvature = 2 * inverse.T @ inverse - other.T @ other
    if np.linalg.eigvalsh(curvature).min() <= 0:
        return math.inf
    slope = 2 * inverse.T @ inverse @ posterior.mean - other.T @ other @ q.mean
    top = np.linalg.solve(curvature, slope)
    height = 2 * log_normal(posterior, top) - log_normal(q, top)
    return float(
        height + 0.5 * len(top) * math.log(2 * math.pi) - 0.5 * np.linalg.slogdet(curvature)[1]
    )


def log_normal(q: FullRankNormal, z: np.ndarray) -> float:
    """log N(z; mean, L L^T)."""
    white = np.linalg.solve(q.cholesky, z - q.mean)
    log_det = np.log(np.diagonal(q.cholesky)).sum()
    return float(-0.5 * (white @ white + len(z) * math.log(2 * math.pi)) - log_det)


def discrete(num_variables: int, config: "Config") -> Bed:
    """z_k in {1, ..., L}, x | z ~ N(W v(z), s^2 I), v(l) = l - (L + 1) / 2; x from the model."""
    size = config.num_values
    values = np.arange(size) - (size - 1) / 2
    rng = np.random.default_rng([config.seed, 5])
    logits = 0.5 * rng.standard_normal((max(num_variables, 64), size))[:num_variables]
    z = np.array([rng.choice(size, p=np.exp(row - logsumexp(row))) for row in logits])
    w = mixing(num_variables, config.coupling)
    x = w @ values[z] + config.noise * draws(num_variables, config.seed)[1]

    def likelihood(parameters: Any, z: Any) -> Distribution:
        mean = parameters["weight"] @ parameters["values"][z]
        return distributions.normal(mean, jnp.broadcast_to(parameters["noise"], mean.shape))

    model = models.categorical(num_variables, size, likelihood, lambda key: None)
    theta = models.Discrete(logits, {"weight": w, "values": values, "noise": config.noise})
    with jax.enable_x64(True):
        exact = jax.tree.map(jnp.asarray, theta)
        both = jax.jit(lambda *of: (model.posterior(*of), model.log_evidence(*of)))
        posterior, evidence = jax.tree.map(np.asarray, both(exact, jnp.asarray(x)))
    q = (1 - config.defensive) * marginals(posterior, size) + config.defensive / size
    logits_of = {PRIOR: logits, UNIFORM: np.zeros_like(logits), GOOD: np.log(q)}
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), theta)
    return Bed(
        "discrete",
        num_variables,
        x,
        models.log_joint(model, single, jnp.asarray(x, jnp.float32)),
        {name: distributions.categorical(float32(rows)) for name, rows in logits_of.items()},
        posterior,
        float(evidence),
        {name: table_second_moment(posterior, rows) for name, rows in logits_of.items()},
        0.0,
    )


def marginals(posterior: distributions.Table, num_values: int) -> np.ndarray:
    """p(z_k = l | x), [K, L]."""
    mass = np.exp(posterior.log_probs)
    columns = posterior.values.T
    return np.stack([np.bincount(column, mass, num_values) for column in columns])


def table_second_moment(posterior: distributions.Table, logits: np.ndarray) -> float:
    """log of the sum of post^2 / q over all values of z, q with independent factors."""
    log_q = logits - logsumexp(logits, axis=1, keepdims=True)
    rows = log_q[np.arange(len(logits))[None], posterior.values].sum(1)
    return float(logsumexp(2 * posterior.log_probs - rows))
