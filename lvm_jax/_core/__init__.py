"""Internal helpers: validation, batching, random keys, moments, and equality of functions."""
