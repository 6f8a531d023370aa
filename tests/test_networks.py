import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from deep_cases import drawn
from flax import linen, nnx
from model_cases import quick_jit
from scipy.signal import correlate2d
from scipy.special import expit

from lvm_jax import networks

FUNCTIONS = {
    "tanh": np.tanh,
    "relu": lambda u: np.maximum(u, 0),
    "elu": lambda u: np.where(u > 0, u, np.expm1(np.minimum(u, 0))),
    "softplus": lambda u: np.logaddexp(u, 0),
    "gelu": lambda u: 0.5 * u * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3))),
    "silu": lambda u: u * expit(u),
    "identity": lambda u: u,
}


class OwnNnx(nnx.Module):
    """ELU and LayerNorm, as a user writes them."""

    def __init__(self, rngs):
        self.first = nnx.Linear(7, 5, rngs=rngs, param_dtype=jnp.result_type(float))
        self.norm = nnx.LayerNorm(5, rngs=rngs, param_dtype=jnp.result_type(float))
        self.last = nnx.Linear(5, 3, rngs=rngs, param_dtype=jnp.result_type(float))

    def __call__(self, x):
        return self.last(nnx.elu(self.norm(self.first(x))))


class OwnLinen(linen.Module):
    @linen.compact
    def __call__(self, x):
        u = linen.Dense(5, param_dtype=jnp.result_type(float))(x)
        u = linen.elu(linen.LayerNorm(param_dtype=jnp.result_type(float))(u))
        return linen.Dense(3, param_dtype=jnp.result_type(float))(u)


BOTH = {
    "mlp": networks.mlp(7, (5, 4), 3),
    "normed": networks.mlp(7, (5, 5), 3, jnp.sin, layer_norm=True, residual=True),
    "from_nnx": networks.from_nnx(OwnNnx, 7),
    "from_linen": networks.from_linen(OwnLinen(), 7),
    "conv_encoder": networks.conv_encoder((8, 8), 3, (2, 4)),
    "conv_decoder": networks.conv_decoder(3, (8, 8), 2, (4, 2)),
}
SIZES = {
    "mlp": 7,
    "normed": 7,
    "from_nnx": 7,
    "from_linen": 7,
    "conv_encoder": 64,
    "conv_decoder": 3,
}
each_network = pytest.mark.parametrize("name", BOTH)


def inputs(name, *rows):
    return jax.random.normal(jax.random.key(5), (*rows, SIZES[name]))


def away(network):
    """Parameters with biases that are not 0."""
    return drawn(network, seed=0)


def apply(network, params, x):
    return quick_jit(network.apply)(params, x)


def start(network, key):
    return quick_jit(network.init)(key)


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_an_mlp_is_its_formula(x64, activation):
    assert set(networks.ACTIVATIONS) == set(FUNCTIONS)
    network = networks.mlp(7, (5, 4), 3, activation)
    params, x = away(network), 2 * inputs("mlp")
    u = np.asarray(x)
    for name in ("hidden_0", "hidden_1", "output"):
        layer = jax.tree.map(np.asarray, params[name])
        u = u @ layer["kernel"] + layer["bias"]
        u = u if name == "output" else FUNCTIONS[activation](u)
    found = apply(network, params, x)
    assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, u, rtol=1e-12)


def normalize(u, layer):
    away = (u - u.mean()) / np.sqrt(u.var() + 1e-6)
    return away * layer["scale"] + layer["bias"]


def elu(u):
    return FUNCTIONS["elu"](u)


def test_layer_norm_and_residual_are_their_formulas(x64):
    """The second hidden layer has the width of its input, the first has not."""
    params, x = away(BOTH["normed"]), np.asarray(inputs("mlp"))
    p = jax.tree.map(np.asarray, params)
    u = x @ p["hidden_0"]["kernel"] + p["hidden_0"]["bias"]
    u = np.sin(normalize(u, p["norm_0"]))
    v = u @ p["hidden_1"]["kernel"] + p["hidden_1"]["bias"]
    u = u + np.sin(normalize(v, p["norm_1"]))
    want = u @ p["output"]["kernel"] + p["output"]["bias"]
    np.testing.assert_allclose(apply(BOTH["normed"], params, x), want, rtol=1e-10)


