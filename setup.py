"""The README as an index of packages shows it: pyproject.toml has the rest.

An index has no folder for relative links to resolve in, and the project has no public address yet.
So relative links become their text, and relative pictures are left out.
"""

import re
from pathlib import Path

from setuptools import setup

RELATIVE = r"\([\w./-]+\.(?:md|png)(?:#[^)]*)?\)"


def index_page(text: str) -> str:
    """The Markdown text without relative links and pictures."""
    text = re.sub(rf"!\[[^\]]*\]{RELATIVE}\n*", "", text)
    return re.sub(rf"\[([^\]]*)\]{RELATIVE}", r"\1", text)


if __name__ == "__main__":
    readme = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    setup(long_description=index_page(readme), long_description_content_type="text/markdown")
