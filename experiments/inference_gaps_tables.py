"""The tables of the `inference_gaps` experiment's report."""

from typing import TYPE_CHECKING, Any

from experiments.inference_gaps_models import FAMILIES
from lvm_jax.report import Table

if TYPE_CHECKING:
    from experiments.inference_gaps import Result

Told = dict[str, dict[str, Any]]  # summary of each model, by its name
PARTS = {"train": "training", "test": "test"}
SPACE = "\N{NO-BREAK SPACE}"
SIDES = ("lower", "upper", "gap")
FIELDS = {
    "elbo": "ELBO of the best q",
    "approximation": "approximation gap",
    "amortization": "amortisation gap",
}


def cell(found: dict[str, Any]) -> str:
    """A mean with both errors."""
    numbers = found["value"], found["monte_carlo_error"], found["sampling_error"]
    return f"{SPACE}±{SPACE}".join(f"{number:.3f}" for number in numbers)


def gap_table(result: "Result", told: Told, part: str) -> Table:
    """Rows as in the table of the paper, a column for each model."""
    reference = result.config.reference
    chosen = [told[one.name][part] for one in result.trained]
    rows = [
        (f"log p ({reference})", *(cell(c["log_p"][reference]) for c in chosen)),
        ("ELBO of the guide", *(cell(c["elbo"]) for c in chosen)),
        ("inference gap", *(cell(c["inference"]) for c in chosen)),
    ]
    for field, said in FIELDS.items():
        for name in FAMILIES:
            cells = (cell(c["families"][name][field]) for c in chosen)
            rows.append((f"{said}, {name}", *cells))
    caption = (
        f"{PARTS[part].capitalize()} images, nats per image: mean ± Monte Carlo error (of the draws "
        "and chains, these images given) ± sampling error (over images, which holds the first). "
        "95% intervals stand in results.json."
    )
    return Table(["", *(one.name for one in result.trained)], rows, caption, [2])


def reference_table(result: "Result", told: Told) -> Table:
    """Estimates of log p of each model and part."""
    header = ("guide, images", "annealed", "importance", "larger − annealed",
              "annealed: k-hat above 0.7", "importance")  # fmt: skip
    rows = []
    for one in result.trained:
        for part in PARTS:
            found = told[one.name][part]
            ways, count = found["log_p"], found["num_points"]
            doubt = [found["untrusted"][way] for way in ("annealed", "importance")]
            more = ways["larger"]["value"] - ways["annealed"]["value"]
            rows.append(
                (
                    f"{one.name}, {PARTS[part]}",
                    *(cell(ways[way]) for way in ("annealed", "importance")),
                    f"{more:.3f}",
                    *("not known" if d is None else f"{d} of {count}" for d in doubt),
                )
            )
    return Table(header, rows, "Nats per image, means ± Monte Carlo ± sampling error.")


def certificate_table(told: Told) -> Table:
    """What the chains miss on data of each model's own."""
    header = ("guide", "log p, from below", "from above", "gap")
    rows = [
        (name, *(f"{bounds[side]:.3f} ± {bounds[f'{side}_error']:.3f}" for side in SIDES))
        for name, bounds in ((name, one["simulated"]) for name, one in told.items())
    ]
    return Table(header, rows, "Nats per simulated image, means ± standard errors over the images.")


def picked(part: dict[str, Any], own: str, reference: str) -> list[dict[str, Any]]:
    """log p and the three gaps of one part."""
    family = part["families"][own]
    return [
        part["log_p"][reference], part["inference"], family["approximation"],
        family["amortization"],
    ]  # fmt: skip


def difference(train: dict[str, Any], test: dict[str, Any]) -> str:
    """test - train, two independent means."""
    error = (train["sampling_error"] ** 2 + test["sampling_error"] ** 2) ** 0.5
    return f"{test['value'] - train['value']:+.3f} ± {error:.3f}"
