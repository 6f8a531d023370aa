"""Models of NumPyro, PyMC and TFP: their log-densities against ours, closed forms and quadrature."""

import re
import warnings
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from tensorflow_probability.substrates import jax as tfp

from docs._site.pages import DOCS, blocks, run_block
from lvm_jax import problems, vi
from lvm_jax.problems.schools import EFFECTS, ERRORS

tfd = tfp.distributions
TARGET = problems.eight_schools(centred=False)
Z = np.linspace(-1, 1.4, 10).astype(np.float32)  # mu, log tau, eta
Y, SIGMA = EFFECTS.astype(np.float32), ERRORS.astype(np.float32)
SIDE = np.arange(-14, 14, 0.2, dtype=np.float32)
pymc_is_installed = pytest.mark.skipif(
    find_spec("pymc") is None, reason="PyMC (the extra pymc) is not installed"
)
# TFP's own samplers name float64, and pass None as a shape.
tfp_as_it_is = pytest.mark.filterwarnings(
    "ignore:Explicitly requested dtype:UserWarning", "ignore:shape requires:DeprecationWarning"
)


def schools(y):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", 8):
        eta = numpyro.sample("eta", dist.Normal(0, 1))
        theta = numpyro.deterministic("theta", mu + tau * eta)
        numpyro.sample("y", dist.Normal(theta, SIGMA), obs=y)


def of_effects(mu, tau, eta):
    return tfd.Independent(tfd.Normal(mu + tau * eta, SIGMA), 1)


def coroutine():
    mu = yield tfd.Normal(0.0, 5.0, name="mu")
    tau = yield tfd.HalfCauchy(0.0, 5.0, name="tau")
    eta = yield tfd.Sample(tfd.Normal(0.0, 1.0), 8, name="eta")
    yield tfd.Independent(tfd.Normal(mu + tau * eta, SIGMA), 1, name="y")


PARTS = {
    "mu": tfd.Normal(0.0, 5.0),
    "tau": tfd.HalfCauchy(0.0, 5.0),
    "eta": tfd.Sample(tfd.Normal(0.0, 1.0), 8),
}
JOINTS = {
    "named": lambda: vi.from_tfp(tfd.JointDistributionNamed({**PARTS, "y": of_effects}), y=Y),
    "coroutine": lambda: vi.from_tfp(tfd.JointDistributionCoroutineAutoBatched(coroutine), y=Y),
    "sequential": lambda: vi.from_tfp(
        tfd.JointDistributionSequential([*PARTS.values(), lambda e, t, m: of_effects(m, t, e)]),
        None, None, None, Y,
    ),
}  # fmt: skip


def like(start, mu, tau, eta):
    """The three values in the structure of a start."""
    if isinstance(start, dict):
        values = {"mu": mu, "tau": tau, "tau_log__": tau, "eta": eta}
        return {name: values[name] for name in start}
    return [mu, tau, eta] if isinstance(start, list) else type(start)(mu, tau, eta)


def check_schools(model):
    """The density and its gradient are those of the hand-written target; tau = exp(z)."""
    z = like(model.start, Z[0], Z[1], Z[2:])
    assert model.log_density(z) == pytest.approx(float(TARGET.log_density(Z)), abs=1e-4)
    at_z = jax.tree.map(jnp.asarray, z)
    shift = lambda f, t: f(jax.tree.map(lambda leaf: leaf + t, at_z))  # noqa: E731
    slope = jax.grad(lambda t: shift(model.log_density, t))(0.0)
    wanted = jax.grad(lambda t: TARGET.log_density(Z + t))(0.0)
    assert slope == pytest.approx(float(wanted), abs=1e-3)
    values = jax.tree.leaves(model.constrain(z))
    assert any(np.shape(one) == () and np.isclose(one, np.exp(Z[1]), rtol=1e-5) for one in values)


def mass(model):
    """The integral of a density of z in two dimensions, by the trapezoidal rule."""
    grid = np.stack(np.meshgrid(SIDE, SIDE), -1).reshape(-1, 2)
    _, unravel = jax.flatten_util.ravel_pytree(model.start)
    log_p = jax.jit(jax.vmap(lambda u: model.log_density(unravel(u))))(grid)
    return float(np.exp(np.asarray(log_p, float)).sum() * (SIDE[1] - SIDE[0]) ** 2)


