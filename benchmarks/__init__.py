"""Speed and memory, one file per question: `python -m benchmarks.NAME --help`."""
