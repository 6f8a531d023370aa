"""Runnable experiments, one file each: `python -m experiments` lists them."""
