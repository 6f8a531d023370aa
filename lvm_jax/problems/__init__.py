"""Test problems: models and densities with known truth, for tests, benchmarks and experiments.

A `Problem` is a model with a closed-form log p(x) and posterior, and a guide that differs from the
posterior in a stated way. A `Target` is a log-density with a known log Z.
"""

from lvm_jax.problems import expected_bounds, linear_vae, one_bit, second_moment
from lvm_jax.problems.base import Problem, Simulated, changed, log_evidence, simulate, truth
from lvm_jax.problems.changes import (
    marginals,
    mean_field,
    shifted_marginals,
    shifted_normal,
    widened,
)
from lvm_jax.problems.cox import lgcp
from lvm_jax.problems.finite import discrete, gaussian_mixture
from lvm_jax.problems.gaussian import Affine, correlated, linear_gaussian, mixing, rainforth
from lvm_jax.problems.modes import two_modes, two_normals
from lvm_jax.problems.regression import breast_cancer, credit, credit_likelihood
from lvm_jax.problems.schools import eight_schools
from lvm_jax.problems.squares import four_modes
from lvm_jax.problems.student import StudentT, heavy_tails
from lvm_jax.problems.synthetic import funnel, gaussians_40, many_well, spike, wells
from lvm_jax.problems.target import Target

__all__ = [
    "Affine",
    "Problem",
    "Simulated",
    "StudentT",
    "Target",
    "breast_cancer",
    "changed",
    "correlated",
    "credit",
    "credit_likelihood",
    "discrete",
    "eight_schools",
    "expected_bounds",
    "four_modes",
    "funnel",
    "gaussian_mixture",
    "gaussians_40",
    "heavy_tails",
    "lgcp",
    "linear_gaussian",
    "linear_vae",
    "log_evidence",
    "many_well",
    "marginals",
    "mean_field",
    "mixing",
    "one_bit",
    "rainforth",
    "second_moment",
    "shifted_marginals",
    "shifted_normal",
    "simulate",
    "spike",
    "truth",
    "two_modes",
    "two_normals",
    "wells",
    "widened",
]
