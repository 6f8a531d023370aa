"""The words of the marginal-likelihood experiment's report."""

import math
from typing import TYPE_CHECKING

from experiments.marginal_likelihood_beds import GOOD, MEAN_FIELD, PRIOR, UNIFORM
from experiments.marginal_likelihood_figures import log10_needed
from experiments.marginal_likelihood_measure import WITHIN
from experiments.marginal_likelihood_tables import failure, table
from lvm_jax.report import Block, Equation, Fact, Picture, Section, Table, Text

if TYPE_CHECKING:
    from experiments.marginal_likelihood import Result

Page = tuple[str, str, list[Fact], list[Section]]


def page(result: "Result", figures: dict[str, bytes]) -> Page:
    """Title, lead, facts and sections."""
    bed, cells = result.beds["gaussian"][-1], result.cells["gaussian"][-1]
    most = f"{result.config.num_samples[-1]:,}"
    good = f"where fewer than half of its estimates come within {WITHIN:g} nat"
    medians = {name: f"{c[-1].quantiles[1]:+.2f}".replace("-", "−") for name, c in cells.items()}
    facts = [
        Fact(medians[UNIFORM], f"nats: median error of uniform draws, D = {bed.size}, S = {most}"),
        Fact(medians[PRIOR], "nats: the same, draws from the prior"),
        Fact(medians[GOOD], "nats: the same, importance sampling from q"),
        Fact(
            f"{cells[UNIFORM][-1].reported_error:.2f}",
            "nats: the error that the uniform estimate reports of itself there",
        ),
        *(Fact(failure(result, name), f"{name}: {good}") for name in (UNIFORM, PRIOR, GOOD)),
    ]
    lead = (
        "The evidence is an average, so why not average? Because nearly every draw from the prior, "
        "or from a uniform, lands where p(x, z) is nothing. The same average over draws from a q "
        "near the posterior works, with the same number of draws, on the same models."
    )
    sections = [
        Section("One estimate, three places to draw from", method_blocks(result)),
        Section("Two models whose log p(x) is known", model_blocks(result)),
        Section("Where they fail", error_blocks(result, figures)),
        Section("Why", why_blocks(figures)),
        Section("How many draws would do?", needed_blocks(result, figures)),
        Section("Do they know that they have failed?", honesty_blocks(result, figures)),
        Section("More draws", sample_blocks(result, figures)),
    ]
    return "Estimating log p(x): where to draw z from", lead, facts, sections


def method_blocks(result: "Result") -> list[Block]:
    """The lecture's derivation, and the estimate that all share."""
    config = result.config
    return [
        Text("If z is uniform on a space of size |Z|, p(x) is an expectation times that size:"),
        Equation(
            r"p(x) = |\mathcal{Z}| \int_{z \in \mathcal{Z}} \dfrac{1}{|\mathcal{Z}|}\, p(x, z)\, dz "
            r"\approx |\mathcal{Z}|\, \dfrac{1}{S} \sum_{s=1}^{S}\; p(x, z^{(s)}), \qquad "
            r"z^{(s)} \sim \mathcal{U}(\mathcal{Z})"
        ),
        Text("and for any other q that covers the posterior it is one without a factor:"),
        Equation(
            r"p(x) = \mathbb{E}_{z \sim q}\left[\dfrac{p(x, z)}{q(z)}\right] \approx "
            r"\dfrac{1}{S} \sum_{s=1}^{S}\; w_s, \qquad w_s = \dfrac{p(x, z^{(s)})}{q(z^{(s)})}, "
            r"\qquad z^{(s)} \sim q"
        ),
        Text(
            "The first is the second with q = 1/|Z|; drawing from the prior is the second with "
            "q = p(z), where w = p(x | z). So one program serves all, and only q differs:"
        ),
        Table(
            ("name", "Gaussian z", "discrete z"),
            [
                (
                    UNIFORM,
                    f"the box [−{config.box:g}, {config.box:g}]^D, |Z| = {2 * config.box:g}^D",
                    "all values, |Z| = L^K",
                ),
                (PRIOR, "N(0, I)", "independent, probabilities not equal"),
                (
                    GOOD,
                    f"the posterior N(m, V), V = L Lᵀ, its standard deviations × {config.widen:g}, "
                    f"its mean moved by {config.shift:g} L (1, …, 1)",
                    f"product of the posterior's marginals, {config.defensive:.0%} uniform mixed "
                    "into each",
                ),
                (MEAN_FIELD, "the diagonal Gaussian whose ELBO is highest", "–"),
            ],
            "Where z is drawn from.",
            is_text=True,
        ),
        Text(
            "q is made from the truth here, because the question is what to do with a good q, not "
            "how to find one. That is what variational inference is for.",
            "note",
        ),
    ]


