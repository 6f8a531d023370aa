"""Densities of `benchmarks.vi_coverage` beyond `lvm_jax.problems`, with log Z by other methods.

log Z is exact, or by quadrature of the scales in closed form of the rest. For two densities it is
by importance sampling in float64 with 4,000,000 draws of a fitted Student's t, and by annealing
(`python -m benchmarks.vi_truths`).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

from lvm_jax.problems import Target

LOG_2PI = float(np.log(2 * np.pi))
Log = Callable[[Any], Any]
CENTRE = np.array([3.0, -1.0, 0.5])  # of the priors of `oxygen`


def normal(x: Any, scale: Any) -> Any:
    """log N(x; 0, scale^2)."""
    return -0.5 * (x / scale) ** 2 - jnp.log(scale) - 0.5 * LOG_2PI


def half_cauchy(log_scale: Any, unit: float) -> Any:
    """The log-density of log s for s ~ half-Cauchy(unit)."""
    return (
        np.log(2 / np.pi) + log_scale - jnp.log(unit) - jnp.log1p(jnp.exp(2 * log_scale) / unit**2)
    )


def integral(name: str, log_density: Log, *ranges: tuple[float, float, int]) -> float:
    """The known log of the integral over a box, or by the trapezoidal rule in float64."""
    if name in LOG_Z:
        return LOG_Z[name]
    with jax.enable_x64(True):
        lines = [np.linspace(*one) for one in ranges]
        grid = np.stack(np.meshgrid(*lines, indexing="ij"), -1).reshape(-1, len(lines))
        values = np.asarray(jax.lax.map(log_density, jnp.asarray(grid), batch_size=4_096))
    steps = [line[1] - line[0] for line in lines]
    return float(np.logaddexp.reduce(values) + np.log(steps).sum())


def marginal(y: np.ndarray, covariance: Any) -> Any:
    """log N(y; 0, covariance)."""
    root = jnp.linalg.cholesky(covariance)
    white = jax.scipy.linalg.solve_triangular(root, jnp.asarray(y, root.dtype), lower=True)
    return -0.5 * white @ white - jnp.log(jnp.diagonal(root)).sum() - 0.5 * len(y) * LOG_2PI


def student(dim: int, dof: float) -> Target:
    """An unnormalised Student's t."""

    def log_density(z: Any) -> Any:
        return -0.5 * (dof + dim) * jnp.log1p((z**2).sum() / dof)

    log_z = gammaln(dof / 2) - gammaln((dof + dim) / 2) + dim / 2 * np.log(dof * np.pi)
    return Target(f"Student's t, {dof:g}", dim, log_density, float(log_z))


def rosenbrock(dim: int) -> Target:
    """Pairs (x, y): x ~ N(1, 1), y ~ N(x^2, 0.5^2)."""

    def log_density(z: Any) -> Any:
        x, y = z[::2], z[1::2]
        return (normal(x - 1, 1.0) + normal(y - x**2, 0.5)).sum()

    return Target("Rosenbrock", dim, log_density, 0.0)


def ill_conditioned(dim: int) -> Target:
    """A normal of random correlations with scales from e^-4 to e^4."""
    rng = np.random.default_rng(0)
    scales = np.exp(np.linspace(-4, 4, dim))
    root = np.linalg.qr(rng.normal(size=(dim, dim)))[0] * np.linspace(0.3, 1, dim)[None]
    inverse = np.linalg.inv(root) / scales[None]  # white = inverse @ z

    def log_density(z: Any) -> Any:
        white = jnp.asarray(inverse, z.dtype) @ (z - 1)
        return -0.5 * white @ white

    log_z = dim / 2 * LOG_2PI - np.linalg.slogdet(inverse)[1]
    return Target("ill-conditioned normal", dim, log_density, float(log_z))


def kidscore() -> Target:
    """y = a + b iq + noise of s, 434 children, flat a and b, s ~ half-Cauchy(2.5)."""
    rng = np.random.default_rng(3)
    iq = rng.normal(100, 15, 434)
    y = 25.8 + 0.61 * iq + rng.normal(0, 18, 434)

    def log_density(z: Any) -> Any:
        s = jnp.exp(z[2])
        return normal(y - z[0] - z[1] * iq, s).sum() + half_cauchy(z[2], 2.5)

    x = np.stack([np.ones_like(iq), iq], 1)
    residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    squares, log_det = residual @ residual, np.linalg.slogdet(x.T @ x)[1]

    def of_scale(u: Any) -> Any:
        fit = -0.5 * squares * jnp.exp(-2 * u[0]) - (len(y) - 2) * (u[0] + 0.5 * LOG_2PI)
        return fit - 0.5 * log_det + half_cauchy(u[0], 2.5)

    return Target("kidscore", 3, log_density, integral("kidscore", of_scale, (2.0, 4.0, 4_001)))


