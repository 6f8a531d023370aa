import sys

from lvm_jax.report import command

if __name__ == "__main__":
    sys.exit(command.main("toys", sys.argv[1:]))
