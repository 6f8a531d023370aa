"""Both bounds of log p(x) on simulated data, and the lower bound on held-out digits."""

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.bdmc.config import Config
from lvm_jax import annealing, data, evidence, gradients, guides, models, training, vae
from lvm_jax.models import Joint
from lvm_jax.report import Check, Run, point_ids
from lvm_jax.training.saved import Saved
from lvm_jax.typing import ConditionalDensity, Key

NAMES = {
    "linear": "linear-Gaussian, from the prior",
    "prior": "digits decoder, from the prior",
    "guide": "digits decoder, from its guide",
}
LINEAR, FROM_PRIOR, FROM_GUIDE = NAMES.values()
HIDDEN, BATCH, RATE = (64,), 128, 2e-3  # of the small VAE
LEVEL = 0.95


class Start(NamedTuple):
    """A model, and the start of its annealing path."""

    name: str
    p: Joint
    q: ConditionalDensity | None  # None: the prior


class Found(NamedTuple):
    """The bounds of one start and one number of temperatures."""

    num_temperatures: int
    bounds: evidence.Bidirectional
    truth: np.ndarray | None  # log p of the simulated points, where it is known, [N]
    seconds: float  # with compilation


class Held(NamedTuple):
    """Held-out images by the longest chains, and by importance sampling from the guide; [N]."""

    log_p: np.ndarray  # annealed
    standard_error: np.ndarray
    importance: np.ndarray
    importance_error: np.ndarray
    k_hat: np.ndarray


@dataclass(frozen=True)
class Result:
    """The result of the run."""

    config: Config
    found: dict[str, list[Found]]  # by the name of the start
    held: dict[str, Held]  # of the decoder, on held-out images
    points: dict[str, np.ndarray]  # of the held-out images

    @property
    def numbers(self) -> dict[str, Any]:
        """Means of the bounds at each length, and of the held-out images."""
        simulated = {name: [_row(one) for one in rows] for name, rows in self.found.items()}
        held = {
            name: {
                "annealed": one.log_p.mean(),
                "importance": one.importance.mean(),
                "sampling_error": one.log_p.std(ddof=1) / len(one.log_p) ** 0.5,
                "untrusted": int((~(one.k_hat <= 0.7)).sum()),
            }
            for name, one in self.held.items()
        }
        return {"simulated": simulated, "held_out": held}


def _row(one: Found) -> dict[str, Any]:
    return {
        "num_temperatures": one.num_temperatures,
        **{
            field + ending: number
            for field in ("lower", "upper", "gap")
            for ending, number in zip(("", "_error"), getattr(one.bounds, field), strict=True)
        },
        "truth": None if one.truth is None else one.truth.mean(),
        "covered": coverage(one),
        "forward_acceptance": one.bounds.sandwich.forward_acceptance.mean(0),
        "seconds": one.seconds,
    }


def coverage(one: Found) -> float | None:
    """Share of the points whose interval contains log p(x); None if log p(x) is not known."""
    if one.truth is None:
        return None
    low, high = one.bounds.sandwich.interval(LEVEL)
    return float(np.mean((np.asarray(low) <= one.truth) & (one.truth <= np.asarray(high))))


def load(config: Config) -> tuple[np.ndarray, np.ndarray, Saved | None]:
    """Training images, held-out images, and the decoder of a run directory."""
    digits = data.binarized(data.load_images("digits"), "threshold", config.seed)
    count = min(config.num_points, len(digits.test))
    rows = np.random.default_rng(config.seed).permutation(len(digits.test))[:count]
    saved = None
    if config.decoder is not None:
        saved = training.load(config.decoder)
        kind, shape = saved.config["likelihood"], saved.config["shape"]
        if kind != "bernoulli" or shape != [8, 8]:
            raise ValueError(
                "decoder: expected a vae of binarised 8x8 digits (--likelihood bernoulli "
                f"--binarization threshold), got {kind} of {shape}"
            )
    return digits.train, digits.test[rows], saved


def measure(config: Config, run: Run, loaded: tuple) -> Result:
    """Both bounds of every model at every length, then the held-out images."""
    train, images, saved = loaded
    decoders = [name for name in config.starts if name != "linear"]
    run.begin(len(config.starts) * len(config.num_temperatures) + len(decoders) + 1)
    starts = make(config, run, train, saved)
    found: dict[str, list[Found]] = {}
    for start in starts:
        found[start.name] = []
        for number in config.num_temperatures:
            one = run.stage(f"{start.name}, T = {number}", both_bounds, start, number, config)
            found[start.name].append(one)
            run.log(num_temperatures=number, problem=start.name, gap=one.bounds.gap.value)
    held = {
        start.name: run.stage(f"{start.name}: held-out images", held_out, start, images, config)
        for start in starts
        if start.name != LINEAR
    }
    return Result(config, found, held, of_points(images, held))


