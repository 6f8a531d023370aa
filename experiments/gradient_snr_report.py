"""The words of the signal-to-noise experiment's report."""

from typing import TYPE_CHECKING

import numpy as np

from experiments.gradient_snr_toy import ESTIMATORS
from lvm_jax.report import Block, Equation, Fact, Picture, Section, Table, Text

if TYPE_CHECKING:
    from experiments.gradient_snr import Curve, Result

Page = tuple[str, str, list[Fact], list[Section]]
SYMBOL = {"mu": "μ", "A": "A", "b": "b"}


def said_slope(curve: "Curve") -> str:
    """A slope with its standard error."""
    return f"{curve.slope:+.3f} ± {curve.slope_error:.3f}"


def page(result: "Result", figures: dict[str, bytes]) -> Page:
    """Title, lead, facts and sections."""
    phi, theta = result.curves["b"], result.curves["mu"]
    facts = [
        Fact(said_slope(phi["reparameterised IWAE"]), "slope of b under IWAE (law −½)"),
        Fact(said_slope(phi["DReG"]), "slope of b under DReG (law +½)"),
        Fact(said_slope(theta["reparameterised IWAE"]), "slope of μ under IWAE (law +½)"),
        Fact(
            f"{phi['DReG'].snr[-1] / phi['reparameterised IWAE'].snr[-1]:,.0f}×",
            f"SNR of DReG over plain IWAE, b, S = {result.sizes[-1]:,}",
        ),
    ]
    lead = (
        "A tighter bound can be a worse teacher. As importance samples are added, the gradient "
        "that trains the model gets clearer and the one that trains the inference network drowns "
        "in noise, unless it is reparameterised twice."
    )
    sections = [
        Section("The toy", toy_blocks(result)),
        Section("Signal to noise against S", snr_blocks(result, figures)),
        Section("The slopes", slope_blocks(result, figures)),
        Section("A false slope", floor_blocks(result, figures)),
        Section("Checks", check_blocks(result)),
    ]
    return "Signal to noise of gradient estimators", lead, facts, sections


def toy_blocks(result: "Result") -> list[Block]:
    """The model and what is measured."""
    c = result.config
    return [
        Equation(
            r"z \sim \mathcal{N}(\mu, I_D), \quad x\,|\,z \sim \mathcal{N}(z, I_D), \quad "
            r"q(z\,|\,x) = \mathcal{N}(A x + b,\, \frac{2}{3} I_D)"
        ),
        Text(
            f"D = {c.dim}, at one x drawn from the model. The optimum of φ is A = I/2, b = μ/2: the "
            "posterior's mean, with a variance of 2/3 where the posterior has 1/2, so the bound is "
            f"never tight. All parameters then move by {c.perturbation:g} N(0, 1), so that there is "
            "a gradient to find. For every S and estimator and each group of parameters,"
        ),
        Equation(
            r"\mathrm{SNR} = \Vert\, \mathbb{E}[g]\, \Vert \; / \; \left(\sum_i\; \mathrm{Var}[g_i]\right)^{1/2}"
        ),
        Text(
            f"over {c.num_repeats:,} draws of the gradient g. An SNR of 1 means that one gradient is "
            "as much noise as direction. Since the mean of q is A x + b, the gradient for A is that "
            "for b times xᵀ, and its SNR is the same number: A and b are one curve below."
        ),
    ]


def snr_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """The main picture and why it looks so."""
    return [
        Picture(
            figures["snr"],
            "Above b, below μ; bars are ± 2 standard errors; dotted lines have the slopes ±½. Look "
            "at the middle column: for μ everything that uses S samples climbs together; for b "
            "plain IWAE and VIMCO fall, and DReG climbs. The score function without a baseline is "
            "the worst of its family by orders of magnitude. MIWAE lies under PIWAE for b: there "
            "they are the same gradient.",
        ),
        Text(
            "Why: the gap of IWAE is Var(w) / (2 S p²), so phi's gradient, which can only act on "
            "the gap, shrinks as 1/S, while an average of S terms has a noise of S^-½. The ratio "
            "falls as S^-½. DReG weighs the paths by v², the squared normalised weights, whose sum "
            "is itself of order 1/S: its noise falls as S^-3/2, faster than the signal. Wake-phase "
            "gradients (RWS) and CIWAE keep a signal that does not vanish, those of the forward KL "
            "and of the ELBO; MIWAE and PIWAE lift IWAE's curve by their number of groups but not "
            "its slope."
        ),
        Equation(
            r"g_{\mathrm{IWAE}} = \sum_s\; v_s\, \frac{d \log\, w_s}{d \phi} \qquad "
            r"g_{\mathrm{DReG}} = \sum_s\; v_s^2\, \frac{\partial \log\, w_s}{\partial z_s} \frac{\partial z_s}{\partial \phi} \qquad "
            r"v_s = w_s\, /\, \sum_j\; w_j"
        ),
    ]