def model_blocks(result: "Result") -> list[Block]:
    """The models, their exact evidence, and what the box loses."""
    config = result.config
    outside = max(bed.outside_box for bed in result.beds["gaussian"])
    lost = (
        "The box must hold the posterior, or the uniform estimate loses what lies outside: at most "
        f"{outside:.0e} of it here, in any dimension, which nobody could see."
        if outside < 1e-3
        else f"The box loses up to {outside:.2g} of the posterior, which biases the uniform estimate."
    )
    terms = config.num_values ** config.num_variables[-1]
    return [
        Equation(
            r"z \sim \mathcal{N}(0, I_D), \qquad x\,|\,z \sim \mathcal{N}(W z,\, s^2 I_D), \qquad "
            r"\log\, p(x) = \log\, \mathcal{N}(x;\, 0,\, W W^{T} + s^2 I)"
        ),
        Equation(
            r"z_k \sim \mathrm{Categorical}(\pi_k), \;\; k \leq K, \qquad "
            r"x\,|\,z \sim \mathcal{N}(W v(z),\, s^2 I_K), \qquad "
            r"p(x) = \sum_{z \in \{1, \ldots, L\}^K}\; p(x, z)"
        ),
        Text(
            f"W has ones on its diagonal and {config.coupling:g} beside it, which correlates "
            f"neighbours given x; s = {config.noise:g}; v(l) = l − (L + 1) / 2 with L = "
            f"{config.num_values}. x is one draw from the model; a larger model continues a "
            "smaller one (same z and noise, one more entry), so that curves against the size are "
            f"of one story. The discrete sum has up to {terms:,} terms. {lost} The truth is "
            "computed in float64, the estimates in float32."
        ),
    ]


def error_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """Errors against the size, and the tables."""
    config = result.config
    caption = (
        f"Error of log p̂(x) with S = {config.num_samples[-1]:,} draws: marker the median of "
        f"{config.num_repeats} independent estimates, bar from their 10% to their 90% quantile; "
        f"grey the ± {WITHIN:g} nat that count as good. The axis is linear inside the grey and "
        "logarithmic outside. Look at the sign: failure is nearly always an estimate that is far "
        "too LOW, because the draws that would have carried the weight were never made."
    )
    return [Picture(figures["errors"], caption), *(table(result, kind) for kind in result.beds)]


def why_blocks(figures: dict[str, bytes]) -> list[Block]:
    """The concentration of the weights."""
    caption = (
        "Above: 300 draws in two dimensions, the area of each disc its share of the total weight; "
        "the curve holds 90% of the posterior. Grey dots without a disc were drawn for nothing. "
        "Below: the share of the total weight that the n largest of S weights hold (mean over "
        "repeats). A curve that starts at 1 is an estimate made of ONE draw. Equal weights would "
        "give the dotted curve (straight, were the axis linear)."
    )
    return [
        Text(
            "In each dimension the posterior takes up a part of the prior, or of the box. The "
            "parts multiply, so the chance that a draw lands where it counts falls exponentially."
        ),
        Picture(figures["concentration"], caption),
    ]


def needed_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """The exact second moment, and the draws that it asks for."""
    caption = (
        f"Draws that bring the relative standard error of p̂(x) to {WITHIN:g}, exactly. A straight "
        "line on this axis is exponential growth. Dashed: what this experiment spends. Dotted: "
        "what the exact sum over all values of z costs; sampling above that line is worse than "
        "adding everything up."
    )
    bed = result.beds["gaussian"][-1]
    rates = {name: math.exp(value / bed.size) for name, value in bed.log_second_moment.items()}
    draws = {name: log10_needed(value) for name, value in bed.log_second_moment.items()}
    return [
        Text(
            "No sampling is needed to know the variance of the weights: both models give it in "
            "closed form."
        ),
        Equation(
            r"\mathrm{Var}\left(\dfrac{\hat{p}(x)}{p(x)}\right) = \dfrac{1}{S}\left(\mathbb{E}_{q}"
            r"\left[\dfrac{p(z\,|\,x)^2}{q(z)^2}\right] - 1\right) = \dfrac{1}{S}\; "
            r"\chi^2\left(p(z\,|\,x)\,\Vert\, q\right)"
        ),
        Picture(figures["needed"], caption),
        Text(
            f"At D = {bed.size} the expectation is {rates[UNIFORM]:.2f}^D for the uniform, "
            f"{rates[PRIOR]:.2f}^D for the prior and {rates[GOOD]:.3f}^D for q, which asks for "
            f"about 10^{draws[UNIFORM]:.0f}, 10^{draws[PRIOR]:.0f} and "
            f"{10 ** draws[GOOD]:,.0f} draws. Importance sampling pays an exponential price too: "
            "the quality of q buys a small base, and the base is 1 only at the posterior."
        ),
        mean_field_note(result),
    ]