def radon(centred: bool) -> Target:
    """150 houses in 20 counties: means a_g ~ N(mu, tau^2), mu ~ N(0, 10^2), half-normal scales."""
    rng = np.random.default_rng(3)
    county = rng.integers(0, 20, 150)
    y = 1.5 + rng.normal(0, 0.7, 20)[county] + rng.normal(0, 1, 150)

    def priors(u: Any) -> Any:
        return (normal(jnp.exp(u), 1.0) + np.log(2) + u).sum()

    def log_density(z: Any) -> Any:
        mu, tau, s, rest = z[0], jnp.exp(z[1]), jnp.exp(z[2]), z[3:]
        means = rest if centred else mu + tau * rest
        effects = normal(rest - mu, tau) if centred else normal(rest, 1.0)
        like = normal(y - means[county], s).sum()
        return like + effects.sum() + normal(mu, 10.0) + priors(z[1:3])

    same = (county[:, None] == county[None]).astype(float)

    def of_scales(u: Any) -> Any:
        tau, s = jnp.exp(u)
        covariance = 100.0 + tau**2 * same + s**2 * jnp.eye(len(y))
        return marginal(y, covariance) + priors(u)

    log_z = integral("radon", of_scales, (-9.0, 2.0, 90), (-0.6, 0.6, 50))
    return Target(f"radon, {'' if centred else 'non-'}centred", 23, log_density, log_z)


def gaussian_process() -> Target:
    """Length, amplitude and noise of a Gaussian process of 11 points, log-normal priors."""
    rng = np.random.default_rng(5)
    x = np.linspace(0, 1, 11)
    y = np.sin(6 * x) + rng.normal(0, 0.2, 11)
    away = (x[:, None] - x[None]) ** 2

    def log_density(z: Any) -> Any:
        length, amplitude, noise = jnp.exp(z)
        kernel = amplitude**2 * jnp.exp(-0.5 * away / length**2)
        covariance = kernel + (noise**2 + 1e-4) * jnp.eye(11)
        return marginal(y, covariance) + normal(z, 1.5).sum()

    box = (-6.0, 5.0, 90), (-4.0, 7.0, 90), (-9.0, 3.0, 90)
    return Target(
        "Gaussian process", 3, log_density, integral("gaussian process", log_density, *box)
    )


def sparse_means() -> Target:
    """Ten means x_j ~ N(0, (tau l_j)^2), half-Cauchy tau and l_j, y_j ~ N(x_j, 1)."""
    rng = np.random.default_rng(7)
    y = np.r_[5.0, -4.0, 3.0, np.zeros(7)] + rng.normal(size=10)

    def log_density(z: Any) -> Any:
        scale = jnp.exp(z[0] + z[1:11])
        prior = half_cauchy(z[0], 1.0) + half_cauchy(z[1:11], 1.0).sum()
        return prior + normal(z[11:], 1.0).sum() + normal(y - scale * z[11:], 1.0).sum()

    line = np.linspace(-14, 14, 1_401)

    def of_scale(u: Any) -> Any:
        spread = jnp.sqrt(1 + jnp.exp(2 * (u[0] + line)))
        each = normal(y[:, None], spread[None]) + half_cauchy(line, 1.0)[None]
        total = jax.nn.logsumexp(each, axis=1) + np.log(line[1] - line[0])
        return total.sum() + half_cauchy(u[0], 1.0)

    return Target(
        "sparse means", 21, log_density, integral("sparse means", of_scale, (-14.0, 10.0, 801))
    )


def autoregression() -> Target:
    """AR(5) of 200 steps, normal coefficients, half-Cauchy noise."""
    rng = np.random.default_rng(9)
    series = list(rng.normal(size=5))
    for _ in range(200):
        series.append(0.2 + np.dot([0.4, 0.2, 0.1, -0.1, 0.05], series[:-6:-1]) + rng.normal())
    x = np.array([[1.0, *series[i : i + 5][::-1]] for i in range(200)])
    y = np.array(series[5:])

    def log_density(z: Any) -> Any:
        noise = normal(y - jnp.asarray(x, z.dtype) @ z[:6], jnp.exp(z[6])).sum()
        return noise + normal(z[:6], 10.0).sum() + half_cauchy(z[6], 2.5)

    def of_scale(u: Any) -> Any:
        covariance = 100.0 * x @ x.T + jnp.exp(2 * u[0]) * jnp.eye(200)
        return marginal(y, covariance) + half_cauchy(u[0], 2.5)

    return Target("AR(5)", 7, log_density, integral("autoregression", of_scale, (-0.6, 0.8, 201)))


