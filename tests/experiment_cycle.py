"""What the tests of every experiment share: the run directory of a finished run."""

import json
from html.parser import HTMLParser


def read(result, name):
    """A JSON file of the run directory."""
    return json.loads((result.path / name).read_text(encoding="utf-8"))


def check_whole(result, *figures):
    """The directory of a finished run is whole: its options, numbers, metrics, figures and page.

    `figures` are the names of all of them, each once in a page that needs no network. Gives the
    numbers of results.json and the lines of metrics.jsonl.
    """
    assert read(result, "config.json")["seed"] == result.config.seed
    found = read(result, "results.json")
    assert found["provenance"]["seed"] == result.config.seed
    assert found["provenance"]["libraries"]["jax"]
    lines = (result.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    drawn = {path.name: path.read_bytes() for path in (result.path / "figures").iterdir()}
    assert drawn.keys() == {f"{name}.png" for name in figures}
    assert all(content.startswith(b"\x89PNG") for content in drawn.values())
    page = (result.path / "report.html").read_text(encoding="utf-8")
    HTMLParser().feed(page)
    assert page.count("data:image/png;base64,") == len(figures)
    assert "http://" not in page.replace("http://www.w3.org", "")
    return found, [json.loads(line) for line in lines]
