"""A package of one small experiment, for the tests of lvm_jax.report."""
