"""The words of the `inference_gaps` experiment's report."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from experiments.inference_gaps_measure import BEYOND, summary
from experiments.inference_gaps_tables import (
    PARTS,
    Told,
    certificate_table,
    difference,
    gap_table,
    picked,
    reference_table,
)
from lvm_jax.report import Block, Equation, Fact, Picture, Section, Table, Text

if TYPE_CHECKING:
    from experiments.inference_gaps import Result

Page = tuple[str, str, list[Fact], list[Section]]
SPLIT = (
    r"\log p(x) - \mathrm{ELBO}(q) = "
    r"[\log p(x) - \mathrm{ELBO}(q^*)] + [\mathrm{ELBO}(q^*) - \mathrm{ELBO}(q)]"
)


def page(result: "Result", figures: dict[str, bytes]) -> Page:
    """Title, lead, facts and sections."""
    told = {name: summary(found, result.is_train) for name, found in result.found.items()}
    facts = [fact(one.name, one.own, told[one.name]["test"]) for one in result.trained]
    lead = (
        "The ELBO of a VAE lacks KL(q || posterior) of log p(x). A part of that no q of the guide's "
        "family can avoid; the rest is the price of one network that serves every image. The best "
        "q for each image alone tells them apart."
    )
    sections = [
        Section("The split", split_blocks(result, told, figures)),
        Section("Images that were trained on, and others", part_blocks(result, told, figures)),
        Section("Image by image", [picture(figures, "images", IMAGES)]),
        Section("How far log p can be trusted", reference_blocks(result, told, figures)),
        Section("Has the local ascent arrived?", ascent_blocks(result, told)),
    ]
    if result.account is not None:
        sections.append(Section("The whole account", [Text(account_text(result))]))
    return "Why the ELBO is loose", lead, facts, sections


def fact(name: str, own: str, test: dict[str, Any]) -> Fact:
    """The gap of one model, and what share of it amortisation has."""
    gap, part = test["inference"]["value"], test["families"][own]["amortization"]["value"]
    share = f"{part / gap:.0%} of it by amortisation" if gap > 0 else "within its error"
    return Fact(f"{gap:.2f}", f"nats, log p − ELBO of test images, guide {name}: {share}")


def picture(figures: dict[str, bytes], name: str, caption: str) -> Picture:
    """A figure with its caption."""
    return Picture(figures[name], caption)


IMAGES = (
    "Every image, split by the best q of the guide's own family; ± 2 Monte Carlo errors, which "
    "the annealed estimate of log p dominates. A negative amortisation gap is an ascent that ended "
    "below the guide, or noise."
)


def split_blocks(result: "Result", told: Told, figures: dict[str, bytes]) -> list[Block]:
    """The equation, what was trained, the bars and the table."""
    config = result.config
    made = "loaded" if config.models else f"trained for {config.epochs} epochs"
    counts = " and ".join(f"{one['num_points']} {PARTS[p]}" for p, one in both(told))
    return [
        Equation(SPLIT),
        Text(
            f"{result.source}. Models: {made}, z has {dims(result)} dimensions; "
            f"{counts} images, at random. q* climbs the ELBO of one image with {config.num_steps:,} "
            f"steps of Adam, {config.num_draws} draws each, from {config.num_starts} starts; every "
            f"ELBO is then measured on {config.num_samples:,} fresh draws, the same random numbers "
            "for every q."
        ),
        picture(
            figures,
            "gaps",
            "log p − ELBO of the guide, mean over images with its 95% interval, split by the best "
            "q of each family. The height of a bar is the same for all families; a richer one moves "
            "its parts. Hatched: the best q of that family is below the guide's own q, by so much.",
        ),
        gap_table(result, told, "test"),
        gap_table(result, told, "train"),
        Text(
            "Among families of one model only the boundary moves. Between models theta differs as "
            "well: a decoder learns to have posteriors that its guide can follow, so a small "
            "approximation gap of a plain guide does not say that a richer one would be no use.",
            "note",
        ),
    ]


def both(told: Told) -> Iterator[tuple[str, dict[str, Any]]]:
    """The parts of the first model; the images are those of all."""
    first = next(iter(told.values()))
    for part in PARTS:
        yield part, first[part]


def dims(result: "Result") -> str:
    """Dimensions of z."""
    return ", ".join(
        str(d) for d in sorted({one.description.latent_dims[0] for one in result.trained})
    )


def part_blocks(result: "Result", told: Told, figures: dict[str, bytes]) -> list[Block]:
    """Train against test, as a figure and as differences."""
    header = ("guide", "log p", "inference gap", "approximation gap", "amortisation gap")
    rows = []
    for one in result.trained:
        pairs = [picked(told[one.name][part], one.own, result.config.reference) for part in PARTS]
        rows.append((one.name, *(difference(*pair) for pair in zip(*pairs, strict=True))))
    return [
        picture(
            figures,
            "parts",
            "The gaps by the family of the guide itself, means over images with 95% intervals.",
        ),
        Table(
            header,
            rows,
            "Test minus training images, nats per image ± the standard error of the difference. A "
            "network that has learned its training images by heart has the larger amortisation gap "
            "on others; a decoder that has, the lower log p.",
        ),
    ]


def reference_blocks(result: "Result", told: Told, figures: dict[str, bytes]) -> list[Block]:
    """Both estimates of log p, and the certificate of the annealed one."""
    config = result.config
    chosen = {
        "annealed": "The gaps here take the annealed estimate",
        "larger": "The gaps here take the larger of the two, image by image",
    }[config.reference]
    return [
        Text(
            f"Annealed importance sampling: {config.num_chains} chains for each image from the "
            f"{config.start}, {config.num_temperatures} temperatures and as many HMC moves of "
            f"{config.num_leapfrogs} leapfrog steps, tuned by pilot chains. Beside it the bound of "
            f"k = {config.importance_samples:,} draws of the guide (importance sampling). Both are "
            f"below log p in expectation. {chosen}."
        ),
        reference_table(result, told),
        Text(
            "Cremer et al. take the larger of the two. That comes nearer to log p where one of them "
            "fails, but the larger of two noisy numbers is no lower bound any more: where both are "
            "good it is too high by a part of their errors, and the gap with it. The column tells "
            "by how much it differs."
        ),
        picture(
            figures,
            "reference",
            "Importance sampling against the annealed chains, ± 2 errors of the difference. "
            "Below 0: the draws of the guide miss what the chains find. k-hat says where they are "
            "not to be trusted.",
        ),
        Text(
            "What the chains themselves miss is seen from the other side, by bidirectional Monte "
            f"Carlo: on {config.num_simulated} images that a model drew, chains back from the z "
            "that made an image bound its log p from above. The gap bounds, on average, what the "
            "annealed estimate misses there; where it is far below the approximation gaps, these "
            "are not made of it."
        ),
        certificate_table(told),
        *doubts(result, told),
    ]


def doubts(result: "Result", told: Told) -> list[Block]:
    """A note for each model whose chains miss more than a half of what they are to measure."""
    notes: list[Block] = []
    for one in result.trained:
        missed = told[one.name]["simulated"]["gap"]
        smallest = min(
            told[one.name][part]["families"][one.own]["approximation"]["value"] for part in PARTS
        )
        if missed > 0.5 * smallest:
            notes.append(
                Text(
                    f"{one.name}: the chains miss up to {missed:.3f} nats on the model's own images, "
                    f"beside an approximation gap of {smallest:.3f}: log p and that gap may be too "
                    "small by as much. More temperatures help, or the other --start.",
                    "note",
                )
            )
    return notes


def ascent_blocks(result: "Result", told: Told) -> list[Block]:
    """The gain of the last steps, and the points where an ELBO beats log p."""
    header = ("guide", "images", "family", "gain of the last tenth", "approximation gap",
              "images whose ELBO is above log p")  # fmt: skip
    rows = [
        (
            one.name, PARTS[part], name, f"{f['gain']['value']:+.4f} ± "
            f"{f['gain']['monte_carlo_error']:.4f}", f"{f['approximation']['value']:.3f}",
            str(f["above_log_p"]),
        )
        for one in result.trained
        for part in PARTS
        for name, f in told[one.name][part]["families"].items()
    ]  # fmt: skip
    return [
        Text(
            "q* is the best that the ascent found, not the best there is: what it still lacks "
            "counts as approximation gap and not as amortisation gap. If the last tenth of the "
            "steps gained next to nothing, longer ascents would not move the boundary much. A flow "
            "does not hold every full covariance, and climbs more slowly. An ELBO "
            f"above log p by more than {BEYOND:g} errors would mean that the estimate of log p is "
            "too low for that image."
        ),
        Table(header, rows, "Nats per image."),
    ]


def account_text(result: "Result") -> str:
    """Where the other file lies."""
    return (
        f"account.html in the run directory is the whole account of {result.config.account} over the "
        "test images: these gaps, KL to the prior as mutual information and marginal KL, active "
        "units, rate and distortion over beta, calibration of the guide."
    )
