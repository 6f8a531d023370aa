"""scikit-learn's checks of an estimator, on data of few shapes.

Each shape is a program of its own, and the checks come with a dozen: 1, 2, 3, 4, 5, 10 or 30 columns
of 10 to 150 rows. Here tables have one or two columns, and are padded to 16 rows (of 1) or to 256.
"""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.utils import estimator_checks

from lvm_jax import compiling

COLUMNS, ROWS = 2, 256
SKIPPED = (
    "check_array_api_input"  # by scikit-learn itself: it needs an environment variable of SciPy
)


class Narrow(np.random.RandomState):
    """Draws tables of few columns."""

    def rand(self, *shape):
        return narrow(super().rand(*shape))

    def uniform(self, *args, **options):
        return narrow(super().uniform(*args, **options))


def narrow(x):
    """The first columns of a table; contiguous, for a check that writes into its flat view."""
    return np.ascontiguousarray(x[:, :COLUMNS]) if np.ndim(x) == 2 else x


def not_passed(estimator):
    """The names of the checks that fail, or that are skipped and should not be."""
    adapt, round_up = estimator_checks._enforce_estimator_tags_X, compiling.bucket

    def adapted(estimator, x, *args, **options):
        return adapt(estimator, narrow(x), *args, **options)

    def bucket(size):
        return round_up(size if size == 1 else max(size, ROWS))

    random = SimpleNamespace(**{**vars(np.random), "RandomState": Narrow})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimator_checks, "np", SimpleNamespace(**{**vars(np), "random": random}))
        patch.setattr(estimator_checks, "_enforce_estimator_tags_X", adapted)
        for name, module in list(sys.modules.items()):
            if name.startswith("lvm_jax.") and vars(module).get("bucket") is round_up:
                patch.setattr(module, "bucket", bucket)
        results = estimator_checks.check_estimator(estimator, on_fail=None, on_skip=None)
    allowed = {SKIPPED: {"passed", "skipped"}}
    names = [(result["check_name"], result["status"]) for result in results]
    return [name for name, status in names if status not in allowed.get(name, {"passed"})]