def slope_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """Every slope with its error, and the SNR at the ends."""
    rows, sizes = [], result.sizes
    for name in ESTIMATORS:
        phi, theta = result.curves["b"][name], result.curves["mu"][name]
        law = f"{phi.expected:+.1f}"
        ends = [f"{curve.snr[-1]:.3g}" for curve in (phi, theta)]
        rows.append((name, said_slope(phi), law, ends[0], said_slope(theta), "+0.5", ends[1]))
    last = f"S = {sizes[-1]:,}"
    header = ("estimator", "slope of b", "law", f"SNR, {last}", "slope of μ", "law", f"SNR, {last}")
    caption = (
        f"Slopes of log SNR against log S over S ≥ {result.config.fit_from}, ± standard error "
        f"(jackknife over {result.config.num_blocks} blocks). MIWAE and PIWAE have "
        f"{result.config.num_groups} groups, CIWAE β = {result.config.beta:g}."
    )
    return [
        Picture(
            figures["slopes"],
            "Squares are the laws for S → ∞. A dot off its square by more than its bar has not "
            "reached them: DReG's noise still loses a term of higher order in 1/S, and in the "
            "groups of MIWAE there are fewer samples than S says.",
        ),
        Table(header, rows, caption, marked=[4, 5]),
        Text(
            "The score function for IWAE is the steepest: without a baseline every draw is credited "
            "with the whole bound, about log p(x), so the noise does not average out but grows as "
            "√S, under a signal of 1/S. VIMCO, the same gradient with each draw's own baseline, is "
            "back on the law of IWAE."
        ),
    ]


def floor_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """Why the naive mean will not do."""
    plain = result.curves["b"]["reparameterised IWAE"]
    return [
        Text(
            "The expectation of an estimator must itself be estimated. The mean of R draws has a "
            "squared length of E[g]² + Var/R, so a ratio made with an estimator's own mean cannot "
            "fall below 1/√R: where the truth is smaller one sees the repeats and not the "
            "estimator. DReG has the same expectation with far less noise, so its mean is used for "
            "all estimators of IWAE."
        ),
        Picture(
            figures["floor"],
            "The same draws, twice. Left: with the estimators' own means two curves lie down on "
            "the dashed floor. Right: with DReG's mean as the signal they go straight through it.",
        ),
        Text(
            f"The fitted slope of reparameterised IWAE is {plain.own_slope:+.3f} on the left and "
            f"{plain.slope:+.3f} on the right; the law is −0.5."
        ),
    ]


def check_blocks(result: "Result") -> list[Block]:
    """Closed forms, and equal means."""
    rows = []
    for group, names in result.exact.items():
        for name, values in names.items():
            curve = result.curves[group][name]
            z = np.abs(np.log(curve.snr / values) / curve.error).max()
            cells = (f"{values[-1]:.5g}", f"{curve.snr[-1]:.5g}", f"{curve.error[-1]:.1%}")
            rows.append((name, SYMBOL[group], *cells, f"{z:.1f}"))
    header = ("estimator", "group", "derived SNR", "measured", "standard error", "largest |z|")
    caption = (
        f"Gradients that are linear in the noise have their SNR in closed form: derived beside "
        f"measured at S = {result.sizes[-1]:,}; the last column is over all S."
    )
    means = [(name, f"{z:.2f}") for name, z in result.agreement.items()]
    count = result.config.dim * len(result.sizes)
    said = (
        "Largest distance of an estimator's mean from its signal (the exact gradient for the ELBO, "
        "the least noisy estimator's mean otherwise), in standard errors of both, over the "
        f"{count} coordinates of b at all S; 3 or 4 is what chance makes of so many. A 0 is the "
        "least noisy one compared with itself."
    )
    return [
        Table(header, rows, caption),
        Table(("estimator", "largest |z|"), means, said),
    ]