def make(config: Config, run: Run, train: np.ndarray, saved: Saved | None) -> list[Start]:
    """The models with their starts, in the order of the configuration."""
    key_theta, key_train = jax.random.split(jax.random.key(config.seed))
    model = models.linear_gaussian(config.latent_dim, config.dim)
    theta = model.init(key_theta)
    theta = theta._replace(log_noise=jnp.full_like(theta.log_noise, jnp.log(config.noise)))
    made, decoder = {"linear": Start(LINEAR, model(theta), None)}, None
    if set(config.starts) == {"linear"}:
        run.done("no decoder needed")
    elif saved is not None:
        decoder = saved.p, saved.q
        run.done("decoder loaded")
    else:
        pair = vae.build(
            vae.Architecture(
                shape=(8, 8), latent_dims=(config.latent_dim,), hidden=(HIDDEN,), encoder_scale=1.0
            )
        )
        decoder = pair(run.stage("decoder trained", train_decoder, key_train, pair, train, config))
    if decoder is not None:
        made["guide"] = Start(FROM_GUIDE, *decoder)
        made["prior"] = made["guide"]._replace(name=FROM_PRIOR, q=None)
    return [made[name] for name in config.starts]


def train_decoder(
    key: Key, pair: vae.Autoencoder, train: np.ndarray, config: Config
) -> training.Parameters:
    """The parameters of the small VAE."""
    steps = config.epochs * (len(train) // BATCH)
    fit = training.fit(
        key, pair, None, train, estimate=gradients.sticking_the_landing(),
        num_samples=1, optimizer=optax.adam(optax.cosine_decay_schedule(RATE, max(steps, 1))),
        batch_size=BATCH, num_epochs=config.epochs,
    )  # fmt: skip
    return fit.params


def plan(config: Config, num_temperatures: int) -> annealing.Plan:
    """The moves of the configuration, and temperatures placed by pilot chains."""
    moves = {
        "hmc": lambda: annealing.hmc(config.num_leapfrogs),
        "mala": annealing.mala,
        "random_walk": lambda: annealing.random_walk(5),
    }
    return annealing.plan(
        annealing.sigmoid(num_temperatures), moves[config.transition](), adaptive=True
    )


def both_bounds(start: Start, number: int, config: Config) -> Found:
    """Both bounds on points simulated from the model, the same for every number of temperatures."""
    before = time.perf_counter()
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    found = evidence.bidirectional(
        key, start.p, start.q, config.num_points, config.num_chains, plan(config, number)
    )
    bounds = jax.device_get(found)
    seconds = time.perf_counter() - before
    truth = None
    if start.name == LINEAR:
        truth = np.asarray(jax.jit(jax.vmap(start.p.log_evidence))(bounds.x))
    return Found(number, bounds, truth, seconds)


def held_out(start: Start, images: np.ndarray, config: Config) -> Held:
    """Held-out images by the longest chains, and by importance sampling from the guide."""
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    key_annealed, key_importance = jax.random.split(key)
    longest = plan(config, config.num_temperatures[-1])
    annealed = evidence.evaluate_annealed(
        key_annealed, start.p, start.q, images, config.num_chains, longest, num_scouts=0
    ).evidence
    q = start.q or guides.fixed(start.p.prior())(())
    plain = evidence.evaluate(key_importance, start.p, q, images, 5_000)
    return Held(
        *(np.asarray(part) for part in (annealed.log_evidence, annealed.standard_error)),
        *(np.asarray(part) for part in (plain.log_evidence, plain.standard_error, plain.k_hat)),
    )


def of_points(images: np.ndarray, held: dict[str, Held]) -> dict[str, np.ndarray]:
    """All numbers of every held-out image, by start; empty without a decoder."""
    if not held:
        return {}
    columns = {
        f"{field}, {name.removeprefix('digits decoder, ')}": getattr(one, field)
        for name, one in held.items()
        for field in Held._fields
    }
    return {"point": point_ids(images), **columns}


def slope(found: list[Found]) -> float:
    """The least-squares slope of log gap against log T over the upper half of the T."""
    half = found[len(found) // 2 - 1 :]
    lengths = np.log([one.num_temperatures for one in half])
    gaps = np.log([max(float(one.bounds.gap.value), 1e-6) for one in half])
    return float(np.polyfit(lengths, gaps, 1)[0])


def checks(result: Result) -> list[Check]:
    """On the linear-Gaussian model the mean bounds enclose log p(x)."""
    found = []
    for one in result.found.get(LINEAR, []):
        bounds, at = one.bounds, f"T = {one.num_temperatures}"
        for field, sign in (("lower", 1), ("upper", -1)):
            gaps = sign * (one.truth - np.asarray(getattr(bounds.sandwich, field).log_evidence))
            least = -5 * gaps.std(ddof=1) / len(gaps) ** 0.5
            words = f"at least 0 within 5 standard errors, {-least:.2g}"
            name = f"distance of the {field} bound from log p(x), {at}"
            found.append(Check(name, float(gaps.mean()), float(least), np.inf, words))
    return found
