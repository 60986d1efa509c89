"""Prints pip constraints that hold each dependency in pyproject.toml at its lower bound: `python tools/lowest.py > FILE`."""

import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


def lowest() -> list[str]:
    """The dependencies that the package and its tests need, each as NAME==BOUND."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["cluster"], *extras["hub"], *extras["test"]]
    return [requirement.replace(">=", "==") for requirement in needed if "[" not in requirement]


if __name__ == "__main__":
    sys.stdout.write("\n".join(lowest()) + "\n")
