"""The EM equations of docs/mixtures.md in plain NumPy and float64: the reference of the tests."""

import numpy as np
from scipy.special import logsumexp


def blobs(num_points, dim, num_components, seed=0, spread=2.0):
    """Overlapping Gaussian blobs around random centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(scale=spread, size=(num_components, dim))
    return centres[rng.integers(num_components, size=num_points)] + rng.normal(
        size=(num_points, dim)
    )


def log_joint(x, pi, mu, sigma):
    """log pi_k + log N(x_n; mu_k, Sigma_k), [N, K]."""
    dim = x.shape[1]
    columns = []
    for weight, mean, covariance in zip(pi, mu, sigma, strict=True):
        centred = x - mean
        quadratic = np.sum(centred * np.linalg.solve(covariance, centred.T).T, axis=1)
        log_det = np.linalg.slogdet(covariance)[1]
        columns.append(np.log(weight) - 0.5 * (quadratic + log_det + dim * np.log(2 * np.pi)))
    return np.stack(columns, axis=1)


def e_step(x, pi, mu, sigma):
    """Responsibilities r_nk and log p(x_n)."""
    logits = log_joint(x, pi, mu, sigma)
    log_p = logsumexp(logits, axis=1)
    return np.exp(logits - log_p[:, None]), log_p


def m_step(x, resp, covariance_type, regularization=0.0):
    """pi, mu and Sigma (as [K, D, D]) from (weighted) responsibilities: equations (1)-(3)."""
    dim = x.shape[1]
    counts = resp.sum(0)
    mu = np.stack([(r[:, None] * x).sum(0) / n for r, n in zip(resp.T, counts, strict=True)])
    scatter = np.stack(
        [(r[:, None] * (x - m)).T @ (x - m) for r, m in zip(resp.T, mu, strict=True)]
    )
    sigma = scatter / counts[:, None, None]
    if covariance_type == "tied":
        sigma = np.broadcast_to(scatter.sum(0) / counts.sum(), sigma.shape)
    elif covariance_type == "diag":
        sigma = np.stack([np.diag(np.diag(s)) for s in sigma])
    elif covariance_type == "spherical":
        sigma = np.stack([np.trace(s) / dim * np.eye(dim) for s in sigma])
    return counts / counts.sum(), mu, sigma + regularization * np.eye(dim)


def em_step(x, pi, mu, sigma, covariance_type, weight=None, regularization=0.0):
    """One EM step: new (pi, mu, Sigma), and the mean log-likelihood before it."""
    weight = np.ones(len(x)) if weight is None else weight
    resp, log_p = e_step(x, pi, mu, sigma)
    new = m_step(x, resp * weight[:, None], covariance_type, regularization)
    return new, weight @ log_p / weight.sum()


def numbers(mixture):
    """(pi, mu, Sigma) of an em.Mixture, in float64."""
    return tuple(
        np.asarray(value, np.float64)
        for value in (mixture.weights, mixture.means, mixture.covariances)
    )


def compact(sigma, covariance_type):
    """[K, D, D] covariances in the shape that `gaussian_mixture` wants for this type."""
    if covariance_type == "tied":
        return sigma[0]
    if covariance_type == "diag":
        return np.stack([np.diag(s) for s in sigma])
    return sigma[:, 0, 0] if covariance_type == "spherical" else sigma
