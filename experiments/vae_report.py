"""The words of the `vae` experiment's report."""

from typing import TYPE_CHECKING

import jax
import numpy as np

from experiments.vae_evaluation import DRAWS, Mean, count
from experiments.vae_evidence import LogP, difference
from experiments.vae_models import HIERARCHICAL
from experiments.vae_objectives import ESTIMATORS
from lvm_jax.report import Block, Equation, Fact, Picture, Section, Table, Text

if TYPE_CHECKING:
    from experiments.vae import Result

Page = tuple[str, str, list[Fact], list[Section]]
GAUSSIANS = ("gaussian", "gaussian_fixed", "gaussian_per_dimension", "gaussian_output")
DENSITIES = ("continuous_bernoulli", *GAUSSIANS)

RELOAD = """\
import jax
from experiments import vae_models
from lvm_jax import evidence, training

saved = training.load_model("{path}", vae_models.build)
model, guide, theta, phi, _ = saved
key_z, key_x, key_q, key_p = jax.random.split(jax.random.key(0), 4)
z = model.prior(theta).sample(seed=key_z)  # sample
x = model.likelihood(theta, z).sample(seed=key_x)
q = guide.posterior(phi, x)  # encode one image
mean = model.likelihood(theta, q.sample(seed=key_q)).mean()  # decode
found = evidence.evaluate(key_p, *saved[:4], x[None], 1_000)  # log p(x) and its error"""


def page(result: "Result", figures: dict[str, bytes]) -> Page:
    """Title, lead, facts and sections."""
    test, log_p, active = result.measured.parts[-1], result.measured.chosen, units(result)
    summary = log_p.summary
    number = f"{summary.log_evidence:.2f} ± {summary.sampling_error:.2f}"
    facts = [
        Fact(
            number if log_p.reliable else f"{number} (not reliable)",
            f"log p, nats per test image ({summary.num_points:,} of {test.out_of:,}), by "
            f"{log_p.method}{'' if log_p.reliable else f'; {log_p.flag}'}",
        ),
        Fact(f"{test.elbo.value:.2f}", "ELBO of the same images"),
        Fact(" + ".join(f"{a} of {b}" for a, b in active), "active units of z"),
        Fact(f"{seconds(result):.0f} s", f"training, {len(result.fit.history.step)} epochs"),
    ]
    lead = (
        "A continuous z, a network that makes the distribution of an image from it, and a second "
        "network that guesses z from an image: trained together by a bound on log p(x), then judged "
        "on images that neither of them saw."
    )
    sections = [
        Section("The model", model_blocks(result)),
        Section("Training", training_blocks(result, figures)),
        Section("Held-out likelihood", evidence_blocks(result)),
        Section("Reconstructions", reconstruction_blocks(result, figures)),
        Section("Samples", sample_blocks(figures)),
        Section("What z has learned", latent_blocks(result, figures)),
        Section("To use it again", [Text(RELOAD.format(path=result.path), "code")]),
    ]
    name = result.pixels.images.name.replace("_", " ")
    return f"A variational autoencoder: {name}", lead, facts, sections


def seconds(result: "Result") -> float:
    """Of training, over all parts of a resumed run."""
    return float(result.fit.history.seconds[-1])


def units(result: "Result") -> list[tuple[int, int]]:
    """Active units of each stochastic layer, and how many it has."""
    active = result.measured.active
    pairs = zip(jax.tree.leaves(active.number), jax.tree.leaves(active.variance), strict=True)
    return [(int(number), len(variance)) for number, variance in pairs]


