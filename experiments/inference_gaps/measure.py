"""log p(x) of trained VAEs by two methods, and the two parts of log p(x) - ELBO."""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.stats import t

from experiments.inference_gaps import models
from experiments.inference_gaps.config import Config
from experiments.inference_gaps.models import FAMILIES, Trained
from experiments.vae import measure as vaes
from experiments.vae.config import Config as VaeConfig
from lvm_jax import annealing, decomposition, evidence
from lvm_jax.decomposition import Account, Ascent, Gaps
from lvm_jax.estimate import Estimate
from lvm_jax.evidence import Annealed, Bidirectional, Evidence
from lvm_jax.evidence.result import TRUSTED_K_HAT
from lvm_jax.report import Check, Run, near, plain, point_ids
from lvm_jax.typing import Bool

LEVEL = 0.95  # of the intervals
BEYOND = 3.0  # errors by which an ELBO exceeds log p, to count log p as too low


class Inputs(NamedTuple):
    """Checked inputs; the models are `loaded`, or `prepared` for training."""

    names: list[str]
    loaded: list[Trained]
    prepared: list[vaes.Prepared]
    x: np.ndarray  # [N, D], the images to measure
    is_train: np.ndarray  # [N]
    source: str


class Found(NamedTuple):
    """The results of one model: log p of N images, bounds on simulated data, and the gaps."""

    annealed: Annealed  # leaves [N, ...]
    importance: Evidence  # [N]
    bounds: Bidirectional
    gaps: Gaps  # [N]


@dataclass(frozen=True)
class Result:
    """The result of the run."""

    config: Config
    trained: list[Trained]
    found: dict[str, Found]  # by the name of the model
    is_train: np.ndarray  # [N], true for training images
    source: str  # of the images
    account: Account | None
    points: dict[str, np.ndarray]

    @property
    def numbers(self) -> dict[str, Any]:
        """The content of results.json."""
        by_name = {
            one.name: {
                "description": asdict(one.architecture),
                "folder": one.folder,
                **summary(self.found[one.name], self.is_train),
            }
            for one in self.trained
        }
        rows = None
        if self.account is not None:
            rows = [
                {"part": part, "quantity": quantity, **mean._asdict()}
                for part, quantity, mean in self.account.as_rows()
            ]
        return {"data": self.source, "models": by_name, "account": rows}


def load(config: Config) -> Inputs:
    """Read the images, and load the models or prepare their training."""
    loaded = models.load_models(config.models)
    prepared = [] if loaded else [vaes.load(one) for one in models.vae_configs(config)]
    names = [one.name for one in loaded] or list(config.guides)
    if config.account is not None and config.account not in names:
        raise ValueError(f"account: expected one of {', '.join(names)}, got {config.account!r}")
    if loaded:
        data = models.common_data([one.folder for one in loaded])
        pixels = vaes.load_pixels(VaeConfig(**data))
    else:
        data, pixels = {"seed": config.seed}, prepared[0].pixels
    for one in (*loaded, *prepared):
        models.check_architecture(one.architecture, pixels, config)
    chosen = pixels.choose(config.num_points, data["seed"])
    parts = [chosen.rows["train"], chosen.rows["test"]]
    is_train = np.repeat([True, False], [len(part) for part in parts])
    return Inputs(names, loaded, prepared, np.concatenate(parts), is_train, pixels.images.source)


def measure(config: Config, run: Run, inputs: Inputs) -> Result:
    """Train the models unless loaded, measure each, and compute the account of one."""
    run.begin(len(inputs.prepared) + 4 * len(inputs.names) + (config.account is not None))
    trained, found = train(inputs, run), {}
    for one in trained:
        found[one.name] = measure_one(one, inputs.x, config, run)
        run.log(model=one.name, **summary(found[one.name], inputs.is_train))
    account = None
    if config.account is not None:
        (chosen,) = (one for one in trained if one.name == config.account)
        gaps = gaps_of(found[chosen.name].gaps, ~inputs.is_train)
        account = run.stage("account", whole_account, chosen, gaps, inputs, config)
        account = account._replace(gaps=gaps)
        title = f"The account of the VAE with the guide {config.account}"
        lead = f"Over the {(~inputs.is_train).sum()} test images of the run."
        run.write("account.html", decomposition.report(account, title, lead))
    points = points_of(inputs, found)
    return Result(config, trained, found, inputs.is_train, inputs.source, account, points)


