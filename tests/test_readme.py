"""What the README says of files, commands and verdicts is so."""

import csv
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_every_link_leads_to_a_file(link):
    assert (ROOT / link).exists()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_is_listed(path):
    assert f"](notebooks/{path.name})" in README


def test_every_make_target_named_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`make ([a-z-]+)", README)) | set(re.findall(r"^    make ([a-z-]+)", README, re.M)):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_the_verdicts_are_those_that_were_computed():
    with open(ROOT / "figures" / "claims.csv", encoding="utf-8", newline="") as file:
        computed = {row["id"]: row["verdict"] for row in csv.DictReader(file)}
    told = dict(re.findall(r"^\| (C\d+) \|.*\| ([a-z ]+) \|$", README, re.M))
    assert told == computed