def mean_field_note(result: "Result") -> Text:
    """What becomes of a q that is too narrow in some direction."""
    bed, cells = result.beds["gaussian"][-1], result.cells["gaussian"][-1]
    infinite = [
        b.size for b in result.beds["gaussian"] if b.log_second_moment[MEAN_FIELD] == math.inf
    ]
    if not infinite:
        return Text("The weights of the mean-field q have a finite variance in every dimension.")
    c = cells[MEAN_FIELD][-1]
    return Text(
        f"The mean-field q leaves this plot from D = {infinite[0]}: it is so narrow along the "
        "posterior's long axes (2 V⁻¹ − diag(V⁻¹), the precision of p²/q, is not positive "
        "definite) that its weights have no variance at all. Its estimates still look fair, which "
        f"is the danger: at D = {bed.size} they are {c.rmse:.2f} nats off (RMS) and report "
        f"{c.reported_error:.2f}, and k-hat is {c.k_hat:.2f}. The q of the highest ELBO is not "
        "the best to draw from; a wider one is.",
        "note",
    )


def honesty_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """The standard error that an estimate reports cannot exceed one nat."""
    caption = (
        "Above: the true RMS error over repeats (solid) and the median standard error that the "
        "estimates report (dotted, hollow), which never gets beyond 1. Where the lines part, the "
        "method lies. Below: the share of intervals of ± 2 standard errors that hold log p(x), "
        f"with the binomial standard error of {result.config.num_repeats} repeats; an honest one "
        "holds 95.4% (dashed). A q that is the posterior has no error, and no marker."
    )
    signs = (
        f"Above: the share of estimates within {WITHIN:g} nat. Below: ESS, and k-hat with its "
        "limit of 0.7, beyond which neither the estimate nor its error is to be trusted. No "
        "marker: so few weights differ from 0 that no tail can be fitted, the worst case of all. "
        "k-hat of discrete z is not shown: weights that take few values have no tail."
    )
    return [
        Text(
            "Every estimate comes with a standard error from the spread of its own weights. With "
            "ESS = (Σ w)² / Σ w², it is"
        ),
        Equation(
            r"\mathrm{s.e.}(\log\, \hat{p}) = \dfrac{\mathrm{sd}(w)}{\sqrt{S}\; \bar{w}} = "
            r"\sqrt{\dfrac{S / \mathrm{ESS} - 1}{S - 1}} \;\leq\; 1"
        ),
        Text(
            "because the ESS is at least 1. An estimate that rests on a single draw reports an "
            "error of one nat, were it hundreds of nats off: it cannot see the draws that it did "
            "not make."
        ),
        Picture(figures["honesty"], caption),
        Text(
            "What does tell: an ESS near 1, and a Pareto k-hat above 0.7. Both come with every "
            "estimate of evidence.naive, evidence.uniform and evidence.importance. The "
            "treacherous region is between working and failing, where many intervals still hold."
        ),
        Picture(figures["diagnostics"], signs),
    ]


def sample_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """The error against S."""
    caption = (
        f"RMS error over {result.config.num_repeats} repeats against S (bars: its standard "
        "error), beside √(χ²/S) with the exact constant (dashed; it holds well below 1 nat, and "
        "is not drawn above 3, nor where χ² is infinite). On the dashed line ten times less error "
        "costs a hundred times more draws; far above it, ten times more draws buy next to nothing. "
        "A q that is the posterior is not drawn."
    )
    return [
        Text("More draws do help, but only a method that has begun to work."),
        Picture(figures["samples"], caption),
    ]
