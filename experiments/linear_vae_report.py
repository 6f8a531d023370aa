"""The words of the linear VAE's report."""

from typing import TYPE_CHECKING

from experiments.linear_vae_tables import (
    after,
    count_table,
    gap_table,
    identity,
    rotation_table,
    saddle_table,
    short_of,
    unit_table,
)
from experiments.linear_vae_verdicts import (
    axes_said,
    collapsed_for_good,
    differing,
    ending,
    turned_note,
)
from lvm_jax.report import Block, Equation, Fact, Picture, Section, Text

if TYPE_CHECKING:
    from experiments.linear_vae import Result

Page = tuple[str, str, list[Fact], list[Section]]


def page(result: "Result", figures: dict[str, bytes]) -> Page:
    """Title, lead, facts and sections."""
    lead = (
        "A VAE whose decoder and encoder are linear is probabilistic PCA, and nothing about it is "
        "unknown. Trained from a random start by stochastic gradients it can be held against the "
        "exact answer: what the ELBO lacks, which axes it finds, and which units collapse, and why."
    )
    sections = [
        Section("The model and its answer", model_blocks(result)),
        Section("Does the ELBO reach log p(x)?", training_blocks(result, figures)),
        Section("The ELBO chooses the axes", rotation_blocks(result, figures)),
        Section("Which units collapse", collapse_blocks(result, figures)),
        Section("Why no training gets stuck with fewer", saddle_blocks(result, figures)),
    ]
    name = result.data.name.replace("_", " ")
    return f"A linear VAE beside probabilistic PCA: {name}", lead, facts(result), sections


def facts(result: "Result") -> list[Fact]:
    """The numbers at the head."""
    first, shift = result.runs[0], result.data.log_volume
    agreeing = sum(run.trained.num_active == run.num_above for run in result.runs)
    return [
        Fact(f"{float(first.exact.log_evidence) - shift:.4f}", "PPCA's log p(x), nats per point"),
        Fact(f"{short_of(first):.1e}", "nats that the trained ELBO lacks of it, s² learned"),
        Fact(f"{abs(after(first)):.1e}", "nats that it lacks after an ascent without noise"),
        Fact(f"{abs(identity(first)):.1e}", "|ELBO − log p(x)| at the closed form, float64"),
        Fact(
            f"{agreeing} of {len(result.runs)}",
            "noise variances where the active units are the eigenvalues above s²",
        ),
    ]


def model_blocks(result: "Result") -> list[Block]:
    """The model, its closed form, the data and the training."""
    config, data = result.config, result.data
    shape = {
        "mean_field": "independent units",
        "full_rank": "a full covariance",
    }[config.guide]
    shared = "the same for all x" if config.covariance == "shared" else "itself a function of x"
    number = len(result.runs[0].trained.order)
    return [
        Equation(
            r"z \sim \mathcal{N}(0, I_L), \qquad x\,|\,z \sim \mathcal{N}(W z + b,\, s^2 I), \qquad "
            r"q(z\,|\,x) = \mathcal{N}(V x + a,\, \Sigma)"
        ),
        Text(
            f"L = {number}; q has {shape}, with a covariance that is {shared}. Let λ be the "
            "eigenvalues of the sample covariance, largest first, and U its eigenvectors. The "
            "maximum of the likelihood is known (Tipping and Bishop 1999), for any rotation R:"
        ),
        Equation(
            r"W = U_L\, (\Lambda_L - s^2 I)_{+}^{1/2}\, R, \qquad "
            r"s^2 = \frac{1}{D - L} \sum_{u > L} \lambda_u \quad \mathrm{if\ learned}"
        ),
        Text(
            f"{data.source[0].upper()}{data.source[1:]}: {len(data.x):,} rows of "
            f"{data.x.shape[1]} columns. They are centred and divided by one number, {data.scale:.4g}; "
            "every density and variance below is in the units of the data as they came. "
            f"{config.estimator.replace('_', ' ').capitalize()} gradients with {config.num_samples} "
            f"{'draw' if config.num_samples == 1 else 'draws'} of z, Adam from "
            f"{config.learning_rate:g} to 0 on a cosine, {config.num_epochs:,} epochs in batches of "
            f"{min(config.batch_size, len(data.x)):,}. Log p(x), the ELBO and the divergences are "
            "exact for every set of parameters; only the gradients of the training are noisy."
        ),
    ]


def training_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """Learning curves, the gaps in numbers, and the ascent."""
    worst = max(abs(identity(run)) for run in result.runs)
    return [
        Picture(
            figures["training"],
            "Above, left: log p(x) and the ELBO of the training that learns s². Right: what log p(x) "
            "lacks of PPCA's. Below, left: what the ELBO lacks of log p(x), the divergence of q from "
            "the posterior (float32 says nothing below 1e-6, where the curves are cut). Right: the "
            "variance over x of every unit's posterior mean.",
        ),
        gap_table(result),
        Text(
            "The gap log p(x) − ELBO is not a price that a VAE has to pay: here q can be the "
            f"posterior, and at the closed form with R = I it is, to {worst:.1e} nats (energy and "
            "entropy on one side, the Gaussian density of x on the other). The training ends short "
            "of it by its length and the noise of its gradients. From there L-BFGS climbs the same "
            f"ELBO with q at its best for each theta, in float64 and without noise. {ending(result)}"
        ),
    ]