def checks(result: Result) -> list[Check]:
    """The sum of both gaps, and the order of the chains' bounds."""
    rows = []
    for name, one in result.found.items():
        gap, error = map(float, one.bounds.gap)
        rows.append(Check(f"{name}: gap of bounds", gap, -5 * error - 1e-3, np.inf, "at least 0"))
        for split, part in one.gaps.families.items():
            left = part.approximation.value + part.amortization.value - one.gaps.inference.value
            rows.append(near(f"{name}, {split}: sum of gaps", np.abs(left).max(), 0.0, 1e-2))
    if result.config == Config():
        gap = summary(result.found["mean_field"], result.is_train)["test"]["inference"]["value"]
        rows.append(near("mean_field: log p - ELBO, test", gap, 0.70, 0.3, "of the default"))
    return rows


def train(inputs: Inputs, run: Run) -> list[Trained]:
    """The loaded models, or trained ones, each in a folder as of a run of `vae`."""
    trained = list(inputs.loaded)
    for name, prepared in zip(inputs.names, inputs.prepared, strict=False):
        values = {"experiment": "vae", **plain(prepared.config)}
        folder = run.write_json(f"models/{name}/config.json", values).parent
        fit = vaes.train(
            prepared, folder, lambda text, share, name=name: run.note(f"{name}: {text}", share)
        )
        run.done(f"{name}: trained, validation bound {fit.history.validation_bound[-1]:.2f}")
        trained.append(Trained(name, prepared.architecture, fit.p, fit.q, folder))
    return trained