def model_blocks(result: "Result") -> list[Block]:
    """The equations, the data and the sizes."""
    d, pixels, images = result.description, result.pixels, result.pixels.images
    top = len(d.latent_dims)
    prior = r"\mathcal{N}(0, I)" if d.prior == "standard_normal" else r"p_\theta(z)"
    first = rf"z \sim {prior}" if top == 1 else rf"z_{top} \sim {prior}"
    between = (
        "" if top == 1 else r",\quad z_l\,|\,z_{l+1} \sim \mathcal{N}(m_l, \mathrm{diag}(s_l^2))"
    )
    name = "z" if top == 1 else "z_1"
    sizes = " and ".join(f"{dim}" for dim in d.latent_dims)
    bits = {
        "dynamic": "bits drawn afresh whenever an image is fitted, once for the others",
        "fixed": "bits drawn once",
        "threshold": "bits, 1 where a grey value is at least 1/2",
        "none": "as they are" if pixels.high == 1 else f"whole numbers from 0 to {pixels.high:g}",
    }[pixels.binarization]
    blocks: list[Block] = [
        Equation(rf"{first}{between},\quad x\,|\,{name} \sim p_\theta(x\,|\,{name})"),
        Text(
            f"{images.source}. {len(images.train):,} images to fit, {len(images.validation):,} for "
            f"validation and {len(images.test):,} for the test; pixels are {bits}."
        ),
        Text(
            f"z has {sizes} dimensions, prior {d.prior}; p(x | z) is {d.likelihood}; the guide is "
            f"{d.guide}{f', then {d.refine_steps} gradient steps on each image' if d.refine_steps else ''}; "
            f"networks are {network(result)}. theta has {count(result.fit.theta):,} numbers, phi "
            f"{result.measured.num_guide_parameters:,}."
        ),
    ]
    if d.likelihood in DENSITIES:
        blocks.append(
            Text(
                "The likelihood is a density of a pixel in units of its range: it has no upper "
                "limit on grey values that repeat exactly (a border that is always 0), and does "
                "not compare with the probabilities of bits or levels.",
                "note",
            )
        )
    return blocks


def network(result: "Result") -> str:
    """The networks in words."""
    d = result.description
    widths = ["-".join(map(str, hidden)) or "linear" for hidden in d.hidden]
    if d.network == "conv":
        widths[0] = f"convolutions of {'-'.join(map(str, d.channels))} channels"
    above = f" next to x and {widths[1]} above" if d.guide in HIERARCHICAL else ""
    return f"{widths[0]}{above}, {d.activation}"


def training_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """What was climbed, and the learning curves."""
    config, fit = result.config, result.fit
    biased = "" if ESTIMATORS[config.estimator].unbiased_phi else ", biased for phi"
    climbed = f"the {config.bound.upper()} with {draws(config.num_samples)} of z, by {config.estimator}{biased}"
    if config.warm_up:
        climbed += f", the KL's weight rising from 0 to 1 over {config.warm_up} epochs"
    if config.free_bits:
        each = "dimension of z" if config.free_bits_group == "dimension" else "image"
        climbed += f", with {config.free_bits:g} nats of KL free for each {each}"
    kept = (
        "the moving average of its parameters" if config.ema else "the parameters"
    ) + " with the best validation bound"
    step = "" if fit.best_step is None else f", of step {fit.best_step:,} of {fit.step:,}"
    caption = (
        "The true bound, whatever was climbed; the model kept is that with the best validation."
    )
    return [
        Text(
            f"Climbed: {climbed}; Adam at {config.learning_rate:g} ({config.schedule}), batches of "
            f"{config.batch_size}. Kept: {kept}{step}. Ended: {fit.outcome.name}."
        ),
        Picture(figures["training"], caption),
    ]


def draws(number: int) -> str:
    """A number of draws in words."""
    return "1 draw" if number == 1 else f"{number} draws"


def told(mean: Mean) -> str:
    """A mean with its Monte-Carlo and its sampling error."""
    return f"{mean.value:.2f} ± {mean.monte_carlo_error:.3f} ± {mean.sampling_error:.2f}"


def evidence_blocks(result: "Result") -> list[Block]:
    """The table of numbers, and whether log p can be trusted."""
    log_p, test = result.measured.chosen, result.measured.parts[-1]
    gap = log_p.summary.log_evidence - test.elbo.value
    said = (
        f"{log_p}, by {log_p.how}. It is {gap:.3f} nats above the ELBO, which is KL(q || "
        "posterior), averaged: what the guide misses."
    )
    blocks = [Text(said), parts_table(result), *map(verdict_block, result.measured.log_p)]
    first = result.measured.log_p[0]
    apart = None if first is log_p else difference(log_p, first)
    if apart is not None:
        blocks.append(
            Text(
                f"On the {apart.num_points:,} images where {log_p.method} is reliable, importance "
                f"sampling is lower by {apart.mean:.3f} ± {apart.error:.3f} nats per image (± by "
                "what both say of their errors)."
            )
        )
    return blocks


