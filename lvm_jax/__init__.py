"""Latent-variable models in JAX whose likelihoods are exact, or estimated with an error bar.

`import lvm_jax` imports no subpackage; each is imported at its first use.
"""

from importlib import import_module

TYPE_CHECKING = False  # type checkers assume True; importing `typing` would be slow
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
    """Import a subpackage or module, or read `__version__`; AttributeError for another name."""
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    if name == "__version__":  # from pyproject.toml, as it was at installation
        from importlib.metadata import version

        return version("lvm_jax")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Names of the module, of all subpackages, and `__version__`."""
    return sorted({*globals(), *__all__, "__version__"})
