"""The pages of the site: README, docs, executed notebooks and tables, laid out for Sphinx as they lie in the repository."""

import argparse
import base64
import gzip
import io
import json
import logging
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from PIL import Image

from . import landing, live

ROOT = Path(__file__).parent.parent
FOLDERS = ("docs", "figures", "rrome", "tests")  # what README and notebooks point at, beside files at the top
CONTENT = (
    "index.md",
    "one_edit_after_another.md",
    "two_mismatches.md",
    "figures/all_figures.md",
)  # the site's own pages
PARTS = {  # the sidebar
    "See it happen": ("one_edit_after_another.md", "two_mismatches.md", "figures/all_figures.md"),
    "Notebooks": ("notebooks/*.ipynb",),
    "Guides": ("docs/*.md",),
    "Tables": ("figures/claims.md", "figures/table*.md"),
    "Repository": ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"),
}
WIDGET = "application/vnd.jupyter.widget-view+json"
log = logging.getLogger(__name__)


def lay_out(root: Path, profile: str, target: Path) -> None:
    """Copy all that the site shows or links into `target`: each notebook from build/`profile`, or else as committed."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in root.iterdir():
        if path.is_file():
            shutil.copy2(path, target)
    for name in FOLDERS:
        shutil.copytree(root / name, target / name)
    (target / "notebooks").mkdir()
    for committed in (root / "notebooks").glob("*.ipynb"):
        executed = root / "build" / profile / committed.name
        shown = executed if executed.exists() else committed
        (target / "notebooks" / shown.name).write_text(lighter(shown.read_text(encoding="utf-8")), encoding="utf-8")
    for path in (target / "figures" / "data").rglob("*.jsonl"):  # readers download the rows compressed
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    for name in CONTENT:
        text = (Path(__file__).parent / "content" / Path(name).name).read_text(encoding="utf-8")
        text = live.fill(landing.fill(text, target), target / "figures" / "data" / "studies")
        (target / name).write_text(text, encoding="utf-8")
    with (target / "index.md").open("a", encoding="utf-8") as page:
        page.write(contents(target))


def contents(folder: Path) -> str:
    """The table of contents that the sidebar shows, for the end of the landing page."""
    trees = []
    for part, patterns in PARTS.items():
        found = [page for pattern in patterns for page in sorted(folder.glob(pattern))]
        entries = "\n".join(page.relative_to(folder).with_suffix("").as_posix() for page in found)
        trees.append(f"\n```{{toctree}}\n:hidden:\n:caption: {part}\n\n{entries}\n```\n")
    return "".join(trees)


def with_title(text: str, name: str) -> str:
    """A page of Markdown, given a heading when it has none."""
    words = re.sub(r"(?<=[a-z])(?=\d)", " ", name.replace("_", " ")).capitalize()
    return text if text.startswith("# ") else f"# {words}\n\n{text}"


def readable(notebook: dict[str, Any], committed: Path) -> dict[str, Any]:
    """The notebook with pictures described, progress bars gone, and under its title a line on the run it shows."""
    heading = ""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = next(iter(re.findall(r"^#+ (.*)", source, re.MULTILINE)[::-1]), heading)
            continue
        cell["outputs"] = [output for output in cell.get("outputs", []) if WIDGET not in output.get("data", {})]
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "text/html" in data:  # any table looks like a frame's, also by night
                html = "".join(data["text/html"])
                data["text/html"] = re.sub(r"<table(?=>| id=)", '<table class="dataframe"', html)
            if "image/png" in data:
                alt = output["metadata"].get("image/png", {}).get("alt")
                if not alt:
                    log.warning("%s: a picture without alt= under %r: show it with plots.show", committed.name, heading)
                cell["metadata"]["mystnb"] = {"image": {"alt": alt or f"Figure: {heading}"}}
    source = f"{made_by(notebook['metadata'], committed)} {{download}}`Download the notebook <{committed.name}>`."
    line = {"cell_type": "markdown", "id": "run", "metadata": {}, "source": f"```{{container}} run\n{source}\n```"}
    metadata = {name: value for name, value in notebook["metadata"].items() if name != "widgets"}
    return notebook | {"metadata": metadata, "cells": [notebook["cells"][0], line, *notebook["cells"][1:]]}


def made_by(metadata: dict[str, Any], committed: Path) -> str:
    """Which run a notebook shows: profile, date and commit, for a run in build/ or for the one that git keeps."""
    if run := metadata.get("papermill"):
        profile = run["parameters"].get("profile", "unnamed")
        commit = metadata.get("rrome", {}).get("git_commit")
        words = f"This page shows the run of profile **{profile}** made on {run['end_time'][:10]}, "
        return words + (f"commit `{shortened(commit)}`." if commit else "commit not recorded.")
    kept = subprocess.run(
        ["git", "-C", committed.parent, "log", "-1", "--format=on %cs, commit `%h`", "--", committed.name],
        capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    return f"This page shows the short run, profile **smoke**, that the repository keeps: last changed {kept or 'before git'}."


def shrunk(png: bytes) -> bytes:
    """A PNG in 256 colours: half of its bytes. One that is so already stays as it is."""
    picture, small = Image.open(io.BytesIO(png)), io.BytesIO()
    if picture.mode == "P":
        return png
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def lighter(notebook: str) -> str:
    """A notebook with its pictures in 256 colours."""
    read = json.loads(notebook)
    for data in (output.get("data", {}) for cell in read["cells"] for output in cell.get("outputs", [])):
        if "image/png" in data:
            data["image/png"] = base64.b64encode(shrunk(base64.b64decode("".join(data["image/png"])))).decode()
    return json.dumps(read, indent=1, ensure_ascii=False)


def shortened(commit: str) -> str:
    """The commit in seven letters, with its mark "+changes" when it has one."""
    name, plus, changes = commit.partition("+")
    return name[:7] + plus + changes


def main() -> None:
    parser = argparse.ArgumentParser(description="Lay out the site's pages for Sphinx.")
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("target", type=Path)
    given = parser.parse_args()
    lay_out(ROOT, given.profile, given.target)


if __name__ == "__main__":
    main()
