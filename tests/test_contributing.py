"""What CONTRIBUTING.md tells people to copy has to work."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

from lvm_jax import em

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.S)


def block(defines):
    """The names that the one code block with `defines` in it brings."""
    (source,) = [code for code in BLOCKS if defines in code]
    names: dict = {}
    exec(compile(source, "CONTRIBUTING.md", "exec"), names)
    return names


def test_the_family_to_copy_is_an_exponential_mixture(x64):
    family = block("class Exponential")["Exponential"]()
    rng = np.random.default_rng(0)
    x = rng.exponential(np.where(rng.random((400, 1)) < 0.4, [[0.5, 3.0]], [[4.0, 1.0]]))
    fit = em.fit(
        jax.random.key(0), x, 2, family=family, num_restarts=4, tolerance=1e-9, max_steps=2000
    )
    pi, means = np.asarray(fit.mixture.weights), np.asarray(fit.mixture.means)
    joint = np.log(pi) + stats.expon.logpdf(x[:, None], scale=means).sum(-1)
    log_p = logsumexp(joint, axis=1)
    np.testing.assert_allclose(fit.mixture.log_prob(x), log_p, rtol=1e-10)
    assert fit.info.log_likelihood == pytest.approx(log_p.mean(), rel=1e-10)
    # At the maximum the parameters are those that their own responsibilities give.
    resp = np.exp(joint - log_p[:, None])
    np.testing.assert_allclose(pi, resp.mean(0), atol=1e-4)
    np.testing.assert_allclose(means, resp.T @ x / resp.sum(0)[:, None], rtol=1e-3)
    draws, z = map(np.asarray, fit.mixture.sample(jax.random.key(1), 20_000))
    for k in (0, 1):  # the standard deviation of an exponential is its mean
        error = means[k] / np.sqrt((z == k).sum())
        assert (np.abs(draws[z == k].mean(0) - means[k]) < 5 * error).all()
    with pytest.raises(ValueError, match="x: expected waiting times >= 0, got -1"):
        em.fit(jax.random.key(0), x - 1 - x.min(), 2, family=family)
