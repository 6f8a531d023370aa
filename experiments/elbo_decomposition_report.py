"""The words of the decomposition experiment's report."""

from typing import TYPE_CHECKING

import numpy as np

from lvm_jax.decomposition import Term
from lvm_jax.report import Block, Equation, Fact, Picture, Section, Table, Text

if TYPE_CHECKING:
    from experiments.elbo_decomposition import Result

Page = tuple[str, str, list[Fact], list[Section]]


def page(result: "Result", figures: dict[str, bytes]) -> Page:
    """Title, lead, facts and sections."""
    single, double = (result.deviations[p].largest["identity"] for p in ("float32", "float64"))
    gap = float(result.named["Jensen's q"][1].kl_posterior)
    facts = [
        Fact(f"{result.log_evidence:.6f}", "log p(x), nats, exact"),
        Fact(f"{double:.1e}", "largest |ELBO + KL − log p|, nats, float64"),
        Fact(f"{single:.1e}", "the same in float32"),
        Fact(f"{gap:.4f}", "nats between the ELBO and log p for Jensen's q: its KL"),
        Fact(
            f"{result.ascents['energy alone'].entropy[-1]:.1f}",
            "nats of entropy left to a q that climbs the energy alone",
        ),
    ]
    lead = (
        "The evidence log p(x) is the ELBO plus the divergence of q from the posterior, for every "
        "q. Here q moves, both parts change by nats, and the sum stays where it is."
    )
    sections = [
        Section("The model", model_blocks(result)),
        Section("q moves, log p stays", moving_blocks(result, figures)),
        Section("How exactly?", identity_blocks(result, figures)),
        Section("The same ELBO, three ways", form_blocks(result, figures)),
        Section("Jensen's inequality", jensen_blocks(result, figures)),
        Section("Why the entropy is there", energy_blocks(result, figures)),
    ]
    return "What the ELBO is made of, and what it lacks", lead, facts, sections


def model_blocks(result: "Result") -> list[Block]:
    """The linear-Gaussian model and why it was chosen."""
    bed = result.bed
    noise = float(np.exp(bed.theta.log_noise))
    sd = np.sqrt(np.diagonal(bed.covariance))
    correlation = bed.covariance[0, 1] / sd.prod()
    return [
        Text(
            "Both z and x have two dimensions, everything is Gaussian, and so everything is known: "
            "the posterior, log p(x), and every expectation under a Gaussian q. Nothing in the "
            "first four sections is sampled, except where it says so."
        ),
        Equation(
            r"z \sim \mathcal{N}(m, I), \qquad x\,|\,z \sim \mathcal{N}(W z + b,\, s^2 I), \qquad "
            r"p(z\,|\,x) = \mathcal{N}(\mu, V), \quad V^{-1} = I + W^{T} W / s^2"
        ),
        Text(
            f"s = {noise:g}; at x = {point(bed.x)} the posterior has mean {point(bed.mean)}, "
            f"standard deviations {sd[0]:.2f} and {sd[1]:.2f} and correlation {correlation:.2f}. "
            "Coordinates of z are in standard deviations of its prior."
        ),
    ]


def moving_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """The identity, its picture, and some q by name."""
    return [
        Equation(
            r"\log\, p(x) = \mathcal{E}(x; \theta, q) + D_{KL}\left(q(z)\,\Vert\, p(z\,|\,x)\right), \qquad "
            r"\mathcal{E}(x; \theta, q) = \mathbb{E}_{z \sim q}\left[\log\, \dfrac{p(x, z)}{q(z)}\right]"
        ),
        Text(
            "Since no divergence is negative, the ELBO is a lower bound, and it touches log p(x) "
            "where q is the posterior and nowhere else. Three ways to leave it, one at a time:"
        ),
        Picture(
            figures["decomposition"],
            "Above: the posterior (dark; solid holds 50% of it, dashed 90%) and q at four places "
            "of each path (50%). Below: the ELBO, and the divergence stacked on it, which ends on "
            "the dashed line of log p(x) for every q (the foot of the axis is arbitrary, as that "
            "of every log-density). Dots are the q drawn above; the dark one is the posterior. "
            "Look at the prices: too wide costs more than too narrow by the same factor, which "
            "is why a q that must err errs on the narrow side.",
        ),
        named_table(result),
        Text(
            "The best mean-field q has the right mean and variances that are too small, the "
            "conditional ones: with ρ the posterior's correlation it lacks −½ ln(1 − ρ²) nats, and "
            "no uncorrelated q lacks less. Keeping the posterior's own marginals and dropping the "
            "correlation is worse, because q then puts mass where the posterior has none."
        ),
    ]