def measure_one(one: Trained, x: np.ndarray, config: Config, run: Run) -> Found:
    """The results of one model. All models use the same keys, which reduces noise of differences."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1), 4)
    common = (one.p, one.q)
    chains = common if config.start == "guide" else (one.p, None)
    moves, number = annealing.hmc(config.num_leapfrogs), config.num_chains
    plan = annealing.plan(annealing.sigmoid(config.num_temperatures), moves, adaptive=True)

    def stage(name: str, *args: Any, **options: Any) -> Any:
        return run.stage(f"{one.name}: {name}", *args, **options)

    size, count = config.num_simulated, config.importance_samples
    bounds = stage("its own data", evidence.bidirectional, keys[0], *chains, size, number, plan)
    annealed = stage("annealing", evidence.evaluate_annealed, keys[1], *chains, x, number, plan)
    importance = stage("importance sampling", evidence.evaluate, keys[2], *common, x, count)
    reference = annealed.evidence
    if config.reference == "larger":
        reference = evidence.larger(annealed.evidence, importance)
    gaps = stage(
        *("gaps", decomposition.gaps, keys[3], *common, x),
        families=models.families(one.architecture, config),
        log_evidence=reference,
        num_samples=config.num_samples,
        ascent=Ascent(config.num_steps, config.num_draws, config.num_starts),
    )
    return Found(annealed, importance, bounds, gaps)


def part_of(tree: Any, rows: Bool[np.ndarray, " N"]) -> Any:
    """The points `rows` of leaves [N, ...]; strings are unchanged."""
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, str) else leaf[rows], tree)


def gaps_of(gaps: Gaps, rows: Bool[np.ndarray, " N"]) -> Gaps:
    """The gaps of the points `rows`; the families keep their order, which jax.tree changes."""
    part: Gaps = part_of(gaps, rows)
    return part._replace(families={name: part.families[name] for name in FAMILIES})


def estimated(found: Evidence) -> Estimate:
    """The evidence of N points as numbers with errors."""
    return Estimate(found.log_evidence, found.standard_error)


def mean(found: Estimate) -> dict[str, float | tuple[float, float]]:
    """A mean over the points, its two errors, and the interval for the population."""
    numbers = jax.tree.map(float, found.average())
    half = t.ppf(0.5 + LEVEL / 2, len(found.value) - 1) * numbers.sampling_error
    return {**numbers._asdict(), "interval": (numbers.value - half, numbers.value + half)}


def rows_of(is_train: Bool[np.ndarray, " N"]) -> dict[str, Bool[np.ndarray, " N"]]:
    """The rows of the training and test images."""
    return {"train": is_train, "test": ~is_train}


def summary(found: Found, is_train: Bool[np.ndarray, " N"]) -> dict[str, Any]:
    """The entry of one model in results.json."""
    return {
        "simulated": {
            name + ending: float(number)
            for name in ("lower", "upper", "gap")
            for ending, number in zip(("", "_error"), getattr(found.bounds, name), strict=True)
        },
        "acceptance": float(found.annealed.acceptance.mean()),
        **{name: part_summary(found, rows) for name, rows in rows_of(is_train).items()},
    }


def part_summary(found: Found, rows: Bool[np.ndarray, " N"]) -> dict[str, Any]:
    """Means of log p, ELBO and gaps of the training or the test images, with errors."""
    gaps = gaps_of(found.gaps, rows)
    ways = {"annealed": found.annealed.evidence, "importance": found.importance}
    ways["larger"] = evidence.larger(*ways.values())
    return {
        "num_points": int(rows.sum()),
        "log_p": {name: mean(estimated(part_of(way, rows))) for name, way in ways.items()},
        "untrusted": {name: untrusted(part_of(way, rows)) for name, way in ways.items()},
        "elbo": mean(gaps.elbo),
        "inference": mean(gaps.inference),
        "families": {
            name: {
                "elbo": mean(one.elbo),
                "approximation": mean(one.approximation),
                "amortization": mean(one.amortization),
                "gain": mean(one.gain),
                "above_log_p": above_log_p(one.approximation),
            }
            for name, one in gaps.families.items()
        },
    }


def untrusted(found: Evidence) -> int | None:
    """The number of points with k-hat above 0.7; None with too few weights for k-hat."""
    if np.isinf(found.k_hat).all():
        return None
    return int((~(np.asarray(found.k_hat) <= TRUSTED_K_HAT)).sum())


def above_log_p(approximation: Estimate) -> int:
    """The number of points where an ELBO significantly exceeds log p, which is then too low."""
    return int((approximation.value < -BEYOND * approximation.standard_error).sum())


def whole_account(one: Trained, gaps: Gaps, inputs: Inputs, config: Config) -> Account:
    """`decomposition.account` of one model over the test images, with the log p of `gaps`."""
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    x, given = inputs.x[~inputs.is_train], gaps.log_evidence.value
    return decomposition.account(key, one.p, one.q, x, families={}, log_evidence=given)


def points_of(inputs: Inputs, found: dict[str, Found]) -> dict[str, np.ndarray]:
    """Arrays [N] of the images: log p by both methods, the ELBO and its gaps, by model."""
    points = {"point": point_ids(inputs.x), "is_train": inputs.is_train}
    for name, one in found.items():
        for way, own in (("", one.annealed.evidence), ("importance_", one.importance)):
            for field in ("log_evidence", "standard_error", "k_hat", "failed"):
                points[f"{name}.{way}{field}"] = getattr(own, field)
        numbers = {"elbo": one.gaps.elbo, "inference_gap": one.gaps.inference}
        for word, part in one.gaps.families.items():
            numbers[f"{word}.approximation_gap"] = part.approximation
            numbers[f"{word}.amortization_gap"] = part.amortization
        for field, number in numbers.items():
            points[f"{name}.{field}"], points[f"{name}.{field}_error"] = number
    return points
