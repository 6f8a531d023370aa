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

    __version__: str

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
    """A subpackage, imported on first use, or `__version__`; AttributeError for another name."""
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    if name == "__version__":  # from pyproject.toml, as it was at installation
        from importlib.metadata import version

        return version("lvm_jax")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What is here already, every subpackage and `__version__`."""
    return sorted({*globals(), *__all__, "__version__"})