def named_table(result: "Result") -> Table:
    """The terms of each q that has a name."""
    kl, prior = "KL(q || posterior)", "KL(q || prior)"
    header = ("q", "ELBO", kl, "sum", "energy", "entropy", "reconstruction", prior)
    rows = []
    for name, (_, p) in result.named.items():
        numbers = (
            *(p.elbo, p.kl_posterior, p.elbo + p.kl_posterior),
            *(p.energy, p.entropy, p.reconstruction, p.kl_prior),
        )
        rows.append((name, *(f"{round(value, 4) + 0.0:.4f}" for value in numbers)))
    caption = f"Every term in nats; log p(x) = {result.log_evidence:.4f}. Jensen's q: {knobs_said(result)}."
    return Table(header, rows, caption, marked=[0])


def knobs_said(result: "Result") -> str:
    """The q of the options, in words."""
    c = result.config
    return (
        f"moved {c.shift:g} sd along the long axis, standard deviations × {c.scale:g}, "
        f"correlation {c.correlation:g}"
    )


def identity_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """The largest deviations, and where they are."""
    names = {
        "identity": "ELBO + KL(q || posterior) − log p(x)",
        "energy_entropy": "energy + entropy − ELBO",
        "reconstruction_kl": "reconstruction − KL(q || prior) − ELBO",
    }
    rows = []
    for key, said in names.items():
        cells = [f"{d.largest[key]:.2e}" for d in result.deviations.values()]
        rows.append((said, *cells))
    epsilons = [
        f"{np.finfo(name).eps * d.largest_term:.2e}" for name, d in result.deviations.items()
    ]
    rows.append(("ε × the largest term of any q", *epsilons))
    count = len(result.deviations["float64"].identity)
    caption = (
        f"The largest absolute deviation over {count} q, in nats, by the precision that everything "
        "was computed in. The last row is the rounding of one operation on the largest number that "
        "entered; nothing can be asked to be much better."
    )
    return [
        Text(
            "Four numbers that were computed apart are compared: the ELBO as the average of the "
            "log-weights under q, energy and reconstruction as averages under q, entropy and both "
            "divergences by their closed forms, log p(x) as the density of x under its Gaussian "
            "marginal. The averages are over 2 D points m ± √D L eᵢ, which are exact for a "
            "quadratic log-joint."
        ),
        Table(("identity", *result.deviations), rows, caption, marked=[0]),
        Picture(
            figures["identity"],
            "The deviation of every single q, against the machine's ε (dotted). The lowest row of "
            "either colour is q whose deviation is exactly zero, drawn at ε / 10. A trend towards "
            "the right or left only says that the terms themselves grow there.",
        ),
    ]


def form_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """Energy + entropy, reconstruction - KL, and both from draws."""
    return [
        Equation(r"\mathcal{E} = \mathbb{E}_{q}[\log\, p(x, z)] + H(q) \qquad (12)"),
        Equation(
            r"\mathcal{E} = \mathbb{E}_{q}[\log\, p(x\,|\,z)] - D_{KL}\left(q(z)\,\Vert\, p(z)\right)"
        ),
        Picture(
            figures["terms"],
            "The dots are the ELBO as an average of log-weights; the broad line is the sum of the "
            "two terms. Location: the entropy does not depend on where q is, so the energy alone "
            "decides. Scale: the energy prefers q to be a point, the entropy prefers it wide, and "
            "the ELBO has its maximum where their slopes cancel, at the posterior's own width.",
        ),
        sampled_table(result),
    ]


def sampled_table(result: "Result") -> Table:
    """The terms of Jensen's q by sampling, beside the exact ones."""
    exact, found = result.named["Jensen's q"][1], result.sampled
    truth = {**exact._asdict(), "log_evidence": result.log_evidence}
    labels = {
        "elbo": "ELBO",
        "energy": "energy",
        "entropy": "entropy",
        "reconstruction": "reconstruction",
        "kl_prior": "KL(q || prior)",
        "kl_posterior": "KL(q || posterior)",
        "log_evidence": "log p(x)",
    }
    rows = []
    for name, label in labels.items():
        term: Term = getattr(found, name)
        error = "closed form" if term.exact else f"± {float(term.standard_error):.1e}"
        rows.append((label, f"{float(truth[name]):.5f}", f"{float(term.value):.5f}", error))
    caption = (
        "Jensen's q again, from 100,000 draws, in nats: what one has where nothing but the two "
        "densities is known. The draws are shared, so ELBO + KL(q || posterior) is log p(x) for "
        "each draw, and its standard error is rounding."
    )
    return Table(("term", "exact", "from draws", "standard error"), rows, caption)