@pytest.mark.parametrize(
    ("name", "first", "norm", "last"),
    [("from_nnx", "first", "norm", "last"), ("from_linen", "Dense_0", "LayerNorm_0", "Dense_1")],
)
def test_a_module_of_ones_own_is_its_formula(x64, name, first, norm, last):
    params, x = away(BOTH[name]), np.asarray(inputs("mlp"))
    p = jax.tree.map(np.asarray, params)
    u = elu(normalize(x @ p[first]["kernel"] + p[first]["bias"], p[norm]))
    want = u @ p[last]["kernel"] + p[last]["bias"]
    np.testing.assert_allclose(apply(BOTH[name], params, x), want, rtol=1e-10)
    assert BOTH[name].num_outputs == 3


def test_modules_that_are_no_function_of_one_input_are_refused():
    class Counts(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(7, rngs=rngs)

        def __call__(self, x):
            return self.norm(x[None])[0]

    with pytest.raises(ValueError, match="build: expected a module whose .* got BatchStat too"):
        networks.from_nnx(Counts, 7)
    with pytest.raises(ValueError, match=r"module: expected one whose variables .*'batch_stats'"):
        networks.from_linen(linen.BatchNorm(use_running_average=False), 7)
    with pytest.raises(
        ValueError, match=r"build: expected .* shape \(2, 7\) to a vector, got \(2, 3"
    ):
        networks.from_nnx(OwnNnx, (2, 7))
    with pytest.raises(ValueError, match="activation: expected one of .* did you mean 'tanh'"):
        networks.mlp(2, (3,), 1, "tan")


def test_an_mlp_without_hidden_layers_is_linear(x64):
    network = networks.mlp(2, (), 3)
    params = {"output": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.array([1.0, 0, -1])}}
    assert jax.tree.structure(network.init(jax.random.key(0))) == jax.tree.structure(params)
    np.testing.assert_allclose(network.apply(params, jnp.array([2.0, -1.0])), [-2, -2, -2])


