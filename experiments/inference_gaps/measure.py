"""log p(x) of trained VAEs in two ways, and the split of log p(x) - ELBO for each image."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.stats import t

from experiments.inference_gaps.config import GUIDES, Config
from experiments.vae import measure as vaes
from experiments.vae.config import Config as VaeConfig
from lvm_jax import annealing, decomposition, evidence, guides, training
from lvm_jax.decomposition import Account, Ascent, Gaps
from lvm_jax.estimate import Estimate
from lvm_jax.evidence import Annealed, Bidirectional, Evidence
from lvm_jax.evidence.result import TRUSTED_K_HAT
from lvm_jax.guides import Family
from lvm_jax.models import Joint
from lvm_jax.report import Check, Run, near, plain, point_ids
from lvm_jax.typing import Bool, ConditionalDensity
from lvm_jax.vae import Architecture, Pixels, family

MEAN_FIELD, FULL_COVARIANCE, FLOW = FAMILIES = ("mean-field", "full covariance", "flow")
OWN = {"mean_field": MEAN_FIELD, "full_rank": FULL_COVARIANCE, "iaf": FLOW, "coupling": FLOW}
# The options of `vae` that decide the images, and those that both experiments have.
DATA = ("dataset", "split", "binarization", "likelihood", "levels", "seed")
SAME = ("epochs", "decay_epochs", "batch_size", "learning_rate", "hidden", "activation",
        "flow_layers", "flow_hidden", "likelihood", "dataset", "split", "seed")  # fmt: skip
LEVEL = 0.95  # of the intervals
BEYOND = 3.0  # errors by which an ELBO exceeds an estimate of log p that is too low


class Trained(NamedTuple):
    """A VAE, and its folder."""

    name: str
    architecture: Architecture
    p: Joint
    q: ConditionalDensity
    folder: Path

    @property
    def own(self) -> str:
        """The family of the guide's q."""
        return OWN[self.architecture.guide]


class Inputs(NamedTuple):
    """Checked inputs; the models are `loaded`, or `prepared` for training."""

    names: list[str]
    loaded: list[Trained]
    prepared: list[vaes.Prepared]
    x: np.ndarray  # [N, D], the images to measure
    is_train: np.ndarray  # [N]
    source: str


class Found(NamedTuple):
    """One model: log p of N images in two ways, bounds of log p on its own data, and the gaps."""

    annealed: Annealed  # leaves [N, ...]
    importance: Evidence  # [N]
    bounds: Bidirectional
    gaps: Gaps  # [N]


