"""The data files that ship inside the package: facts of the world that code should not hold as literals."""

from importlib import resources
from typing import Any

import yaml


def read_yaml(name: str) -> Any:
    """The parsed content of `rrome/data/<name>`."""
    return yaml.safe_load(resources.files(__package__).joinpath("data", name).read_text(encoding="utf-8"))