def observed_funnel() -> Target:
    """v ~ N(0, 3^2), x_j ~ N(0, e^v), y_j ~ N(x_j, 1), five of them."""
    y = np.array([0.3, -1.2, 0.7, 2.1, -0.4])

    def log_density(z: Any) -> Any:
        prior = normal(z[0], 3.0) + normal(z[1:], jnp.exp(z[0] / 2)).sum()
        return prior + normal(y - z[1:], 1.0).sum()

    of_scale = lambda u: normal(u[0], 3.0) + normal(y, jnp.sqrt(1 + jnp.exp(u[0]))).sum()  # noqa: E731
    log_z = integral("observed funnel", of_scale, (-25.0, 25.0, 4_001))
    return Target("observed funnel", 6, log_density, log_z)


def oxygen() -> Target:
    """y = a (1 - exp(-b x)) + noise of s at six times, log-normal priors: a curved ridge."""
    x = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 7.0])
    y = np.array([8.3, 10.3, 19.0, 16.0, 15.6, 19.8])

    def log_density(z: Any) -> Any:
        a, b, s = jnp.exp(z)
        return normal(y - a * -jnp.expm1(-b * x), s).sum() + normal(z - CENTRE, 1.0).sum()

    box = (0.0, 7.0, 120), (-6.0, 4.0, 120), (-2.0, 5.0, 100)
    return Target("oxygen demand", 3, log_density, integral("oxygen", log_density, *box))


def slopes() -> Target:
    """8 groups of 10: intercepts and slopes with means and half-Cauchy scales, noise of s."""
    rng = np.random.default_rng(11)
    group, x = np.repeat(np.arange(8), 10), rng.normal(size=80)
    y = (1 + 0.5 * rng.normal(size=8))[group] + (0.3 * rng.normal(size=8))[group] * x
    y = y + 0.7 * rng.normal(size=80)

    def priors(u: Any) -> Any:
        return half_cauchy(u, 1.0).sum()

    def log_density(z: Any) -> Any:
        (a, b), (sa, sb, s) = z[:2], jnp.exp(z[2:5])
        first, second = a + sa * z[5:13], b + sb * z[13:]
        like = normal(y - first[group] - second[group] * x, s).sum()
        return like + normal(z[5:], 1.0).sum() + normal(z[:2], 5.0).sum() + priors(z[2:5])

    same, product = (group[:, None] == group[None]).astype(float), np.outer(x, x)

    def of_scales(u: Any) -> Any:
        sa, sb, s = jnp.exp(u)
        shared = 25.0 * (1 + product) + (sa**2 + sb**2 * product) * same
        return marginal(y, shared + s**2 * jnp.eye(80)) + priors(u)

    box = (-10.0, 3.0, 60), (-10.0, 3.0, 60), (-0.9, 0.2, 20)
    return Target("hierarchical slopes", 21, log_density, integral("slopes", of_scales, *box))


def poisson() -> Target:
    """Poisson regression of 200 counts on 10 covariates and a constant, N(0, 5^2) priors."""
    rng = np.random.default_rng(13)
    x = np.c_[rng.normal(size=(200, 10)), np.ones(200)]
    y = rng.poisson(np.exp(x @ np.r_[0.5 * rng.normal(size=10), 1.0]))

    def log_density(z: Any) -> Any:
        log_rate = jnp.asarray(x, z.dtype) @ z
        return (y * log_rate - jnp.exp(log_rate)).sum() + normal(z, 5.0).sum()

    return Target("Poisson regression", 11, log_density, LOG_Z["poisson"])


def logistic() -> Target:
    """Logistic regression of 60 on 7 covariates, N(0, s^2) coefficients, half-Cauchy s."""
    rng = np.random.default_rng(15)
    x = rng.normal(size=(60, 7))
    y = rng.uniform(size=60) < 1 / (1 + np.exp(-x @ np.r_[2.0, -1.0, 0.5, np.zeros(4)]))

    def log_density(z: Any) -> Any:
        signed = np.where(y, 1.0, -1.0) * (jnp.asarray(x, z.dtype) @ z[1:])
        prior = normal(z[1:], jnp.exp(z[0])).sum() + half_cauchy(z[0], 1.0)
        return jax.nn.log_sigmoid(signed).sum() + prior

    return Target("logistic, unknown scale", 8, log_density, LOG_Z["logistic"])


LOG_Z = {
    "kidscore": -1873.855830, "radon": -228.670805, "gaussian process": -6.669664,
    "sparse means": -23.355411, "autoregression": -315.682811, "observed funnel": -8.329117,
    "oxygen": -18.060775, "slopes": -103.374379,
    "poisson": 1913.3879, "logistic": -37.6157,  # standard errors 0.0003 and 0.003
}  # fmt: skip