def test_numpyro_eight_schools():
    model = vi.from_numpyro(schools, Y)
    check_schools(model)
    z = like(model.start, Z[0], Z[1], Z[2:])
    theta = model.constrain(z)["theta"]
    np.testing.assert_allclose(theta, Z[0] + np.exp(Z[1]) * Z[2:], rtol=1e-5)
    assert jax.tree.map(np.shape, model.start) == {"mu": (), "tau": (), "eta": (8,)}
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(model.start))


def test_numpyro_jacobians():
    """A prior has mass 1 in unconstrained coordinates: of a simplex, and of two positive numbers."""

    def simplex():
        numpyro.sample("p", dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])))

    def positive():
        numpyro.sample("s", dist.Gamma(jnp.array([2.0, 1.5]), 1.0).to_event(1))

    assert mass(vi.from_numpyro(simplex)) == pytest.approx(1, abs=1e-3)
    assert mass(vi.from_numpyro(positive)) == pytest.approx(1, abs=1e-3)


def test_numpyro_in_float64(x64):
    model = vi.from_numpyro(schools, EFFECTS)
    assert model.start["eta"].dtype == jnp.float64
    z = like(model.start, *(jnp.asarray(one, float) for one in (Z[0], Z[1], Z[2:])))
    wanted = TARGET.log_density(jnp.asarray(Z, float))
    assert model.log_density(z) == pytest.approx(float(wanted), abs=2e-5)  # SIGMA is float32


def test_numpyro_refusals():
    def mixture():
        numpyro.sample("k", dist.Categorical(jnp.ones(2) / 2))

    def minibatch():
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with numpyro.plate("rows", 50, subsample_size=5):
            numpyro.sample("x", dist.Normal(mu, 1), obs=jnp.zeros(5))

    with pytest.raises(ValueError, match="model: expected real .* 'k' is discrete; sum it out .*"):
        vi.from_numpyro(mixture)
    with pytest.raises(ValueError, match="plate 'rows' with all of its 50 rows, .* subsample of 5"):
        vi.from_numpyro(minibatch)
    with pytest.raises(ValueError, match="at least one latent site"):
        vi.from_numpyro(lambda: numpyro.sample("x", dist.Normal(0, 1), obs=0.0))
    with pytest.raises(TypeError, match="model: expected a NumPyro model, a function, got"):
        vi.from_numpyro(3)


@tfp_as_it_is
@pytest.mark.parametrize("kind", JOINTS)
def test_tfp_eight_schools(kind):
    model = JOINTS[kind]()
    check_schools(model)
    assert sorted(map(np.shape, jax.tree.leaves(model.start))) == [(), (), (8,)]


@tfp_as_it_is
def test_tfp_jacobians_and_a_joint_without_data():
    """A simplex, whose mass TFP's Jacobian makes sqrt(3), and a part on an interval of another."""
    joint = tfd.JointDistributionSequential([tfd.Dirichlet(jnp.array([1.0, 2.0, 3.0]))])
    assert mass(vi.from_tfp(joint)) == pytest.approx(1, abs=1e-3)
    nested = tfd.JointDistributionNamed(
        {"top": tfd.Gamma(2.0, 1.0), "x": lambda top: tfd.Uniform(0.0, top)}
    )
    assert mass(vi.from_tfp(nested)) == pytest.approx(1, abs=1e-3)


@tfp_as_it_is
def test_tfp_refusals():
    discrete = tfd.JointDistributionNamed({"k": tfd.Poisson(3.0), "flip": tfd.Bernoulli(0.1)})
    with pytest.raises(ValueError, match="'flip' is discrete; sum it out of the joint"):
        vi.from_tfp(discrete, k=2.0)
    with pytest.raises(ValueError, match="'k' is discrete"):  # of type float32
        vi.from_tfp(discrete, flip=1)
    with pytest.raises(ValueError, match=r"one latent part; is every part observed\?"):
        vi.from_tfp(discrete, flip=1, k=2.0)
    counts = tfd.JointDistributionSequential(
        [tfd.Normal(jnp.zeros(3), 1.0), lambda u: tfd.VonMisesFisher(u, 1.0)]
    )
    with pytest.raises(ValueError, match="'x' is a tfd.VonMisesFisher, .*; write its log-density"):
        vi.from_tfp(counts)
    batch = tfd.JointDistributionNamed({"x": tfd.Normal(jnp.zeros(3), 1.0)})
    with pytest.raises(ValueError, match=r"joint: expected one model, got a batch shape of \[3\]"):
        vi.from_tfp(batch)
    matrix = tfd.JointDistributionNamed({"corr": tfd.Sample(tfd.LKJ(2, 1.5), 3)})
    with pytest.raises(ValueError, match="'corr' is a tfd.LKJ, .*; use tfd.CholeskyLKJ"):
        vi.from_tfp(matrix)
    with pytest.raises(TypeError, match="joint: expected a JointDistribution .*, got builtins.int"):
        vi.from_tfp(3)


