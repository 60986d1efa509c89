"""The plan of the house: eight flats, imports between them downwards only, and files that one can read in a sitting."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import rrome

ROOT = Path(rrome.__file__).parent
ABOVE = {  # what each flat may import
    "store": set(),
    "facts": {"store"},
    "model": {"store", "facts"},
    "update": {"store", "facts", "model"},
    "edit": {"store", "facts", "model", "update"},
    "measure": {"store", "facts", "model", "update"},
    "study": {"store", "facts", "model", "update", "edit", "measure"},
    "plots": {"store", "facts", "model", "update", "edit", "measure"},
}
VERSION = "rrome.__version__"  # a constant above all imports
NAIVE = "rrome.naive"  # the reference, which a study may time itself against
FILES = {
    ".".join(("rrome", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): file
    for file in sorted(ROOT.rglob("*.py"))
}
TREES = {module: ast.parse(file.read_text(encoding="utf-8")) for module, file in FILES.items()}
FLATS = sorted({module.split(".")[1] for module, file in FILES.items() if file.parent != ROOT})


def imports(module: str) -> set[str]:
    """The modules of the kit that a module imports, anywhere in its file."""
    package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            names = {f"{source}.{alias.name}" for alias in node.names} - {VERSION}
            found |= {name if name in FILES else source for name in names}
    return {name for name in found if name.split(".")[0] == "rrome"}


def test_the_flats_are_those_of_the_plan():
    assert set(FLATS) == set(ABOVE)


@pytest.mark.parametrize("flat", FLATS)
def test_a_flat_imports_only_what_lies_below(flat):
    for module in FILES:
        if module.split(".")[1:2] == [flat]:
            found = imports(module) - {NAIVE}
            assert {name.partition(".")[2].split(".")[0] for name in found} <= ABOVE[flat] | {flat}, module


def test_files_do_not_import_each_other_in_a_circle():
    assert len(list(graphlib.TopologicalSorter({module: imports(module) for module in FILES}).static_order())) > 0


def test_the_naive_solver_imports_nothing_of_the_kit():
    assert not imports(NAIVE)


def test_no_file_is_above_250_lines():
    assert not {module: n for module, file in FILES.items() if (n := len(file.read_text().splitlines())) > 250}


def test_nothing_prints():
    for module, tree in TREES.items():
        called = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert "print" not in called, module


@pytest.mark.parametrize("flat", FLATS)
def test_a_flat_names_what_it_re_exports(flat):
    tree = TREES[f"rrome.{flat}"]
    bound = {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    (names,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    assert len(names) == len(set(names)) and set(names) == bound


USED = """
import sys
import rrome
print(*sys.modules)
rrome.load, rrome.Editor, rrome.EditLog
print(*sys.modules)
rrome.sequential_edits
print(*sys.modules)
assert {*rrome.__all__, "measure", "plots"} <= {*dir(rrome)} and all(getattr(rrome, name) for name in dir(rrome))
try:
    rrome.memit
except AttributeError as error:
    print(error)
"""


@pytest.mark.slow
def test_what_is_heavy_is_imported_when_it_is_first_used():
    made = subprocess.run([sys.executable, "-c", USED], capture_output=True, text=True, check=True)
    imported, editing, studying, error = made.stdout.splitlines()
    drawing, measuring = {"matplotlib", "seaborn", "sklearn", "peft", "dask", "datasets", "papermill"}, {"pandas"}
    assert not {*imported.split()} & {*drawing, *measuring, "torch", "transformers", "numpy"}
    assert "torch" in editing.split() and not {*editing.split()} & {*drawing, *measuring}
    assert "pandas" in studying.split() and not {*studying.split()} & drawing
    assert error == "module 'rrome' has no attribute 'memit'"
