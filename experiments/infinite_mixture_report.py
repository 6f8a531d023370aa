"""The words of the infinite-mixture experiment's report."""

from typing import TYPE_CHECKING

from experiments.infinite_mixture_evaluation import mean_and_error, paired
from experiments.infinite_mixture_training import WATCHED
from lvm_jax.report import Block, Equation, Fact, Picture, Section, Table, Text

if TYPE_CHECKING:
    from experiments.infinite_mixture import Result

Page = tuple[str, str, list[Fact], list[Section]]


def page(result: "Result", figures: dict[str, bytes]) -> Page:
    """Title, lead, facts and sections."""
    facts = []
    for deep, mixture in zip(result.deep, result.mixtures, strict=True):
        for density in (deep.density, mixture):
            mean, error = mean_and_error(density.log_p)
            told = f"nats per held-out point, {density.name} ({density.num_parameters} numbers)"
            facts.append(Fact(f"{mean:.3f} ± {error:.3f}", told))
    lead = (
        "A mixture of K Gaussians sums over K places. Let z be continuous, and the sum becomes an "
        "integral: infinitely many Gaussians whose means and variances are functions of z."
    )
    sections = [
        Section("The data", data_blocks(result)),
        Section("The models", model_blocks(result)),
        Section("The densities", density_blocks(result, figures)),
        Section("Why it is an infinite mixture", map_blocks(result, figures)),
        Section("Training", training_blocks(result, figures)),
    ]
    name = result.dataset.name.replace("_", " ")
    return f"An infinite mixture beside a finite one: {name}", lead, facts, sections


def data_blocks(result: "Result") -> list[Block]:
    """What the data are, and in which units the numbers are."""
    known = "Their density is known, so every fit can be held against the truth. "
    return [
        Text(
            f"{result.dataset.source[0].upper()}{result.dataset.source[1:]}. "
            f"{len(result.train):,} of them are fitted, {len(result.test):,} are held out. "
            f"{known if result.truth else ''}The models see the columns less their mean, over "
            "their standard deviation; every number below is a density of the columns as they came."
        )
    ]


def model_blocks(result: "Result") -> list[Block]:
    """The lecture's equations, what goes beyond them, and how they are trained."""
    config = result.config
    blocks: list[Block] = [
        Equation(
            r"z \sim \mathcal{N}(0, I_2), \qquad x\,|\,z \sim \mathcal{N}(\mu_\theta(z), "
            r"\Sigma_\theta(z))"
        ),
        Equation(
            r"\mu_\theta(z) = h(A z + b), \qquad \Sigma_\theta(z) = "
            r"\mathrm{diag}(\exp(h'(C z + d)))"
        ),
        Text(
            f"The one layer is the lecture's equations (4) and (5), with h = "
            f"{config.mean_activation} and h′ a soft clip that keeps the variances within bounds, "
            "without which the likelihood has no maximum. What it can do: its Gaussians widen and "
            "narrow along the axes as z moves, so that x has skewed sides and long tails. What it "
            "cannot: h acts on each coordinate by itself, and where it is monotone, as identity and "
            "tanh are, the means are a plane stretched along the axes, which does not bend."
        ),
    ]
    if config.hidden:
        blocks.append(
            Text(
                f"The second model puts tanh(B z + c), {config.hidden} numbers, in the place of z, "
                "with h the identity. This goes beyond the lecture's one layer, and it bends.",
                "note",
            )
        )
    objective = "the ELBO" if config.bound == "elbo" else f"IWAE with {config.num_samples} samples"
    blocks.append(
        Text(
            f"{'Both maximise' if config.hidden else 'It maximises'} {objective} by {config.num_steps:,} steps of Adam on minibatches of "
            f"{config.batch_size}, with q(z | x) a full-covariance Gaussian whose parameters are a "
            f"{'small network of' if config.guide == 'network' else 'linear function of'} x. Beside "
            "each stands the full-covariance mixture, fitted by EM, whose number of parameters is "
            f"nearest to that of theta. The {result.deep[0].num_guide_parameters:,} parameters of "
            "the guide serve to train and are not counted: the density does not depend on them."
        )
    )
    return blocks


def density_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """Densities, samples and the held-out numbers."""
    caption = (
        "Shades are the density; lines are the borders of its smallest regions that hold 50% "
        "(solid) and 90% (dashed) of it. In the titles: mean log p of held-out points. The deep "
        "densities are integrals over z, by quadrature."
    )
    verdicts = []
    for deep, mixture in zip(result.deep, result.mixtures, strict=True):
        mean, error = paired(deep.density, mixture)
        size = f"{abs(mean):.3f} ± {error:.3f} nats"
        against = f"than the {mixture.name} of its size"
        if abs(mean) <= 2 * error:
            told = f"is neither better nor worse {against}, by {mean:+.3f} ± {error:.3f} nats"
        else:
            told = f"is {size} {'better' if mean > 0 else 'worse'} {against}"
        verdicts.append(f"{deep.density.name} {told}")
    said = "; ".join(verdicts)
    said = f"Per held-out point, {said}."
    seen = (
        "As many draws from each as there are data to fit. Look for what connects: a continuous "
        "map cannot tear its plane, so draws lie on the bridges between parts that stand apart."
    )
    return [
        Picture(figures["densities"], caption),
        Text(said),
        held_out_table(result),
        *trust_blocks(result),
        difference_table(result),
        Picture(figures["samples"], seen),
    ]