@dataclass(frozen=True)
class Result:
    """What the run measured."""

    config: Config
    trained: list[Trained]
    found: dict[str, Found]  # by the name of the model
    is_train: np.ndarray  # [N], whether the models were trained on the image
    source: str  # of the images
    account: Account | None
    points: dict[str, np.ndarray]

    @property
    def numbers(self) -> dict[str, Any]:
        """What results.json holds."""
        models = {
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
        return {"data": self.source, "models": models, "account": rows}


def load(config: Config) -> Inputs:
    """Read the images, and the models or what it takes to train them."""
    loaded = load_models(config.models)
    prepared = [] if loaded else [vaes.load(one) for one in vae_configs(config)]
    names = [one.name for one in loaded] or list(config.guides)
    if config.account is not None and config.account not in names:
        raise ValueError(f"account: expected one of {', '.join(names)}, got {config.account!r}")
    if loaded:
        data = common_data([one.folder for one in loaded])
        pixels = vaes.load_pixels(VaeConfig(**data))
    else:
        data, pixels = {"seed": config.seed}, prepared[0].pixels
    for one in (*loaded, *prepared):
        check_architecture(one.architecture, pixels, config)
    chosen = pixels.choose(config.num_points, data["seed"])
    parts = [chosen.rows["train"], chosen.rows["test"]]
    is_train = np.repeat([True, False], [len(part) for part in parts])
    return Inputs(names, loaded, prepared, np.concatenate(parts), is_train, pixels.images.source)


def measure(config: Config, run: Run, inputs: Inputs) -> Result:
    """Train the models that are not loaded, then measure each, and the account of one."""
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
    """Facts of every run: both gaps add up, and the chains' upper bound is above the lower one."""
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


# Models


def vae_configs(config: Config) -> list[VaeConfig]:
    """The options of `vae` for each guide: one decoder, one seed, one way of training."""
    binarization = config.binarization
    if binarization is None and (config.dataset, config.likelihood) == ("digits", "bernoulli"):
        binarization = "threshold"
    values: dict[str, Any] = {name: getattr(config, name) for name in SAME}
    values |= {"latent_dims": (config.latent_dim,), "evaluated": config.num_points}
    made = [VaeConfig(guide=g, binarization=binarization, **values) for g in config.guides]
    for one in made:
        one.check()
    return made


def train(inputs: Inputs, run: Run) -> list[Trained]:
    """The loaded models, or those that are trained now, each in a folder like a run of `vae`."""
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


def load_models(folders: tuple[Path, ...]) -> list[Trained]:
    """The models of run folders, named by their guides, and by their folders if these repeat."""
    loaded = []
    for folder in map(Path, folders):
        saved = training.load(folder)
        a = Architecture(**saved.config)
        if a.guide not in GUIDES:
            raise ValueError(
                f"models: expected guides of {', '.join(GUIDES)}, got {a.guide!r} in {folder}"
            )
        loaded.append(Trained(a.guide, a, saved.p, saved.q, folder))
    words = [one.name for one in loaded]
    for place, one in enumerate(loaded):
        if words.count(one.name) > 1:
            loaded[place] = one._replace(name=f"{one.name} in {one.folder.name}")
    names = [one.name for one in loaded]
    if len(set(names)) < len(names):
        raise ValueError(f"models: expected folders of different names, got {names}")
    return loaded


def common_data(folders: list[Path]) -> dict[str, Any]:
    """The options that decide the images on which the models of these runs were trained."""
    found = []
    for folder in folders:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not set(DATA) <= values.keys():
            raise ValueError(f"models: expected folders of runs of `vae`, got {folder}")
        found.append({name: values[name] for name in DATA})
        changed = [name for name in DATA if found[0][name] != found[-1][name]]
        if changed:
            both = f"{changed[0]}: {found[0][changed[0]]} and {found[-1][changed[0]]}"
            raise ValueError(f"models: expected one set of images for all, got {both}")
    return found[0]


def check_architecture(a: Architecture, pixels: Pixels, config: Config) -> None:
    """Refuse a model of other images, and local families or chains that its guide cannot have."""
    families(a, config)
    if (a.shape, a.encoder_scale) != (pixels.images.shape, pixels.high):
        raise ValueError(
            f"models: expected a model of {pixels.images.shape} images with pixels up to "
            f"{pixels.high:g}, got {a.shape} and {a.encoder_scale}"
        )
    if a.guide == "iaf" and config.start == "guide":
        raise ValueError(
            "start: expected prior with an iaf guide, whose density has no gradient for the moves "
            "of the chains, got 'guide'"
        )


def families(a: Architecture, config: Config) -> dict[str, Family]:
    """The families of local q; a flow guide's own flow, so that its q is among the starts."""
    (dim,) = a.latent_dims
    flow = guides.flow_family(config.flow, dim, config.flow_layers, config.flow_hidden)
    return {
        MEAN_FIELD: guides.mean_field(dim),
        FULL_COVARIANCE: guides.full_rank(dim),
        FLOW: family(a) if OWN[a.guide] == FLOW else flow,
    }


# Measurements


def measure_one(one: Trained, x: np.ndarray, config: Config, run: Run) -> Found:
    """All numbers of one model. Every model gets the same keys, so that differences vary less."""
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
        families=families(one.architecture, config),
        log_evidence=reference,
        num_samples=config.num_samples,
        ascent=Ascent(config.num_steps, config.num_draws, config.num_starts),
    )
    return Found(annealed, importance, bounds, gaps)


def part_of(tree: Any, rows: Bool[np.ndarray, " N"]) -> Any:
    """The points `rows` of leaves [N, ...]; texts stay."""
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, str) else leaf[rows], tree)


def gaps_of(gaps: Gaps, rows: Bool[np.ndarray, " N"]) -> Gaps:
    """The gaps of the points `rows`, the families in their order; jax sorts them by name."""
    part: Gaps = part_of(gaps, rows)
    return part._replace(families={name: part.families[name] for name in FAMILIES})


def estimated(found: Evidence) -> Estimate:
    """The evidence of N points as numbers with errors."""
    return Estimate(found.log_evidence, found.standard_error)


def mean(found: Estimate) -> dict[str, float | tuple[float, float]]:
    """A mean over the points, its two errors, and the interval for other points of their kind."""
    numbers = jax.tree.map(float, found.average())
    half = t.ppf(0.5 + LEVEL / 2, len(found.value) - 1) * numbers.sampling_error
    return {**numbers._asdict(), "interval": (numbers.value - half, numbers.value + half)}


def rows_of(is_train: Bool[np.ndarray, " N"]) -> dict[str, Bool[np.ndarray, " N"]]:
    """The rows of both parts."""
    return {"train": is_train, "test": ~is_train}


def summary(found: Found, is_train: Bool[np.ndarray, " N"]) -> dict[str, Any]:
    """What results.json holds of one model."""
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
    """log p, ELBO and gaps of the training or the test images, means with their errors."""
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
    """Points whose k-hat is above 0.7; None where there are too few weights for one."""
    if np.isinf(found.k_hat).all():
        return None
    return int((~(np.asarray(found.k_hat) <= TRUSTED_K_HAT)).sum())


def above_log_p(approximation: Estimate) -> int:
    """Points where an ELBO exceeds the estimate of log p beyond chance: that one is too low."""
    return int((approximation.value < -BEYOND * approximation.standard_error).sum())


def whole_account(one: Trained, gaps: Gaps, inputs: Inputs, config: Config) -> Account:
    """`decomposition.account` of one model over the test images, with log p of these gaps."""
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    x, given = inputs.x[~inputs.is_train], gaps.log_evidence.value
    return decomposition.account(key, one.p, one.q, x, families={}, log_evidence=given)


def points_of(inputs: Inputs, found: dict[str, Found]) -> dict[str, np.ndarray]:
    """Arrays [N] of the images: log p in both ways, the ELBO and its gaps, by model."""
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
