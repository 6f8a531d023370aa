"""A fitted q on disk: its types and parameters, the structure of z, and the constraints.

The description is JSON and names only the types of `TYPES`; loading executes no code.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvm_jax.distributions import (
    FactoredNormal,
    FullRankNormal,
    LowRankNormal,
    NormalMixture,
    Unflattened,
    normal,
)
from lvm_jax.distributions.affine import Affine
from lvm_jax.distributions.flows import Autoregressive, Coupling, Flow
from lvm_jax.distributions.flows.perceptron import Perceptron
from lvm_jax.distributions.scalar import Independent, Normal
from lvm_jax.training import checkpoint
from lvm_jax.training.checkpoint import CheckpointError
from lvm_jax.vi.constraints import CONSTRAINTS, Constrained, Function, Named
from lvm_jax.vi.method import Reason

FOLDER = "vi"
# The parts of q that may be saved: NamedTuples of arrays and of each other.
TYPES = (
    *(FullRankNormal, LowRankNormal, FactoredNormal, NormalMixture),
    *(Affine, Flow, Coupling, Autoregressive, Perceptron),
)
NORMAL = "normal"


class Loaded(NamedTuple):
    """A fit from disk."""

    q: Unflattened | Constrained  # of z
    reason: Reason
    method: str
    numbers: dict[str, float]  # elbo, log_evidence, their standard errors, k_hat, evaluations


def write_fit(path: str | Path, fit: Any) -> Path:
    """Write the q and the numbers of a `VariationalFit` to path/vi; see `VariationalFit.save`."""
    constrained = isinstance(fit.q, Constrained)
    base = fit.q.base if constrained else fit.q
    arrays = {"origin": np.asarray(base.origin)}
    leaves = jax.tree.unflatten(base.structure, range(len(base.shapes)))
    constraint = fit.q.constraint if constrained else None
    facts = {
        "q": _describe(base.flat, "q", arrays),
        "structure": _describe_structure(leaves),
        "shapes": [list(shape) for shape in base.shapes],
        "constrain": list(constraint.names) if isinstance(constraint, Named) else None,
        "function": isinstance(constraint, Function),
        "reason": fit.reason.name,
        "method": fit.method,
        "numbers": {name: float(value) for name, value in _numbers(fit).items()},
    }
    folder = Path(path) / FOLDER
    checkpoint.write(folder, arrays, facts)
    return folder


def load(path: str | Path, constrain: Callable | None = None) -> Loaded:
    """The q that `fit.save(path)` wrote, to sample and to evaluate; the model is not needed.

    `constrain` is the function that the fit had, if it had one; names are saved. Loading executes
    no code from the folder.

    Raises CheckpointError if there is no fit, or a file is damaged, missing or not in the manifest;
    ValueError for a `constrain` where the fit had none, or none where it had a function, and for
    float64 without jax_enable_x64.
    """
    folder = checkpoint.kept(Path(path) / FOLDER)
    problem = checkpoint.verify(folder)
    if problem is not None:
        raise CheckpointError(f"no good fit in {folder}: {problem}")
    arrays, facts = checkpoint.read(folder)
    if any(a.dtype == np.float64 for a in arrays.values()) and not jax.config.read(
        "jax_enable_x64"
    ):
        raise ValueError("path: expected float32, got float64; turn on jax_enable_x64")
    if facts["function"] != callable(constrain):
        had = "a function" if facts["function"] else "none"
        raise ValueError(f"constrain: expected {had}, as in the fit, got {constrain!r}")
    try:
        return _build(arrays, facts, constrain)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"no good fit in {folder}: {checkpoint.FACTS} does not describe one ({error!r})"
        ) from error


def _build(arrays: checkpoint.Arrays, facts: dict, constrain: Callable | None) -> Loaded:
    structure = jax.tree.structure(_read_structure(facts["structure"]))
    shapes = tuple(tuple(map(int, shape)) for shape in facts["shapes"])
    flat = _read(facts["q"], arrays)
    base = Unflattened(flat, jnp.asarray(arrays["origin"]), structure, shapes)
    if constrain is not None:
        q: Unflattened | Constrained = Constrained(base, Function(constrain))
    elif facts["constrain"] is not None:
        unknown = set(facts["constrain"]) - CONSTRAINTS.keys()
        if unknown:
            raise ValueError(f"unknown constraints {sorted(unknown)}")
        q = Constrained(base, Named(tuple(facts["constrain"])))
    else:
        q = base
    return Loaded(q, Reason[facts["reason"]], facts["method"], facts["numbers"])


def _numbers(fit: Any) -> dict[str, Any]:
    return {
        "elbo": fit.elbo.value,
        "elbo_standard_error": fit.elbo.standard_error,
        "log_evidence": fit.log_evidence.log_evidence,
        "log_evidence_standard_error": fit.log_evidence.standard_error,
        "k_hat": fit.k_hat,
        "evaluations": fit.evaluations,
    }


def _describe(part: Any, name: str, arrays: checkpoint.Arrays) -> Any:
    """A part of q as JSON values; its arrays are put into `arrays` under their paths."""
    if part is None:
        return None
    if isinstance(part, Independent) and isinstance(part.distribution, Normal):
        inner = part.distribution
        part = {"loc": inner.loc, "scale": inner.scale}
        return {"type": NORMAL, "fields": _describe_fields(part, name, arrays)}
    if isinstance(part, TYPES):
        fields = _describe_fields(part._asdict(), name, arrays)
        return {"type": type(part).__name__, "fields": fields}
    if type(part) is tuple:
        return [_describe(one, f"{name}.{i}", arrays) for i, one in enumerate(part)]
    if isinstance(part, np.ndarray | jax.Array):
        arrays[name] = np.asarray(part)
        return {"array": name}
    raise TypeError(
        f"fit.save: expected a {name} of {NORMAL}, {', '.join(t.__name__ for t in TYPES)}, got a "
        f"{type(part).__name__}; save its parameters with training.checkpoint"
    )


def _describe_fields(fields: dict, name: str, arrays: checkpoint.Arrays) -> dict:
    return {key: _describe(part, f"{name}.{key}", arrays) for key, part in fields.items()}


def _read(facts: Any, arrays: checkpoint.Arrays) -> Any:
    """The part of q that `_describe` described."""
    if facts is None:
        return None
    if isinstance(facts, list):
        return tuple(_read(one, arrays) for one in facts)
    if "array" in facts:
        return jnp.asarray(arrays[facts["array"]])
    fields = {key: _read(part, arrays) for key, part in facts["fields"].items()}
    if facts["type"] == NORMAL:
        return normal(**fields)
    return {kind.__name__: kind for kind in TYPES}[facts["type"]](**fields)


def _describe_structure(tree: Any) -> Any:
    """Dictionaries with names as keys, lists and tuples, of numbered leaves, as JSON values."""
    if isinstance(tree, int):
        return tree
    if type(tree) is dict and all(isinstance(key, str) for key in tree):
        return {"dict": {key: _describe_structure(part) for key, part in tree.items()}}
    if type(tree) in (list, tuple):
        return {type(tree).__name__: [_describe_structure(part) for part in tree]}
    raise TypeError(
        "fit.save: expected a start of dictionaries with strings as keys, lists, tuples and "
        f"arrays, got a {type(tree).__name__}"
    )


def _read_structure(facts: Any) -> Any:
    if isinstance(facts, int):
        return facts
    ((kind, parts),) = facts.items()
    if kind == "dict":
        return {key: _read_structure(part) for key, part in parts.items()}
    return {"list": list, "tuple": tuple}[kind](_read_structure(part) for part in parts)
