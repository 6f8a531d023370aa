"""What no user needs: checks, batching, random keys, moments, and functions that are made alike."""
