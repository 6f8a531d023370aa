"""The words of the discrete-gradients experiment's report."""

from typing import TYPE_CHECKING

from experiments.discrete_gradients_figures import SAID
from lvm_jax.report import Block, Equation, Fact, Picture, Section, Table, Text

if TYPE_CHECKING:
    from experiments.discrete_gradients import Result
    from experiments.discrete_gradients_measure import Group

Page = tuple[str, str, list[Fact], list[Section]]


def page(result: "Result", figures: dict[str, bytes]) -> Page:
    """Title, lead, facts and sections."""
    toy = result.toy[result.config.targets[0]]
    phi = {name: found.groups["phi"] for name, found in result.measured.items()}
    worst = max(map(abs, toy_z(result)))
    facts = [
        Fact(
            f"{toy['score function'].measured_variance:.4g}",
            f"toy variance of REINFORCE, derived {toy['score function'].variance:.4g}",
        ),
        Fact(
            f"{toy['ARM'].measured_variance:.4g}",
            f"of ARM, derived {toy['ARM'].variance:.4g}; DisARM's is 0",
        ),
        Fact(f"{worst:.1f}", "largest |z| of derived against measured, whole toy"),
        Fact(
            f"{phi['score function'].variance / phi['DisARM'].variance:,.0f}×",
            "variance of the plain score function over DisARM's, digits, φ",
        ),
        Fact(
            said_bias(phi["straight-through"]),
            "bias of straight-through, digits, φ, as a multiple of the gradient",
        ),
    ]
    lead = (
        "A bit cannot be nudged, so its gradient must be estimated, and each estimator pays in "
        "variance, in bias or in time. On problems small enough to sum over every z all three "
        "can be measured against the truth."
    )
    sections = [
        Section("One bit", toy_blocks(result)),
        Section("What they make of it", descent_blocks(result, figures)),
        Section("Real digits, exact gradients", digit_blocks(result, figures)),
        Section("Temperature", temperature_blocks(result, figures)),
        Section("Time", cost_blocks(result, figures)),
    ]
    return "Gradients for discrete latent variables", lead, facts, sections


def toy_z(result: "Result") -> list[float]:
    """Derived less measured in standard errors, of every mean and variance that has one."""
    found = []
    for rows in result.toy.values():
        for row in rows.values():
            if row.mean_error > 1e-12:
                found.append((row.measured_mean - row.mean) / row.mean_error)
            if row.variance_error > 1e-5 * row.variance > 0:
                found.append((row.measured_variance - row.variance) / row.variance_error)
    return found


def toy_blocks(result: "Result") -> list[Block]:
    """The toy and its tables."""
    blocks: list[Block] = [
        Equation(
            r"\min_l\; \mathbb{E}[(b - t)^2], \quad b \sim \mathrm{Bernoulli}(\sigma(l)), \qquad "
            r"\frac{d}{dl} = \sigma'(l)\, (1 - 2t)"
        ),
        Text(
            "The smallest discrete problem there is, from the papers on REBAR, ARM and DisARM: "
            "the optimum is b = 0 for any t < ½, and the closer t is to ½ the fainter the way. At "
            "l = 0 mean and variance of every estimator can be derived, by hand or (REBAR, RELAX, "
            "concrete) as an integral over one or two uniforms; beside them, measured over "
            f"{result.config.toy_repeats:,} gradients. The entropy of q is cancelled, so that the "
            "square alone is optimised."
        ),
    ]
    for t, rows in result.toy.items():
        cells = [
            (
                name,
                f"{row.num_samples}",
                f"{row.mean:.6g}",
                f"{row.measured_mean:.6g} ± {row.mean_error:.1g}",
                f"{row.variance:.5g}",
                f"{row.measured_variance:.5g} ± {row.variance_error:.1g}"
                if row.measured_variance > 1e-20
                else "0",
            )
            for name, row in rows.items()
        ]
        header = ("t = " + f"{t:g}", "S", "mean, derived", "measured", "variance, derived", "measured")  # fmt: skip
        caption = f"t = {t:g}: the exact gradient is {(1 - 2 * t) / 4:g} (± standard error)."
        blocks.append(Table(header, cells, caption, marked=[0]))
    blocks.append(
        Text(
            "Two outcomes with equal odds make REINFORCE's spread: ((f₁ + f₀)/4)². It is the level "
            "of f and not its slope that hurts, which is why the baseline takes nearly all of it. "
            "ARM is 4 |u − ½| times the gradient; DisARM averages u out and has nothing left. A "
            "relaxation as a control (REBAR) is no help where f is almost the same at 0 and at 1 "
            "and dips between: the relaxed f is then correlated with the wrong thing."
        )
    )
    return blocks


def descent_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """The optimisation curves."""
    c = result.config
    return [
        Picture(
            figures["toy"],
            f"t = {c.targets[0]:g}: the exact loss along {c.toy_seeds} descents from l = 0 with "
            f"step size {c.toy_learning_rate:g}: mean, and shaded the middle 80% of the seeds. "
            "Left and middle: all go the same way on average, and differ in how surely. Right: look "
            "at who stops short. The blue line is the same in all three.",
        ),
        Text(
            "Straight-through is exactly unbiased at l = 0, where it starts, and yet goes nowhere: "
            "elsewhere its mean is 2 σ'(l) (σ(l) − t), which vanishes at σ(l) = t. It minimises "
            "(E[b] − t)², the square of the mean, instead of the mean of the square. The concrete "
            "relaxation stops short as well, for a soft b can lie near t and pay less than either "
            "hard one. At small τ that bias is small, but with this step size the noise rules: rare "
            "huge gradients (the variance of the table) throw l to where σ' is zero, and the "
            "descent is stranded at either end."
        ),
    ]


