"""Variational Bayes for Gaussian mixtures in NumPy and SciPy: the reference of the tests."""

import numpy as np
from scipy import stats
from scipy.special import digamma, gammaln, logsumexp, multigammaln


def dirichlet_log(alpha):
    """E[log pi]."""
    return digamma(alpha) - digamma(alpha.sum(-1, keepdims=True))


def expected_log_weights(concentration):
    """E[log pi_k] of Dirichlet parameters [K], or of sticks [K, 2]."""
    logs = dirichlet_log(concentration)
    if logs.ndim == 1:
        return logs
    return logs[:, 0] + np.concatenate([[0], np.cumsum(logs[:-1, 1])])


def weights_terms(concentration, prior):
    """E[log p(pi)] + H[q(pi)]."""
    if concentration.ndim == 2:
        pairs = [
            (np.array(q), np.array([1.0, p])) for q, p in zip(concentration, prior, strict=True)
        ]
    else:
        pairs = [(concentration, np.broadcast_to(prior, concentration.shape))]
    total = 0.0
    for q, p in pairs:
        if len(q) == 1:
            continue
        density = gammaln(p.sum()) - gammaln(p).sum() + (p - 1) @ dirichlet_log(q)
        total += density + stats.dirichlet.entropy(q)
    return total


class Wishart:
    """W(degrees, scale^-1): E[Lambda], E[log |Lambda|], E_q[log p] and the entropy."""

    def __init__(self, degrees, scale):
        self.degrees, self.scale, self.dim = degrees, scale, len(scale)
        self.mean = degrees * np.linalg.inv(scale)
        terms = digamma((degrees - np.arange(self.dim)) / 2).sum()
        self.log_det = terms + self.dim * np.log(2) - np.linalg.slogdet(scale)[1]

    def entropy(self):
        return stats.wishart.entropy(self.degrees, np.linalg.inv(self.scale))

    def expected_log_density(self, q):
        nu, dim = self.degrees, self.dim
        norm = nu / 2 * (np.linalg.slogdet(self.scale)[1] - dim * np.log(2))
        norm -= multigammaln(nu / 2, dim)
        return norm + (nu - dim - 1) / 2 * q.log_det - np.trace(self.scale @ q.mean) / 2


class Gammas:
    """Precisions gamma(degrees / 2, scale / 2) of D dimensions: one each [D], or one for all."""

    def __init__(self, degrees, scale, dim):
        self.degrees, self.scale = degrees, np.atleast_1d(scale)
        self.mean = np.diag(np.broadcast_to(degrees / self.scale, (dim,)))
        self.logs = digamma(degrees / 2) - np.log(self.scale / 2)
        self.log_det = np.broadcast_to(self.logs, (dim,)).sum()

    def entropy(self):
        return stats.gamma.entropy(self.degrees / 2, scale=2 / self.scale).sum()

    def expected_log_density(self, q):
        shape, rate = self.degrees / 2, self.scale / 2
        mean = q.degrees / q.scale
        return (shape * np.log(rate) - gammaln(shape) + (shape - 1) * q.logs - rate * mean).sum()


def law(kind, degrees, scale, dim):
    """The law of a precision; the scale is [D, D], [D] or a number."""
    if kind in ("full", "tied"):
        return Wishart(degrees, scale)
    return Gammas(degrees, scale, dim)


def elbo(x, kind, prior, alpha, concentration, strength, degrees, means, scales):
    """The bound of a posterior, with the best q(z): E[log p] - E[log q] by its terms.

    `scales` are Psi_k, in the shape of the type (one for tied).
    """
    dim, number = x.shape[1], len(means)
    laws = [
        law(kind, degrees[k], scales if kind == "tied" else scales[k], dim) for k in range(number)
    ]
    log_pi, start = expected_log_weights(concentration), law(kind, prior.degrees, prior.scale, dim)
    logits, total = [], weights_terms(concentration, alpha)
    for k, q in enumerate(laws):
        d = x - means[k]
        square = np.einsum("nd,de,ne->n", d, q.mean, d) + dim / strength[k]
        logits.append(log_pi[k] + (q.log_det - dim * np.log(2 * np.pi) - square) / 2)
        d = means[k] - prior.mean
        location = prior.strength * (d @ q.mean @ d + dim / strength[k])
        density = (dim * np.log(prior.strength / (2 * np.pi)) + q.log_det - location) / 2
        entropy = (dim * np.log(2 * np.pi * np.e / strength[k]) - q.log_det) / 2
        total += density + entropy
        if kind != "tied" or k == 0:
            total += start.expected_log_density(q) + q.entropy()
    return total + logsumexp(logits, axis=0).sum()


def log_marginal(x, z, number, kind, prior):
    """log p(x | z) of `number` components, in closed form (normal-Wishart conjugacy)."""
    dim = x.shape[1]
    groups = [x[z == k] for k in range(number)]
    groups = [groups] if kind == "tied" else [[group] for group in groups]
    total = -len(x) * dim / 2 * np.log(np.pi)
    for parts in groups:
        scale, rows = np.array(prior.scale, float), sum(len(part) for part in parts)
        for part in parts:
            n = len(part)
            total += dim / 2 * np.log(prior.strength / (prior.strength + n))
            if n:
                d = part.mean(0) - prior.mean
                pull = prior.strength * n / (prior.strength + n)
                centred = part - part.mean(0)
                outer = centred.T @ centred + pull * np.outer(d, d)
                scale = scale + {"diag": np.diag(outer), "spherical": np.trace(outer)}.get(
                    kind, outer
                )
        total += log_normalizer(
            kind, prior.degrees + rows * (dim if kind == "spherical" else 1), scale
        )
        total -= log_normalizer(kind, prior.degrees, np.array(prior.scale, float))
    return total


def log_normalizer(kind, degrees, scale):
    """log of the integral of |Lambda|^(nu/2) exp(-tr(Psi Lambda) / 2), up to what cancels."""
    if kind in ("full", "tied"):
        log_det = np.linalg.slogdet(scale)[1]
        return multigammaln(degrees / 2, len(scale)) - degrees / 2 * log_det
    return (gammaln(degrees / 2) - degrees / 2 * np.log(scale)).sum()
