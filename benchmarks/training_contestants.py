"""The contestants of `benchmarks.training`: one measurement each, in its own process.

All train 784-200-200-50 tanh networks on the same images, binarised anew in every step, with the
same optimiser and batches of rows in random order. Times are for one step.
"""

import os
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import harness
from benchmarks.decoder import HIDDEN, LATENT, PIXELS
from benchmarks.training_floor import per_step, product
from lvm_jax import bounds, data, gradients, guides, likelihoods, models, networks, priors, training
from lvm_jax.training.step import Keys

WIDTHS = (HIDDEN, HIDDEN)
MORE = 2  # additional epochs of the longer training
SHORT, AGREE = 20, 0.01  # steps after which the bounds of both trainings must agree to these nats
OPTIMIZER = optax.adam(1e-3, eps=1e-4)
DECODER = networks.mlp(LATENT, WIDTHS, PIXELS)
ENCODER = networks.mlp(PIXELS, WIDTHS, 2 * LATENT)
MODEL = models.deep_latent_gaussian(
    priors.standard_normal(LATENT), DECODER, likelihoods.bernoulli(PIXELS)
)
ESTIMATE = gradients.reparameterized(bounds.iwae)  # one object, so that programs are reused
GUIDE = guides.amortized(guides.mean_field(LATENT), ENCODER.init, ENCODER.apply)


def images(case: dict[str, Any]) -> np.ndarray:
    """The first rows of MNIST if LVM_JAX_DATA is set, else as many rows of random bits."""
    if os.environ.get("LVM_JAX_DATA"):
        return data.load_images("mnist").train[: case["images"]]
    return random_bits(case)


def random_bits(case: dict[str, Any]) -> np.ndarray:
    """Random bits with the mean of MNIST."""
    rng = np.random.default_rng(case["seed"])
    return (rng.random((case["images"], PIXELS), np.float32) < 0.13).astype(np.float32)


def start(case: dict[str, Any]) -> training.Parameters:
    """The initial parameters of all contestants."""
    key_theta, key_phi = jax.random.split(jax.random.key(case["seed"]))
    return training.Parameters(MODEL.init(key_theta), GUIDE.init(key_phi))


