"""The command line of the experiments; README.md explains it."""

import sys
from collections.abc import Sequence

from lvm_jax.report import command


def main(arguments: Sequence[str]) -> int:
    """Run a command line; the exit code."""
    return command.main("experiments", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
