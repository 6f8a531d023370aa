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
EXPECTED = {  # the words of a refusal, by the kind of q that it takes
    "reparameterized": "a reparameterised q, whose draws carry gradients to its parameters",
    "finite": "a q with finitely many values (Bernoulli, categorical, one_hot or Table)",
    "bernoulli": "distributions.Bernoulli",
    "relaxable": "distributions.Bernoulli or distributions.one_hot",
}


def rows(*kinds):
    """The names of the rows that take one of these kinds of q, in alphabetical order."""
    return sorted(n for n, row in gradients.ESTIMATORS.items() if row.latent in kinds)


FOR_NORMAL = ", ".join(rows("any", "reparameterized"))
FOR_BITS = ", ".join(rows("any", "finite", "relaxable", "bernoulli"))
FOR_LABELS = ", ".join(rows("any", "finite"))
FOR_ROWS = ", ".join(rows("any", "finite", "relaxable"))


@pytest.mark.parametrize(
    "name, guide, got, working",
    [
        *((name, Bernoulli, "Bernoulli", FOR_BITS) for name in rows("reparameterized")),
        *(
            (name, normal_guide, "Independent(Normal)", FOR_NORMAL)
            for name in rows("finite", "relaxable", "bernoulli")
        ),
    ],
)
def test_another_kind_of_q_is_refused_with_the_rows_that_take_it(name, guide, got, working):
    row = gradients.ESTIMATORS[name]
    with pytest.raises(TypeError) as caught:
        row.estimate(KEY, never, guide, PHI, 4)
    short = str(caught.value).split(":")[0]  # a row with options has the name of its function
    assert name.startswith(short)
    assert str(caught.value) == (
        f"{short}: expected {EXPECTED[row.latent]}, got {got}; estimators for this q: {working}"
    )


def test_the_lists_of_estimators_are_those_of_the_types():
    # The lists above come from the table; these few names do not.
    for working, some, none in (
        (FOR_NORMAL, ("sticking_the_landing", "vimco"), ("arm", "rebar", "enumerated")),
        (FOR_BITS, ("arm", "rebar", "enumerated", "vimco"), ("sticking_the_landing",)),
        (FOR_LABELS, ("enumerated", "vimco"), ("arm", "rebar", "sticking_the_landing")),
    ):
        names = working.split(", ")
        assert set(some) <= set(names)
        assert not set(none) & set(names)


def test_integers_and_rows_are_not_bits():
    def integers(phi):
        return distributions.Categorical(logits=phi)

    with pytest.raises(TypeError, match=f"got Categorical; estimators for this q: {FOR_LABELS}$"):  # fmt: skip
        gradients.concrete()(KEY, never, integers, PHI, 4)
    with pytest.raises(TypeError, match=f"^arm: expected distributions.Bernoulli, got Independent.OneHotCategorical.; estimators for this q: {FOR_ROWS}$"):  # fmt: skip
        gradients.arm()(KEY, never, distributions.one_hot, ONE_HOT_PHI, 4)
    objective = gradients.variance_objective(gradients.rebar_control())
    with pytest.raises(TypeError, match="^variance_objective: expected .* got Categorical"):
        objective(KEY, never, integers, PHI, 4)


GUIDES = {"reparameterized": normal_guide, "any": normal_guide}


@pytest.mark.parametrize("name", gradients.ESTIMATORS)
def test_num_samples_is_checked(name):
    row = gradients.ESTIMATORS[name]
    guide = GUIDES.get(row.latent, Bernoulli)
    with pytest.raises(ValueError, match="num_samples: expected an integer >= [12], got 0"):
        row.estimate(KEY, never, guide, PHI, 0)
    with pytest.raises(TypeError, match="num_samples: expected an integer"):
        row.estimate(KEY, never, guide, PHI, 2.5)


@pytest.mark.parametrize("name", gradients.ESTIMATORS)
def test_a_log_joint_that_is_no_number_is_refused(name):
    row = gradients.ESTIMATORS[name]
    guide = GUIDES.get(row.latent, Bernoulli)
    with pytest.raises(ValueError, match="log_joint: expected one real number"):
        row.estimate(KEY, lambda z: z, guide, PHI, 2)


@pytest.mark.parametrize("name", ["leave_one_out", "vimco"])
def test_baselines_of_the_others_need_others(name):
    with pytest.raises(ValueError, match="num_samples: expected an integer >= 2, got 1"):
        gradients.ESTIMATORS[name].estimate(KEY, never, Bernoulli, PHI, 1)


def test_sleep_checks_num_samples():
    with pytest.raises(ValueError, match="num_samples: expected an integer >= 1, got 0"):
        gradients.sleep(KEY, None, None, 0)


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