@pytest.fixture(scope="module")
def pm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pymc
    return pymc


@pymc_is_installed
@pytest.mark.filterwarnings("ignore")  # of ArviZ, and of PyTensor without BLAS
@pytest.mark.parametrize("precision", [False, True])
def test_pymc_eight_schools(pm, precision):
    with jax.enable_x64(precision):
        with pm.Model() as model:
            mu, tau = pm.Normal("mu", 0, 5), pm.HalfCauchy("tau", 5)
            eta = pm.Normal("eta", 0, 1, shape=8)
            theta = pm.Deterministic("theta", mu + tau * eta)
            pm.Normal("y", theta, pm.Data("sigma", ERRORS), observed=EFFECTS)
        found = vi.from_pymc(model)
        assert jax.config.read("jax_enable_x64") == precision
        assert set(found.start) == {"mu", "tau_log__", "eta"}
        assert found.start["eta"].dtype == (jnp.float64 if precision else jnp.float32)
        check_schools(found)
        values = found.constrain(like(found.start, Z[0], Z[1], Z[2:]))
    assert set(values) == {"mu", "tau", "eta", "theta"}
    np.testing.assert_allclose(values["theta"], Z[0] + np.exp(Z[1]) * Z[2:], rtol=1e-5)


@pymc_is_installed
@pytest.mark.filterwarnings("ignore")  # of ArviZ, and of PyTensor without BLAS
def test_pymc_recipe(pm):
    page = DOCS / "recipes_interop.md"
    (code,) = [code for code in blocks(page, "py") if "import pymc" in code]
    z = {"mu": jnp.float32(3.0), "tau": jnp.float32(1.0), "eta": jnp.ones(8)}
    names = {"EFFECTS": Y, "ERRORS": SIGMA, "vi": vi, "z": z, "model": vi.from_numpyro(schools, Y)}
    for line, obtained, expected in run_block(page, code, names):
        assert obtained == expected, line


@pymc_is_installed
@pytest.mark.filterwarnings("ignore")  # of ArviZ, and of PyTensor without BLAS
def test_pymc_jacobians_and_refusals(pm):
    with pm.Model() as simplex:
        pm.Dirichlet("p", np.array([1.0, 2.0, 3.0]))
    assert mass(vi.from_pymc(simplex)) == pytest.approx(1, abs=1e-3)
    with pm.Model() as discrete:
        pm.Poisson("k", 3.0)
    with pytest.raises(ValueError, match="'k' is discrete; sum it out, .*marginalize"):
        vi.from_pymc(discrete)
    with pm.Model() as angle:
        pm.VonMises("angle", 0, 1)
    with pytest.raises(ValueError, match="'angle' is periodic, .*; give the variable default_tr"):
        vi.from_pymc(angle)
    with pm.Model() as proper:
        edges = pm.distributions.transforms.Interval(-np.pi, np.pi)
        pm.VonMises("angle", np.zeros(2), 1, default_transform=edges)
    assert mass(vi.from_pymc(proper)) == pytest.approx(1, abs=1e-3)
    with pm.Model() as random:
        batch = pm.Minibatch(np.arange(10.0), batch_size=3)
        pm.Normal("y", pm.Normal("a"), 1, observed=batch, total_size=10)
    with pytest.raises(ValueError, match="model: expected a log-density .* pm.Minibatch all its r"):
        vi.from_pymc(random)
    with pm.Model() as empty:
        pm.Normal("x", 0, 1, observed=1.0)
    with pytest.raises(ValueError, match="at least one latent variable"):
        vi.from_pymc(empty)
    with pytest.raises(
        TypeError, match=re.escape("model: expected a pymc.Model, got builtins.int")
    ):
        vi.from_pymc(3)