def jensen_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """Averages of weights and of their logarithms."""
    variance = result.jensen.relative_variance
    rows = []
    for size, above, below in zip(
        result.config.num_samples,
        result.jensen.log_of_average,
        result.jensen.average_of_logs,
        strict=True,
    ):
        error = above.std(ddof=1) / np.sqrt(len(above))
        law = f"{variance / (2 * size):.4f}" if np.isfinite(variance) else "none"
        rows.append(
            (
                f"{size:,}",
                f"{above.mean():.4f} ± {error:.4f}",
                f"{result.log_evidence - above.mean():.4f}",
                law,
                f"{below.mean():.4f}",
            )
        )
    said = (
        "The variance of one weight is finite here, "
        f"Var(w) / p(x)² = {variance:.4f}, so the gap falls as Var(w) / (2 S p(x)²) once S is "
        "large; at S = 1 the gap is KL(q || posterior), which is another number."
        if np.isfinite(variance)
        else "This q is too narrow in some direction: the variance of its weights is infinite, "
        "there is no 1/S law, and the averages converge slowly and by jumps."
    )
    header = (
        "S",
        "mean of log average",
        "gap to log p",
        "Var(w) / (2 S p²)",
        "mean of average log",
    )
    caption = f"Over {result.config.num_repeats:,} draws of each, in nats (± standard error)."
    return [
        Equation(
            r"\log\, \mathbb{E}_{q}[w] \;\geq\; \mathbb{E}_{q}[\log\, w], \qquad "
            r"w = \dfrac{p(x, z)}{q(z)}, \quad z \sim q"
        ),
        Text(
            f"We want the left side and, with one draw, get an unbiased estimate of the right one. "
            f"For q {knobs_said(result)}, with more draws it matters what is averaged:"
        ),
        Picture(
            figures["jensen"],
            "Left, the log of the average of S weights: its mean (triangle) is the ELBO at S = 1 "
            "and moves up to log p(x) (dashed) as S grows. Right, the average of the S logs: it "
            "narrows as well, but onto the ELBO (dotted), however many draws. The two rows at "
            "S = 1 are the same numbers. The tail to the left is why one draw is a poor estimate.",
        ),
        Table(header, rows, caption),
        Text(said),
    ]


def energy_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """The collapse of q without the entropy."""
    alone, both = result.ascents["energy alone"], result.ascents["energy + entropy"]
    apart = np.linalg.norm(alone.mean[-1] - result.bed.mean)
    widest = np.sqrt(np.linalg.eigvalsh(alone.covariance[-1])[-1])
    return [
        Text(
            "The lecture: the energy encourages q to concentrate its mass where p(x, z) is high, "
            "and alone it could concentrate it in one place, the mode; the entropy spreads it. "
            f"Both ascents start at the same q and take {result.config.num_steps} steps of Adam:"
        ),
        Picture(
            figures["energy_alone"],
            "Above: q (darker as it climbs; the cross is its last mean) against the posterior. "
            "Below: with the energy alone the energy rises to its maximum, log max p(x, z), the "
            "entropy falls without end, and the ELBO, which nobody watched, falls with it. With "
            "the entropy q becomes the posterior and the ELBO log p(x).",
        ),
        Text(
            f"At the end the mean of the energy's q is {apart:.1e} from the mode, its largest "
            f"standard deviation is {widest:.1e} and its ELBO {alone.elbo[-1]:.1f} nats. With the "
            f"entropy the ELBO is {both.elbo[-1]:.6f}, which is "
            f"{result.log_evidence - both.elbo[-1]:.1e} below log p(x). The energy's optimum is "
            "maximum a posteriori estimation: a point, with no claim about uncertainty."
        ),
    ]


def point(values: np.ndarray) -> str:
    """Coordinates in words."""
    return f"({', '.join(f'{value:.3g}' for value in values)})"
