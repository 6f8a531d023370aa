"""Write the figures of the pages into docs/figures/: all, or those of the pages named.

python -m docs._site.figures [mixtures ...]
"""

import os
import sys

from docs._site import benchmarks
from docs._site.pages import DOCS, figures, pages, run


def main(names: list[str]) -> None:
    """Run each page that shows figures, with docs/figures/ as the working directory."""
    os.chdir(DOCS / "figures")
    for page in pages():
        if figures(page) and (not names or page.stem in names):
            run(page)
    if not names or "benchmarks" in names:
        benchmarks.main()


if __name__ == "__main__":
    main(sys.argv[1:])
