"""The fourteen covariance models as maps of unconstrained numbers, in NumPy: the tests' reference."""

import numpy as np
from scipy.optimize import minimize

from lvm_jax import em

NAMES = tuple(em.COVARIANCE_FAMILIES)


def sizes(name, number, dim):
    """Lengths of the logarithms of volumes, of shapes (with one too many each), and of the angles."""
    copies = {"E": 1, "V": number, "I": 0}
    volume, shape, orientation = (copies[letter] for letter in name)
    return volume, shape * dim, orientation * (dim * (dim - 1) // 2)


def parts(name, theta, number, dim):
    """Variances lambda_k A_k, [K, D], and orthogonal D_k, [K, D, D], by Cayley's map."""
    volume, shape, angles = np.split(theta, np.cumsum(sizes(name, number, dim))[:-1])
    shape = shape.reshape(-1, dim) if len(shape) else np.zeros((1, dim))
    variances = np.exp(volume[:, None] + shape - shape.mean(1, keepdims=True))
    bases = np.eye(dim)[None]
    if len(angles):
        skew = np.zeros((len(angles) // (dim * (dim - 1) // 2), dim, dim))
        skew[:, *np.triu_indices(dim, 1)] = angles.reshape(len(skew), -1)
        skew -= np.swapaxes(skew, 1, 2)
        bases = np.linalg.solve(np.eye(dim) - skew, np.eye(dim) + skew)
    shapes = (number, dim), (number, dim, dim)
    return tuple(map(np.broadcast_to, (variances, bases), shapes))


def covariances(name, theta, number, dim):
    """Sigma_k = lambda_k D_k A_k D_k^T, [K, D, D]."""
    variances, bases = parts(name, theta, number, dim)
    return (bases * variances[:, None]) @ np.swapaxes(bases, 1, 2)


def objective(sigma, spread, counts):
    """sum_k n_k (log |Sigma_k| + tr(Sigma_k^-1 S_k)) / N."""
    terms = np.linalg.slogdet(sigma)[1] + np.trace(np.linalg.solve(sigma, spread), 0, 1, 2)
    return counts @ terms / counts.sum()


def optimum(name, spread, counts, rng, num_starts=2):
    """The lowest objective of BFGS from random starts."""
    number, dim = spread.shape[:2]

    def value(theta):
        variances, bases = parts(name, theta, number, dim)
        along = np.einsum("kij,kil,klj->kj", bases, spread, bases)
        return counts @ (np.log(variances) + along / variances).sum(1) / counts.sum()

    starts = 0.5 * rng.normal(size=(num_starts, sum(sizes(name, number, dim))))
    return min(minimize(value, start, tol=1e-7).fun for start in starts)


def rank(name, number, dim, rng):
    """The rank of the Jacobian of the covariances at a random point."""
    theta, step = 0.5 * rng.normal(size=sum(sizes(name, number, dim))), 1e-5
    change = np.eye(len(theta)) * step
    columns = [
        covariances(name, theta + d, number, dim) - covariances(name, theta - d, number, dim)
        for d in change
    ]
    return np.linalg.matrix_rank(np.stack(columns).reshape(len(theta), -1) / step, tol=1e-6)