def verdict_block(log_p: LogP) -> Block:
    """Whether a method's errors hold, and for which reasons not."""
    summary = log_p.summary
    if log_p.reliable:
        return Text(
            f"{log_p.how}: every image passes the checks of the weights; k-hat is at most "
            f"{summary.worst_k_hat:.2f}."
        )
    return Text(
        f"{log_p.how}: {log_p.points.verdict()}. The estimate is likely too low there, and its "
        "Monte-Carlo error too small. More draws of importance sampling hardly help against heavy "
        "tails: the same options with --evidence annealed or --evidence certify, and this run's "
        "--out, measure the model again by other means.",
        "note",
    )


def parts_table(result: "Result") -> Table:
    """Bounds and their terms, a column for each part."""
    parts, config = result.measured.parts, result.config
    rows = [
        ("ELBO", *(told(part.elbo) for part in parts)),
        ("reconstruction", *(told(part.reconstruction) for part in parts)),
        ("KL(q || prior)", *(told(part.kl_prior) for part in parts)),
    ]
    if config.bound != "elbo":
        name = f"{config.bound.upper()} of {draws(config.num_samples)}"
        rows.insert(0, (name, *(told(part.bound) for part in parts)))
    for one in result.measured.log_p:
        mean = Mean(*one.summary[:3])
        flag = "" if one.reliable else " (not reliable)"
        rows.append((f"log p, {one.method}{flag}", "–", "–", told(mean)))
    header = ["", *(f"{p.name}, {p.num_points:,} of {p.out_of:,}" for p in parts)]
    caption = (
        "Nats per image ± Monte-Carlo error (of the draws of z, "
        f"{DRAWS} for each image but for log p) ± sampling error (of the images, chosen at random "
        "where they are not all). ELBO = reconstruction − KL, with E_q[log p(x | z)] as the "
        "reconstruction."
    )
    return Table(header, rows, caption, [len(rows) - 1])


def reconstruction_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """Images and their reconstructions."""
    caption = (
        "Test images as the model sees them, and the mean of p(x | z) at one draw of q(z | x)."
    )
    return [Picture(figures["reconstructions"], caption)]


def sample_blocks(figures: dict[str, bytes]) -> list[Block]:
    """Data beside samples."""
    caption = (
        "A model that generates well makes the middle look like the left. The right shows the mean "
        "of each pixel, which is smoother than any image of the model."
    )
    return [Picture(figures["samples"], caption)]


def latent_blocks(result: "Result", figures: dict[str, bytes]) -> list[Block]:
    """Active units, the plane or the traversals, and the aggregate posterior."""
    pictures, variance = result.pictures, []
    for leaf in jax.tree.leaves(result.measured.active.variance):
        variance += np.asarray(leaf).tolist()
    order = np.argsort(variance)[::-1][:8]
    most = ", ".join(f"{pictures.names[unit]} {variance[unit]:.2g}" for unit in order)
    said = (
        "A unit of z is active if its posterior mean varies from image to image by more than 0.01 "
        f"(variance; Burda et al. 2016). The most active ones: {most}."
    )
    if pictures.plane is not None:
        seen = (
            "Left: posterior means, in colours of classes that the model never saw (where there are "
            "any). Right: what the same window of the plane decodes to."
        )
    else:
        seen = (
            "Each row moves one number of z from the low end of its aggregate posterior to the high "
            "one, the others staying at the posterior mean of one test image. The most active on top."
        )
        if len(result.description.latent_dims) > 1:
            seen += " z1.3 is the third number of the layer next to x, through which z makes x."
    against = (
        "The aggregate posterior is the mean of q(z | x) over images. Where the prior has mass and "
        "it has none, samples come from places that the decoder never learned."
    )
    return [
        Text(said),
        Picture(figures["latent"], seen),
        Picture(figures["aggregate"], against),
    ]
