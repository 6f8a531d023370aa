"""EM with missing entries in plain NumPy and float64, row by row: the reference of the tests."""

import numpy as np
from scipy.special import logsumexp

LOG_2PI = np.log(2 * np.pi)


def marginal(row, mean, sigma):
    """log N(x_o; mu_o, Sigma_oo), E[x | x_o] and Cov[x | x_o] of one row."""
    o, m = ~np.isnan(row), np.isnan(row)
    d = row[o] - mean[o]
    gain = np.linalg.solve(sigma[np.ix_(o, o)], np.c_[d, sigma[np.ix_(o, m)]])
    log_det = np.linalg.slogdet(sigma[np.ix_(o, o)])[1]
    log_p = -0.5 * (d @ gain[:, 0] + log_det + o.sum() * LOG_2PI)
    filled, covariance = row.copy(), np.zeros_like(sigma)
    filled[m] = mean[m] + sigma[np.ix_(m, o)] @ gain[:, 0]
    covariance[np.ix_(m, m)] = sigma[np.ix_(m, m)] - sigma[np.ix_(m, o)] @ gain[:, 1:]
    return log_p, filled, covariance


def e_step(x, pi, mu, sigma):
    """Responsibilities, log p of the observed entries, and their conditional moments."""
    found = [[marginal(row, m, s) for m, s in zip(mu, sigma, strict=True)] for row in x]
    logits = np.array([[one[0] for one in row] for row in found]) + np.log(pi)
    log_p = logsumexp(logits, axis=1)
    filled, covariance = (np.array([[one[i] for one in row] for row in found]) for i in (1, 2))
    return np.exp(logits - log_p[:, None]), log_p, filled, covariance


def em_step(x, pi, mu, sigma, covariance_type, weight=None):
    """One step of the EM algorithm that the type uses, and the log-likelihood before it."""
    weight = np.ones(len(x)) if weight is None else weight
    resp, log_p, filled, unknown = e_step(x, pi, mu, sigma)
    resp = resp * weight[:, None]
    counts = resp.sum(0)
    if covariance_type in ("full", "tied"):
        mean = np.einsum("nk,nkd->kd", resp, filled) / counts[:, None]
        d = filled - mean
        scatter = np.einsum("nk,nki,nkj->kij", resp, d, d) + np.einsum(
            "nk,nkij->kij", resp, unknown
        )
        new = scatter / counts[:, None, None]
        if covariance_type == "tied":
            new = np.broadcast_to(scatter.sum(0) / counts.sum(), new.shape)
    else:
        seen = ~np.isnan(x)
        entries = resp.T @ seen
        mean = resp.T @ np.where(seen, x, 0) / entries
        squares = np.where(seen[:, None], (x[:, None] - mean) ** 2, 0)
        scatter = np.einsum("nk,nkd->kd", resp, squares)
        variance = scatter / entries
        if covariance_type == "spherical":
            variance = np.broadcast_to((scatter.sum(1) / entries.sum(1))[:, None], variance.shape)
        new = np.stack([np.diag(v) for v in variance])
    return (counts / counts.sum(), mean, new), weight @ log_p / weight.sum()