def rotation_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """The rotation symmetry and what breaks it."""
    return [
        Text(
            "W R gives the same p(x) for every rotation R, so the likelihood cannot tell one set of "
            "axes from another. A mean-field q can: the posterior of W R has a diagonal covariance "
            "only if WᵀW is diagonal. With M = I + WᵀW / s² the best mean-field q lacks"
        ),
        Equation(
            r"\log\, p(x) - \mathrm{ELBO} = \frac{1}{2}\left(\sum_u \log\, M_{uu} - \log\, |M|\right)"
            r" \geq 0"
        ),
        Text(
            "nats for every x alike (Hadamard's inequality), and the maximum of the ELBO has the "
            "principal axes for its units, up to order and sign (Lucas et al. 2019)."
        ),
        rotation_table(result),
        *turning_blocks(result, figures),
        Picture(
            figures["axes"],
            "Columns of W. PPCA's with s² learned, those trained, those after the ascent; then PPCA's "
            "and the trained ones at a given s² (blank: collapsed). Red is positive, blue negative, "
            "each row on its own scale; the sign of a unit is free, and set to PPCA's.",
        ),
    ]


def turning_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """What a turn costs, and the axes that were found; a single unit has nothing to turn into."""
    if not result.turns:
        return []
    seen = (
        "Left: two units of PPCA turned into each other; lines are the closed form, dots energy + "
        "entropy. Middle: the same at 45° for neighbours, ½ log((λ + λ′)² / 4λλ′): where two "
        "eigenvalues are alike the ELBO hardly minds. Right: the axes that were found, s² learned."
    )
    return [Picture(figures["rotation"], seen), Text(axes_said(result))]


def collapse_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """Active units against the eigenvalues, and the KL of every unit."""
    blocks: list[Block] = [
        Text(
            "At a given s² a unit pays for itself only if its eigenvalue is above s²; the column of "
            "any other unit is zero at the maximum of the likelihood. E[z | x] = (λ − s²)^½ uᵀ(x − b) "
            "/ λ for the unit on the eigenvector u, and uᵀx has variance λ, so that"
        ),
        Equation(
            r"A_u = \mathrm{Var}_x(\mathbb{E}[z_u\,|\,x]) = 1 - \frac{s^2}{\lambda_u}, \qquad "
            r"\mathrm{KL}_u = \frac{1}{2} \log\, \frac{\lambda_u}{s^2} \qquad (\lambda_u > s^2)"
        ),
        Text(
            "and both are 0 for λ ≤ s². The variance of q is s² / λ, so that of KL = ½ (s²/λ + A − 1 "
            "− log s²/λ) only the logarithm is left. A unit is active by Burda's criterion if "
            "A > 0.01, which is λ > 1.0101 s²."
        ),
        Picture(
            figures["spectrum"],
            "Left: the eigenvalues, and the noise variances of the trainings as lines. Right: the "
            "eigenvalues above s², and the active units that each training ended with.",
        ),
        count_table(result),
        *differing(result),
        Picture(
            figures["units"],
            "Every unit of every training against its eigenvalue over s². The closed form is one "
            "curve for all of them, and leaves zero at λ = s²; it is that of the principal axes.",
        ),
        unit_table(result),
        Text(
            "So the collapse is no failure of the ELBO or of the optimiser: it is the maximum of the "
            "exact likelihood, which PPCA has as well. The noise variance decides it. Left free, s² "
            "falls to the mean of the discarded eigenvalues, below all that are kept, and no unit "
            "collapses."
        ),
    ]
    return blocks + turned_note(result)


def saddle_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """Curvatures at the stationary points."""
    return [
        Text(
            "Whatever eigenvectors with λ > s² the units choose, at most one each and some units "
            "empty, is a stationary point of the likelihood. Let one with λ > s² be left out while a "
            "unit is empty, and let that unit's column be c u: log p(x) changes with the variance "
            "s² + c² along u, and its second derivative at c = 0 is"
        ),
        Equation(
            r"\frac{\partial^2}{\partial c^2}\left[-\frac{1}{2} \log(s^2 + c^2) - "
            r"\frac{\lambda}{2 (s^2 + c^2)}\right]_{c=0} = \frac{\lambda - s^2}{s^4}"
        ),
        Text(
            "which is positive: a saddle, not a maximum. Without an empty unit, turning the unit that "
            "holds λ′ towards a left-out u with λ > λ′ curves upwards by (1/s² − 1/λ′)(λ − λ′). The ELBO "
            "adds no maxima of its own (Lucas et al. 2019): in c and the unit's own row of V, v uᵀ, "
            "its second derivatives are −1/s², λ/s² and −λ, with a determinant λ (s² − λ) / s⁴: a way "
            "up exactly where λ > s². Below, both are compared with the Hessian of the whole function, "
            "by differentiation along that direction, which is an eigenvector of it to the residual."
            f"{collapsed_for_good(result)}"
        ),
        saddle_table(result),
        Picture(
            figures["saddles"],
            "Left: the largest curvature towards the next eigenvector; both change sign at λ = s². The "
            "ELBO's follows the way in W and V together. Right: log p(x) along that way.",
        ),
    ]