def trust_blocks(result: "Result") -> list[Block]:
    """Where a quadrature or importance sampling is not to be believed, and how one can tell."""
    blocks: list[Block] = []
    for deep in result.deep:
        found, exact = deep.importance, float(deep.density.log_p.mean())
        name = deep.density.name[0].upper() + deep.density.name[1:]
        missed, converged = found.log_evidence - exact, deep.quadrature_change < 0.05
        if not converged:
            said = (
                f"{name}: half as many quadrature nodes again change a point by "
                f"{deep.quadrature_change:.2f} nats, because some posteriors are narrower than the "
                "distance of the nodes. Raise --num-nodes before you believe its log p."
            )
            blocks.append(Text(said, "note"))
        elif abs(missed) > 5 * found.monte_carlo_error:
            said = (
                f"{name}: importance sampling ends {abs(missed):.4f} nats per point "
                f"{'below' if missed < 0 else 'above'} log p, "
                f"{abs(missed) / found.monte_carlo_error:.0f} times the Monte-Carlo error that it "
                "reports. Where the map folds, several z explain one x; a Gaussian q finds one of "
                "them, and no draw lands on the others. The checks of the weights give the warning: "
                f"{found.num_untrusted:,} of {found.num_points:,} points are not reliable. Take the "
                "quadrature's number."
            )
            blocks.append(Text(said, "note"))
    return blocks


def held_out_table(result: "Result") -> Table:
    """log p with its errors, by quadrature and by importance sampling."""
    rows = []
    for deep, mixture in zip(result.deep, result.mixtures, strict=True):
        mean, error = mean_and_error(deep.density.log_p)
        summary = deep.importance
        rows.append(
            [
                deep.density.name,
                f"{deep.density.num_parameters}",
                f"{deep.density.train_log_p:.4f}",
                f"{mean:.4f} ± {error:.4f}",
                f"{summary.log_evidence:.4f} ± {summary.monte_carlo_error:.4f}",
                f"{deep.elbo:.4f}",
                f"{summary.num_untrusted:,} of {summary.num_points:,}",
            ]
        )
        mean, error = mean_and_error(mixture.log_p)
        cells = [f"{mixture.num_parameters}", f"{mixture.train_log_p:.4f}"]
        rows.append([mixture.name, *cells, f"{mean:.4f} ± {error:.4f}", "exact", "–", "–"])
    if result.truth is not None:
        mean, error = mean_and_error(result.truth.log_p)
        cells = ["–", f"{result.truth.train_log_p:.4f}", f"{mean:.4f} ± {error:.4f}"]
        rows.append(["the true density", *cells, "exact", "–", "–"])
    header = (
        "density", "parameters", "fitted points", "held out ± sampling", "importance ± Monte Carlo",
        "ELBO", "not reliable",
    )  # fmt: skip
    change = max(deep.quadrature_change for deep in result.deep)
    note = (
        f"log p in nats per point, of {len(result.test):,} held-out points. First its mean and the "
        "standard error from the sample of points; then the same points by importance sampling from "
        f"the guide ({result.config.evidence_samples:,} draws) with its Monte-Carlo error. Half as "
        f"many quadrature nodes again change no point by more than {change:.1e} nats."
    )
    return Table(header, rows, note)


def difference_table(result: "Result") -> Table:
    """Paired differences, which the common points make much sharper than the means."""
    rows = []
    for deep, mixture in zip(result.deep, result.mixtures, strict=True):
        mean, error = paired(deep.density, mixture)
        rows.append([deep.density.name, mixture.name, f"{mean:+.4f} ± {error:.4f}"])
    if result.truth is not None:
        for deep in result.deep:
            mean, error = paired(deep.density, result.truth)
            rows.append([deep.density.name, "the true density", f"{mean:+.4f} ± {error:.4f}"])
        for mixture in result.mixtures:
            mean, error = paired(mixture, result.truth)
            rows.append([mixture.name, "the true density", f"{mean:+.4f} ± {error:.4f}"])
    note = "Differences of log p, point by point on the held-out points: mean ± standard error."
    return Table(("density", "less", "nats per point"), rows, note)


def map_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """The deformed grid."""
    caption = (
        "Left: a square grid in the plane of z, and circles that hold 50% and 90% of its prior. "
        "Right: the same grid carried into the data by μ(z), with some of the Gaussians that stand "
        "on it (ellipses hold 50%). Every z has one; the density is the integral over them all. "
        "Where the grid is crowded the density is high; where it is stretched lie the gaps, which "
        "the map must cross and can only cross quickly."
    )
    return [Picture(figures["maps"], caption)]


def training_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """The learning curves."""
    starts, is_iwae = result.config.num_starts, result.config.bound == "iwae"
    watched = min(WATCHED, len(result.test))
    caption = (
        f"The training bound, and on {watched} held-out points the ELBO and log p itself (by "
        "quadrature). The gap between these two is KL(q || posterior), averaged: what the guide "
        "misses. Dashed: the mixture fitted by EM, on the same points. "
        f"{f'The best of {starts} random starts is shown.' if starts > 1 else ''} "
        f"{'The ELBO is no objective here and may lie below the frame.' if is_iwae else ''}"
    )
    gaps = "; ".join(
        f"{deep.density.name} {deep.density.log_p.mean() - deep.elbo:.3f} nats"
        for deep in result.deep
    )
    said = (
        f"Over all held-out points that gap is: {gaps}. The ELBO is not log p less a constant: it "
        "also prefers models whose posterior its q can follow, and may give up log p for that. "
        f"{'IWAE asks less of q, which shows in that gap' if is_iwae else '--bound iwae asks less of q'}."
    )
    return [Picture(figures["training"], caption), Text(said)]
