"""Bridge sampling: log Z from weights of draws of a proposal g and of states of chains of p.

Source: Meng and Wong (1996), equation 4.1, the optimal bridge; Gronau et al. (2017), equation 14.
"""

import numpy as np

from lvm_jax.estimate import Estimate
from lvm_jax.typing import Float

MAX_ITERATIONS, PRECISE = 200, 1e-7


def bridge(log_w: Float[np.ndarray, " S"], log_w_of_p: Float[np.ndarray, "C T"]) -> Estimate:
    """log Z from log w = log p - log g at S draws of g, and at T states of each of C chains of p.

        Z = E_g[w / (a w + b Z)] / E_p[1 / (a w + b Z)],    a = S / (S + C T / 2),  b = 1 - a

    Unlike importance sampling it needs no bound on w: the tails of p count by the states. The
    standard error takes the means of the chains as independent. NaN where no weight is positive.
    """
    draws, states = np.asarray(log_w, float), np.asarray(log_w_of_p, float)
    draws, states = np.nan_to_num(draws, nan=-np.inf), np.nan_to_num(states, nan=-np.inf)
    number = draws.size
    share = number / (number + states.size / 2)
    log_z = np.logaddexp.reduce(draws) - np.log(number)
    if not np.isfinite(log_z):
        return Estimate(np.float64(np.nan), np.float64(np.nan))
    for _ in range(MAX_ITERATIONS):
        w, of_p = np.exp(np.minimum(draws - log_z, 500)), np.exp(np.minimum(states - log_z, 500))
        above, below = w / (share * w + 1 - share), 1 / (share * of_p + 1 - share)
        step = np.log(above.mean() / below.mean())
        log_z += step
        if abs(step) < PRECISE:
            break
    chains = below.mean(1)
    variance = above.var() / above.mean() ** 2 / number
    variance += chains.var(ddof=1) / chains.mean() ** 2 / len(chains)
    return Estimate(np.float64(log_z), np.sqrt(variance))