def digit_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """Bias, variance and cost on the enumerable model."""
    c, setting = result.config, result.setting
    norms = setting.norms
    rows = []
    for name, found in result.measured.items():
        theta, phi = (found.groups[group] for group in ("theta", "phi"))
        rows.append(
            (
                name,
                {"elbo": "ELBO", "iwae": "IWAE"}[found.bound],
                said_bias(theta),
                said_variance(theta),
                said_bias(phi),
                said_variance(phi),
                f"{found.evaluations}",
                f"{found.microseconds:.1f}",
            )
        )
    header = ("estimator", "bound", "bias θ", "variance θ", "bias φ", "variance φ", "evaluations", "µs")  # fmt: skip
    caption = (
        "Bias as a multiple of the exact gradient's length, ± standard error; “< v” where none is "
        "seen (below three standard errors) and what it cannot exceed (two above). Variance, summed "
        "over the group, as a multiple of the squared length. Evaluations of log p(x, z) for one "
        f"image; µs for a gradient of all {c.num_points} images, θ and φ at once, measured in "
        f"batches of {c.num_repeats // c.num_blocks}."
    )
    return [
        Equation(
            r"z_k \sim \mathrm{Bernoulli}(\sigma(l_k)), \quad x_d\,|\,z \sim "
            r"\mathrm{Bernoulli}(\sigma((W z + c)_d)), \quad q(z\,|\,x) = \mathrm{Bernoulli}(\sigma(A x + a))"
        ),
        Text(
            f"K = {c.num_latents} latent bits and 8×8 digits, black where the grey level is above "
            f"half. After {c.train_steps} steps of Adam on the exact ELBO the parameters are on "
            f"their way: the ELBO is {setting.elbo:.3f} and log p(x) {setting.log_evidence:.3f} "
            f"nats per image, and the exact gradient has length {norms['elbo']['theta']:.3g} for θ "
            f"and {norms['elbo']['phi']:.3g} for φ (IWAE: {norms['iwae']['theta']:.3g} and "
            f"{norms['iwae']['phi']:.3g}). Here every estimator draws S = {c.num_samples} values of "
            f"z for each of {c.num_points} images (ARM and DisARM {c.num_samples // 2} pair), "
            f"{c.num_repeats:,} times, and is compared with the sum over all "
            f"{2**c.num_latents} z; for IWAE over all {2**c.num_latents}^{c.num_samples} tuples."
        ),
        Table(header, rows, caption, marked=[0]),
        Picture(
            figures["bias_variance"],
            "Circles are noise, squares bias; left of the dotted line they are smaller than the "
            "gradient itself. Look at φ: no unbiased estimator is near the line with two draws, "
            "and the biased ones are wrong by about as much as there is gradient. "
            "θ's gradient is a plain average and is easy for all, unless z itself was softened.",
        ),
        Text(
            "The baseline here is the ELBO itself, what a moving average would settle at. "
            "RLOO and the antithetic pairs do better because theirs belongs to the image. VIMCO "
            "beside the score function for IWAE tells the same story for the tighter bound. "
            "RELAX's control was adapted by the gradient of its own variance."
        ),
    ]


def said_bias(part: "Group") -> str:
    """A bias with its standard error, or what it is less than."""
    if part.is_seen:
        return f"{part.bias:.3g} ± {part.error:.1g}"
    return f"< {max(part.limit, 1e-3):.2g}"


def said_variance(part: "Group") -> str:
    """A variance with its standard error."""
    if part.variance < 1e-9:
        return "0"
    return f"{part.variance:.4g} ± {part.variance_error:.1g}"


def temperature_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """Temperature against bias and variance."""
    rows = []
    for name, found in result.relaxed.items():
        for tau, one in zip(result.config.temperatures, found, strict=True):
            cells = [
                said(one.groups[g]) for g in ("theta", "phi") for said in (said_bias, said_variance)
            ]
            rows.append((name, f"{tau:g}", *cells))
    columns = [f"{what} {SAID[g]}" for g in ("theta", "phi") for what in ("bias", "variance")]
    return [
        Picture(
            figures["temperature"],
            "Left: softer is calmer and more wrong; the bias falls with τ about linearly, while "
            "the variance grows as 1/τ. Middle: the straight-through variant keeps θ unbiased, "
            "because its z stay hard, but is noisier in φ. Right: REBAR uses the same "
            "relaxation as a control only; its temperature is a matter of variance, never of bias.",
        ),
        Table(("estimator", "τ", *columns), rows, "In the units of the table above."),
    ]


def cost_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """What a gradient costs, and what it gets."""
    return [
        Text(
            "More draws lower a variance in proportion to their time, and no bias. So of two "
            "unbiased estimators the one with the smaller product of variance and time wins. In a "
            "model as small as this one summing over all z has no error to pay for; its time "
            "doubles with every latent bit, and that of the others does not."
        ),
        Picture(
            figures["cost"],
            "Lower and further left is better; squares have a bias, which no number of draws "
            "removes. Times are of this machine and this batch.",
        ),
    ]