def lvm_jax_and_scan(case: dict[str, Any]) -> dict[str, Any]:
    """Alternating whole trainings by fit and by hand, from rows on the host to a result there.

    Two lengths separate the time of a step from the fixed cost of a training: checks, and the copy
    of the rows to the device. Raises ValueError if the bounds differ after SHORT steps; after an
    epoch rounding may separate the trajectories.
    """
    x = images(case)
    check = [train() for train in pair({**case, "epochs": 1}, x[: SHORT * case["batch"]])]
    if not abs(check[0] - check[1]) < AGREE:
        raise ValueError(f"bounds: expected the same within {AGREE} nats, got {check}")
    short, long = pair(case, x), pair({**case, "epochs": case["epochs"] + MORE}, x)
    reached = [train() for train in short]
    for train in long:
        train()
    whole: list[list[float]] = [[], []]
    steps: list[list[float]] = [[], []]
    for turn in range(case["repeats"]):
        for which in (0, 1) if turn % 2 else (1, 0):
            once, more = (harness.seconds(trainings[which], 1)[0] for trainings in (short, long))
            whole[which].append(once / case["epochs"])
            steps[which].append((more - once) / (MORE * (len(x) // case["batch"])))
    ratio = lambda times: statistics.median(a / b for a, b in zip(*times, strict=True))  # noqa: E731
    return {
        "seconds": statistics.median(steps[0]),
        "scan_seconds": statistics.median(steps[1]),
        "ratio": ratio(steps),
        "epoch_seconds": statistics.median(whole[0]),
        "scan_epoch_seconds": statistics.median(whole[1]),
        "epoch_ratio": ratio(whole),
        "peak_mb": harness.peak_megabytes(),
        "bound": reached[0],
        "scan_bound": reached[1],
        "short_difference": check[0] - check[1],
    }


def pair(case: dict[str, Any], x: np.ndarray) -> tuple[Callable[[], float], Callable[[], float]]:
    """The two trainings, which return the last epoch's mean bound."""
    parameters, key, loop = start(case), jax.random.key(case["seed"] + 1), scan(case, x)

    def by_fit() -> float:
        found = training.fit(
            key, training.Separate(MODEL, GUIDE), parameters, x,
            estimate=ESTIMATE, num_samples=case["samples"], optimizer=OPTIMIZER,
            batch_size=case["batch"], num_epochs=case["epochs"],
            transform=data.BINARIZATIONS["dynamic"].transform,
        )  # fmt: skip
        return float(found.history.bound[-1])

    return by_fit, lambda: loop(key, parameters)


def dense(layers: Any, h: jax.Array) -> jax.Array:
    """The tanh network of `networks.mlp`, for any number of rows."""
    for name in ("hidden_0", "hidden_1"):
        h = jnp.tanh(h @ layers[name]["kernel"] + layers[name]["bias"])
    return h @ layers["output"]["kernel"] + layers["output"]["bias"]


def scan(case: dict[str, Any], x: np.ndarray) -> Callable[[Any, training.Parameters], float]:
    """Training by hand, for whole batches, with the random numbers of `fit`."""
    samples, batch = case["samples"], case["batch"]
    length = len(x) // batch

    def loss(parameters: training.Parameters, keys: jax.Array, rows: jax.Array) -> jax.Array:
        theta, phi = parameters
        key_bits, key_noise = jax.vmap(jax.random.split, out_axes=1)(keys)
        bits = jax.vmap(jax.random.bernoulli)(key_bits, rows).astype(jnp.float32)
        loc, log_scale = jnp.split(dense(phi.network, bits), 2, axis=-1)
        loc, log_scale = loc + phi.offset.loc, log_scale + phi.offset.log_scale
        noise = jax.vmap(lambda key: jax.random.normal(key, (samples, LATENT)))(key_noise)
        z = loc[:, None] + jnp.exp(log_scale)[:, None] * noise
        logits = dense(theta.decoder, z)
        log_w = (bits[:, None] * logits - jax.nn.softplus(logits)).sum(-1)
        log_w += 0.5 * (noise**2 - z**2).sum(-1) + log_scale.sum(-1)[:, None]
        return -(jax.nn.logsumexp(log_w, axis=1) - np.log(samples)).mean()

    @jax.jit
    def epoch(keys: Keys, number: Any, carry: Any, x: jax.Array) -> Any:
        order = jax.random.permutation(jax.random.fold_in(keys.order, number), len(x))

        def step(carry: Any, place: jax.Array) -> Any:
            parameters, state = carry
            rows = x[jax.lax.dynamic_slice(order, (place * batch,), (batch,))]
            noise = jax.random.fold_in(keys.noise, number * length + place)
            found = jax.value_and_grad(loss)(parameters, jax.random.split(noise, batch), rows)
            updates, state = OPTIMIZER.update(found[1], state, parameters)
            return (optax.apply_updates(parameters, updates), state), -found[0]

        return jax.lax.scan(step, carry, jnp.arange(length))

    def run(key: jax.Array, parameters: training.Parameters) -> float:
        keys = Keys(*jax.random.split(key, len(Keys._fields)))
        carry, rows = (parameters, OPTIMIZER.init(parameters)), jnp.asarray(x)
        for number in range(case["epochs"]):
            carry, found = epoch(keys, number, carry, rows)
        jax.block_until_ready(carry)
        return float(np.asarray(found).mean())

    return run


def numpyro(case: dict[str, Any]) -> dict[str, Any]:
    """SVI.update in a scan over the batches, as in NumPyro's VAE example."""
    import numpyro as npy
    from numpyro import distributions as dist
    from numpyro import infer

    x, (theta, phi) = jnp.asarray(images(case)), start(case)

    def model(bits: jax.Array) -> None:
        layers = npy.param("theta$params", theta.decoder)
        with npy.plate("N", bits.shape[0]):
            z = npy.sample("z", dist.Normal(0.0, 1.0).expand([LATENT]).to_event(1))
            npy.sample("x", dist.Bernoulli(logits=dense(layers, z)).to_event(1), obs=bits)

    def guide(bits: jax.Array) -> None:
        out = dense(npy.param("phi$params", phi.network), bits)
        loc, log_scale = jnp.split(out, 2, axis=-1)
        with npy.plate("N", bits.shape[0]):
            npy.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    renyi = case["contestant"] == "numpyro_renyi"
    make = partial(infer.RenyiELBO, alpha=0.0) if renyi else infer.Trace_ELBO
    svi = infer.SVI(model, guide, OPTIMIZER, make(num_particles=case["samples"]))
    state = svi.init(jax.random.key(case["seed"] + 1), x[: case["batch"]])

    def step(state: Any, key: jax.Array, rows: jax.Array) -> tuple[Any, jax.Array]:
        return svi.update(state, jax.random.bernoulli(key, rows).astype(jnp.float32))

    return on_device(case, step, state, x)


def on_device(case: dict[str, Any], step: Any, state: Any, x: jax.Array) -> dict[str, Any]:
    """Seconds of a step(state, key, rows) in a scan over an epoch's first batches."""
    batch = case["batch"]

    @jax.jit
    def epoch(key: jax.Array, state: Any, x: jax.Array) -> Any:
        order = jax.random.permutation(key, len(x))

        def one(state: Any, place: jax.Array) -> Any:
            rows = x[jax.lax.dynamic_slice(order, (place * batch,), (batch,))]
            return step(state, jax.random.fold_in(key, place), rows)

        return jax.lax.scan(one, state, jnp.arange(case["steps"]))

    key = jax.random.key(case["seed"] + 2)
    return per_step(lambda: jax.block_until_ready(epoch(key, state, x)), case)


def flax(case: dict[str, Any]) -> dict[str, Any]:
    """A jitted step on a TrainState, a batch at a time from the host, as in flax's VAE example."""
    from flax import linen as nn
    from flax.training.train_state import TrainState

    class VAE(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, key: jax.Array) -> Any:
            for width in WIDTHS:
                x = nn.tanh(nn.Dense(width)(x))
            mean, log_variance = nn.Dense(LATENT)(x), nn.Dense(LATENT)(x)
            h = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
            for width in WIDTHS:
                h = nn.tanh(nn.Dense(width)(h))
            return nn.Dense(PIXELS)(h), mean, log_variance

    @jax.jit
    def train(state: Any, rows: jax.Array, key: jax.Array) -> Any:
        key_bits, key_z = jax.random.split(key)
        bits = jax.random.bernoulli(key_bits, rows).astype(jnp.float32)

        def loss(params: Any) -> jax.Array:
            logits, mean, log_variance = state.apply_fn({"params": params}, bits, key_z)
            entropy = optax.sigmoid_binary_cross_entropy(logits, bits).sum(-1)
            kl = -0.5 * (1 + log_variance - mean**2 - jnp.exp(log_variance)).sum(-1)
            return (entropy + kl).mean()

        return state.apply_gradients(grads=jax.grad(loss)(state.params))

    x, vae, key, batch = images(case), VAE(), jax.random.key(case["seed"]), case["batch"]
    params = vae.init(key, jnp.zeros((batch, PIXELS)), key)["params"]
    first = TrainState.create(apply_fn=vae.apply, params=params, tx=OPTIMIZER)

    def run() -> None:
        state, rng = first, jax.random.key(case["seed"] + 1)
        order = np.random.default_rng(case["seed"]).permutation(len(x))
        for place in range(case["steps"]):
            rng, key = jax.random.split(rng)
            state = train(state, x[order[place * batch : (place + 1) * batch]], key)
        jax.block_until_ready(state)

    return per_step(run, case)


JOBS = {
    "lvm_jax": lvm_jax_and_scan,
    "numpyro_elbo": numpyro,
    "numpyro_renyi": numpyro,
    "flax": flax,
    "product": product,
}
