"""Print the lowest version that pyproject.toml declares of every dependency, as pip constraints."""

import tomllib
from pathlib import Path

text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
project = tomllib.loads(text)["project"]
for requirement in sum(project["optional-dependencies"].values(), project["dependencies"]):
    if ">=" in requirement:
        print(requirement.replace(">=", "=="))