@each_network
def test_parameters_are_a_plain_tree_of_arrays(name):
    keys = jax.random.split(jax.random.key(1), 2)
    stacked = quick_jit(jax.vmap(BOTH[name].init))(keys)

    def plain(node):
        if isinstance(node, dict):
            assert type(node) is dict
            assert all(isinstance(key, str) for key in node)
            return all(plain(child) for child in node.values())
        return isinstance(node, jax.Array) and node.dtype == jnp.float32

    assert plain(stacked)
    # Restarts: many keys at once give what each gives alone.
    alone = quick_jit(BOTH[name].init)
    for place, key in enumerate(keys):
        want = alone(key)
        for got, leaf in zip(jax.tree.leaves(stacked), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(got[place], leaf, rtol=1e-6)


def test_kernels_start_glorot_uniform_and_biases_at_zero():
    network = networks.mlp(300, (200,), 100)
    params, other = (start(network, jax.random.key(seed)) for seed in (0, 1))
    conv = start(networks.conv_decoder(50, (8, 8), 1, (40, 30)), jax.random.key(0))
    fans = [
        (params["hidden_0"], 300 + 200),
        (params["output"], 200 + 100),
        (conv["input"], 50 + 4 * 40),
        (conv["conv_0"], 9 * (40 + 30)),
    ]
    for layer, fan in fans:
        bound, kernel = math.sqrt(6 / fan), np.asarray(layer["kernel"], np.float64)
        assert np.abs(kernel).max() <= bound * (1 + 1e-6)
        # The square of a uniform has mean bound^2 / 3 and variance 4 bound^4 / 45.
        error = bound**2 * math.sqrt(4 / 45 / kernel.size)
        assert abs((kernel**2).mean() - bound**2 / 3) < 5 * error
        assert not np.asarray(layer["bias"]).any()
    assert (other["output"]["kernel"] != params["output"]["kernel"]).mean() > 0.99


def test_rows_become_one_dimension_of_matrix_products():
    # Points times samples, as in evaluation: each layer is one product of 3 * 5 rows.
    network = BOTH["mlp"]
    params, x = away(network), inputs("mlp", 3, 5)
    rows = jax.vmap(jax.vmap(network.apply, (None, 0)), (None, 0))
    program = jax.jit(rows).lower(params, x).compile()
    products = [line for line in program.as_text().splitlines() if " dot(" in line]
    shapes = [line.split(" = ")[1].split("{")[0] for line in products]
    assert sorted(shapes) == ["f32[15,3]", "f32[15,4]", "f32[15,5]"]


def test_merging_costs_nothing_at_run_time():
    network = BOTH["mlp"]

    def by_hand(params, x):
        for name in ("hidden_0", "hidden_1"):
            x = jnp.tanh(x @ params[name]["kernel"] + params[name]["bias"])
        return x @ params["output"]["kernel"] + params["output"]["bias"]

    args = away(network), inputs("mlp", 15)
    costs, operations = zip(
        *(
            (program.cost_analysis()["flops"], operations_of(program.as_text()))
            for f in (network.apply, by_hand)
            for program in [jax.jit(jax.vmap(f, (None, 0))).lower(*args).compile()]
        ),
        strict=True,
    )
    assert costs[0] == costs[1]
    assert operations[0] == operations[1]


def operations_of(text):
    """The sorted operations of a compiled program."""
    calls = [line.split(" = ")[1].split(" ", 1)[1] for line in text.splitlines() if " = " in line]
    return sorted(call.split("(")[0] for call in calls)


def correlate(image, kernel, bias, stride):
    """What a 3 x 3 convolution of stride 1 or 2, padded to ceil(size / stride), gives."""
    out = np.zeros((*image.shape[:2], kernel.shape[-1]))
    for i, o in np.ndindex(kernel.shape[2:]):
        # Padding is one pixel on each side; with stride 2 and an even size, one pixel after.
        out[..., o] += correlate2d(image[..., i], kernel[:, :, i, o], mode="same")
    first = [1 if stride == 2 and size % 2 == 0 else 0 for size in image.shape[:2]]
    return out[first[0] :: stride, first[1] :: stride] + bias


@pytest.mark.parametrize("shape", [(8, 8), (9, 7), (5, 12)])
def test_a_conv_encoder_is_its_formula(x64, shape):
    network = networks.conv_encoder(shape, 4, (2, 3), "tanh")
    params = away(network)
    x = jax.random.normal(jax.random.key(1), (math.prod(shape),))
    u = np.asarray(x).reshape(*shape, 1)
    for name in ("conv_0", "conv_1"):
        layer = jax.tree.map(np.asarray, params[name])
        u = np.tanh(correlate(u, layer["kernel"], layer["bias"], 2))
    last = jax.tree.map(np.asarray, params["output"])
    np.testing.assert_allclose(
        apply(network, params, x), u.ravel() @ last["kernel"] + last["bias"], rtol=1e-10
    )


@pytest.mark.parametrize("shape", [(8, 8), (9, 7), (5, 12)])
def test_a_conv_decoder_is_its_formula(x64, shape):
    network = networks.conv_decoder(3, shape, 2, (3, 2), "tanh")
    assert network.num_outputs == 2 * math.prod(shape)
    params, z = away(network), jnp.array([0.5, -1.0, 2.0])
    first = jax.tree.map(np.asarray, params["input"])
    sizes = [[math.ceil(side / 2**step) for side in shape] for step in (2, 1, 0)]
    u = (np.asarray(z) @ first["kernel"] + first["bias"]).reshape(*sizes[0], 3)
    for name, (height, width) in zip(("conv_0", "output"), sizes[1:], strict=True):
        layer = jax.tree.map(np.asarray, params[name])
        near = np.tanh(u)[np.arange(height) // 2][:, np.arange(width) // 2]
        u = correlate(near, layer["kernel"], layer["bias"], 1)
    found = apply(network, params, z).reshape(2, *shape)  # all first parameters first
    np.testing.assert_allclose(found, np.moveaxis(u, -1, 0), rtol=1e-10)


def test_images_of_mnist_have_the_sizes_that_are_stated():
    encoder, decoder = networks.conv_encoder((28, 28), 10), networks.conv_decoder(5, (28, 28), 3)
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(encoder.init, jax.random.key(0)))
    assert shapes["conv_1"]["kernel"] == (3, 3, 16, 32)
    assert shapes["output"]["kernel"] == (7 * 7 * 32, 10)
    params = jax.eval_shape(decoder.init, jax.random.key(0))
    assert jax.eval_shape(decoder.apply, params, jnp.ones(5)).shape == (3 * 784,)


@each_network
def test_a_batch_is_its_rows_apart(name):
    network, x = BOTH[name], inputs(name, 2)
    params = away(network)

    @quick_jit
    def both(params, x):
        apart = jnp.stack([network.apply(params, row) for row in x])
        return jax.vmap(network.apply, (None, 0))(params, x), apart

    together, apart = both(params, x)
    assert together.shape == (2, network.num_outputs)
    np.testing.assert_allclose(together, apart, rtol=1e-4, atol=1e-5)
    assert np.abs(apart[0] - apart[1]).max() > 0.01


@each_network
def test_the_dtype_is_that_of_the_parameters(x64, name):
    network, x = BOTH[name], inputs(name)
    params = drawn(network, seed=0)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float64")}
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    for held, want in ((params, jnp.float64), (single, jnp.float32)):
        for given in (x, x.astype(jnp.float32), (x > 0).astype(jnp.uint8), x > 0):
            assert jax.eval_shape(network.apply, held, given).dtype == want
    found, want = apply(network, single, x), apply(network, params, x)
    np.testing.assert_allclose(found, want, atol=1e-5)


def apply_to(network, shape):
    return lambda: network.apply(away(network), jnp.ones(shape))


REFUSALS = (
    (ValueError, "num_inputs: expected an integer >= 1", lambda: networks.mlp(0, (), 1)),
    (TypeError, "num_outputs: expected an integer", lambda: networks.mlp(2, (), 1.0)),
    (ValueError, "hidden: expected a sequence of 0 or more", lambda: networks.mlp(2, 200, 1)),
    (ValueError, "hidden: expected an integer >= 1, got 0", lambda: networks.mlp(2, (0,), 1)),
    (ValueError, "did you mean 'tanh'", lambda: networks.mlp(2, (3,), 1, "tanhh")),
    (
        ValueError,
        "channels: expected a sequence of 1",
        lambda: networks.conv_encoder((8, 8), 2, ()),
    ),
    (ValueError, "shape: expected .height, width.", lambda: networks.conv_encoder((8, 8, 1), 2)),
    (ValueError, "shape: expected a sequence of 2", lambda: networks.conv_decoder(2, 64)),
    (ValueError, "outputs_per_pixel: expected", lambda: networks.conv_decoder(2, (8, 8), 0)),
    (ValueError, r"input of shape \(7,\), got \(2, 7\)", apply_to(BOTH["mlp"], (2, 7))),
    (ValueError, r"input of shape \(64,\), got \(8, 8\)", apply_to(BOTH["conv_encoder"], (8, 8))),
    (TypeError, "key: expected a typed key", lambda: BOTH["mlp"].init(0)),
)


@pytest.mark.parametrize(("error", "message", "call"), REFUSALS)
def test_bad_arguments_are_refused(error, message, call):
    with pytest.raises(error, match=message):
        call()
