"""A warning names the line that called the library, not one inside of it."""

import warnings

from lvm_jax._core import warn as module


def defined_in(module, inner):
    """A function of a module that calls `inner` with a message."""
    scope = {"__name__": module, "inner": inner}
    exec(compile("def call(message): inner(message)", f"{module}.py", "exec"), scope)
    return scope["call"]


def test_a_warning_names_the_line_of_the_caller(monkeypatch):
    monkeypatch.setattr(module, "INSIDE", module.INSIDE | {"typecheck"})  # wraps `warn` here
    function = module.warn
    for name in ("lvm_jax.em.deep", "sklearn.base", "lvm_jax.sklearn", "lvm_jax_user"):
        function = defined_in(name, function)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        function("one")
    assert [(str(one.message), one.filename) for one in found] == [("one", "lvm_jax_user.py")]
