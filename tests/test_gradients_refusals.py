"""What every estimator refuses, in which words, before log_joint is ever called."""

import jax.numpy as jnp
import pytest
from gradient_tools import KEY

from lvm_jax import distributions, gradients
from lvm_jax.distributions import Bernoulli


def never(z):
    pytest.fail("log_joint was traced before the input was refused")


def normal_guide(phi):
    return distributions.normal(phi, jnp.ones(2))


PHI = jnp.array([0.3, -0.2])
ONE_HOT_PHI = jnp.array([[0.3, -0.2]])
FOR_NORMAL = (
    "annealed, doubly_reparameterized, doubly_reparameterized_wake_sleep, leave_one_out, piwae, "
    "reparameterized, reparameterized_iwae, reweighted_wake_sleep, score_function, "
    "score_function_iwae, sticking_the_landing, vimco"
)
FOR_ANY = "leave_one_out, reweighted_wake_sleep, score_function, score_function_iwae, vimco"


@pytest.mark.parametrize("name", [n for n, r in gradients.ESTIMATORS.items() if r.latent == "reparameterized"])  # fmt: skip
def test_a_discrete_q_is_refused_by_every_pathwise_estimator(name):
    estimate = gradients.ESTIMATORS[name].estimate
    short = "reparameterized" if name == "reparameterized_iwae" else name
    with pytest.raises(TypeError) as caught:
        estimate(KEY, never, Bernoulli, PHI, 4)
    assert str(caught.value) == (
        f"{short}: expected a reparameterised q, whose draws carry gradients to its parameters, got "
        "Bernoulli; estimators for this q: arm, concrete, disarm, enumerated, leave_one_out, rebar, "
        "relax, reweighted_wake_sleep, score_function, score_function_iwae, straight_through, vimco"
    )


@pytest.mark.parametrize(
    "name, expected",
    [
        ("enumerated", "a q with finitely many values (Bernoulli, categorical, one_hot or Table)"),
        ("arm", "distributions.Bernoulli"),
        ("disarm", "distributions.Bernoulli"),
        ("concrete", "distributions.Bernoulli or distributions.one_hot"),
        ("straight_through", "distributions.Bernoulli or distributions.one_hot"),
        ("rebar", "distributions.Bernoulli or distributions.one_hot"),
        ("relax", "distributions.Bernoulli or distributions.one_hot"),
    ],
)
def test_a_continuous_q_is_refused_by_every_discrete_estimator(name, expected):
    with pytest.raises(TypeError) as caught:
        gradients.ESTIMATORS[name].estimate(KEY, never, normal_guide, PHI, 4)
    assert str(caught.value) == (
        f"{name}: expected {expected}, got Independent(Normal); estimators for this q: {FOR_NORMAL}"
    )


def test_integers_and_rows_are_not_bits():
    def integers(phi):
        return distributions.Categorical(logits=phi)

    with pytest.raises(TypeError, match=f"got Categorical; estimators for this q: enumerated, {FOR_ANY}$"):  # fmt: skip
        gradients.concrete()(KEY, never, integers, PHI, 4)
    with pytest.raises(TypeError, match="^arm: expected distributions.Bernoulli, got Independent.OneHotCategorical.; .* rebar"):  # fmt: skip
        gradients.arm()(KEY, never, distributions.one_hot, ONE_HOT_PHI, 4)
    objective = gradients.variance_objective(gradients.rebar_control())
    with pytest.raises(TypeError, match="^variance_objective: expected .* got Categorical"):
        objective(KEY, never, integers, PHI, 4)


GUIDES = {"reparameterized": normal_guide, "any": normal_guide}


@pytest.mark.parametrize("name", gradients.ESTIMATORS)
def test_num_samples_is_checked(name):
    row = gradients.ESTIMATORS[name]
    guide = GUIDES.get(row.latent, Bernoulli)
    least = 2 if name in ("leave_one_out", "vimco") else 1
    for bad in range(least):
        with pytest.raises(ValueError, match=f"num_samples: expected an integer >= {least}, got {bad}"):  # fmt: skip
            row.estimate(KEY, never, guide, PHI, bad)
    with pytest.raises(TypeError, match="num_samples: expected an integer"):
        row.estimate(KEY, never, guide, PHI, 2.5)


@pytest.mark.parametrize("name", gradients.ESTIMATORS)
def test_a_log_joint_that_is_no_number_is_refused(name):
    row = gradients.ESTIMATORS[name]
    guide = GUIDES.get(row.latent, Bernoulli)
    with pytest.raises(ValueError, match="log_joint: expected one real number"):
        row.estimate(KEY, lambda z: z, guide, PHI, 2)


def test_sleep_checks_num_samples():
    with pytest.raises(ValueError, match="num_samples: expected an integer >= 1, got 0"):
        gradients.sleep(KEY, None, PHI, None, PHI, 0)


@pytest.mark.parametrize("make", [gradients.concrete, gradients.straight_through, gradients.rebar])
@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_must_be_positive(make, bad):
    with pytest.raises(ValueError, match=f"temperature: expected a finite number > 0, got {bad}"):
        make(bad)


def test_other_options_are_checked():
    with pytest.raises(ValueError, match="mean: expected one of geometric, arithmetic, got 'geometrc'; did you mean"):  # fmt: skip
        gradients.vimco("geometrc")
    with pytest.raises(ValueError, match="num_groups: expected an integer >= 1, got 0"):
        gradients.piwae(0)
    with pytest.raises(ValueError, match="num_samples: expected a multiple of num_groups = 2, got 3"):  # fmt: skip
        gradients.piwae(2)(KEY, lambda z: z.sum(), normal_guide, PHI, 3)
    with pytest.raises(ValueError, match="z: expected at most 4,194,304 values to enumerate"):
        gradients.enumerated()(KEY, never, Bernoulli, jnp.zeros(23), 1)
