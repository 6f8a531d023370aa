"""Latent-variable models in JAX whose every likelihood is exact, or measured with an error bar.

`import lvm_jax` imports nothing else: `lvm_jax.training` is imported when it is first asked for.
"""

from importlib import import_module

TYPE_CHECKING = False  # type checkers take it for true; importing `typing` would cost all the time
if TYPE_CHECKING:
    from lvm_jax import (
        annealing,
        bounds,
        compile_cache,
        compiling,
        data,
        decomposition,
        diagnostics,
        distributions,
        em,
        estimate,
        evidence,
        gradients,
        guides,
        likelihoods,
        models,
        networks,
        parallel,
        plotting,
        precision,
        priors,
        problems,
        report,
        sklearn,
        training,
        typing,
        vae,
        vi,
        weights,
    )

__version__ = "0.1.0"
__all__ = [
    "annealing",
    "bounds",
    "compile_cache",
    "compiling",
    "data",
    "decomposition",
    "diagnostics",
    "distributions",
    "em",
    "estimate",
    "evidence",
    "gradients",
    "guides",
    "likelihoods",
    "models",
    "networks",
    "parallel",
    "plotting",
    "precision",
    "priors",
    "problems",
    "report",
    "sklearn",
    "training",
    "typing",
    "vae",
    "vi",
    "weights",
]


def __getattr__(name: str) -> object:
    """The room of this name, imported on its first use; AttributeError for any other name."""
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What is here already, and every room."""
    return sorted({*globals(), *__all__})
