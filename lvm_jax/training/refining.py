"""Training a semi-amortised guide: the local steps climb the model as it stands in each step."""

import jax

from lvm_jax.gradients.base import Estimate, Estimator, find_estimate
from lvm_jax.guides.base import Guide
from lvm_jax.guides.refined import Refined
from lvm_jax.models.base import log_joint
from lvm_jax.training.objective import Objective, Point, Terms, check_objective
from lvm_jax.typing import Array, Int, Key


def refining(
    guide: Guide,
    *,
    estimate: Estimate | Estimator | str | None = None,
    objective: Objective | None = None,
) -> Objective:
    """An estimator, or an objective, of a `guides.refined` guide, as an objective of its start.

    In every step phi of `guide` is tied to the model that is trained, phi = Refined(start, theta),
    and the bound is that of the refined q. `fit` is given the guide where the local steps start,
    `place(family)` of `guides.refined`: its phi is `start`, and nothing else is trained.

        objective = training.refining(guide, estimate=gradients.reparameterized())
        fit = training.fit(key, model, place(family), x, objective=objective, ...)
        q = guide.posterior(guides.Refined(fit.phi, fit.theta), x[0])

    Every step makes the local steps of each data point, and `sticking_the_landing` and
    `doubly_reparameterized` make them twice, for q and for q at frozen parameters.

    Raises TypeError for a guide that is not refined, ValueError unless given exactly one of the
    other two, and in `fit` for the refined guide in place of its start.
    Source: Kim et al. 2018, algorithm 2.
    """
    estimate, objective = find_estimate(estimate), check_objective(objective)
    phi = jax.eval_shape(guide.init, jax.random.key(0))
    if not isinstance(phi, Refined):
        raise TypeError(
            f"guide: expected one of guides.refined, got one whose phi is a {type(phi).__name__}; "
            "any other guide goes into training.fit itself"
        )
    if estimate is not None and objective is None:
        return tied(guide, of_estimate(estimate))
    if objective is not None and estimate is None:
        return tied(guide, objective)
    raise ValueError("estimate: expected an estimator or an objective, exactly one of the two")


def tied(guide: Guide, inner: Objective) -> Objective:
    """`inner` with the refined guide, whose theta is the one of the step."""

    def objective(
        key: Key[Array, ""], point: Point, num_samples: int, step: Int[Array, ""]
    ) -> Terms:
        if isinstance(point.phi, Refined):
            raise ValueError(
                "guide: expected the guide where the local steps start, place(family), got the "
                "refined one; give that to training.refining alone"
            )
        phi = Refined(point.phi, point.theta)
        return inner(key, point._replace(guide=guide, phi=phi), num_samples, step)

    return objective


def of_estimate(estimate: Estimate) -> Objective:
    """An estimator as an objective: what is climbed is the bound."""

    def objective(
        key: Key[Array, ""], point: Point, num_samples: int, step: Int[Array, ""]
    ) -> Terms:
        model, guide, theta, phi, x = point
        joint = log_joint(model, theta, x)
        value = estimate(key, joint, lambda p: guide.posterior(p, x), phi, num_samples)
        return Terms(value, value)

    return objective
