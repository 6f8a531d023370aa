"""Information criteria of GaussianMixture."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np


class Criteria:
    """AIC, BIC and ICL from `score_samples` and `predict_proba`."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """The attributes of GaussianMixture."""

    def _n_parameters(self) -> int:
        return self._current().num_parameters

    def aic(self, X: Any) -> float:
        """Akaike information criterion on X; lower is better."""
        return -2 * self._total(X)[0] + 2 * self._n_parameters()

    def _total(self, X: Any) -> tuple[float, int]:
        """The log-likelihood of X, and its number of rows."""
        scores = self.score_samples(X)
        return float(scores.mean(dtype=np.float64)) * len(scores), len(scores)

    def bic(self, X: Any) -> float:
        """Bayesian information criterion on X; lower is better."""
        total, number = self._total(X)
        return -2 * total + self._n_parameters() * math.log(number)

    def icl(self, X: Any) -> float:
        """Integrated completed likelihood on X: BIC - 2 sum_n log max_k r_nk."""
        with np.errstate(divide="ignore"):
            assigned = np.log(self.predict_proba(X).max(1)).sum(dtype=np.float64)
        return self.bic(X) - 2 * float(assigned)
