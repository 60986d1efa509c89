"""Slides of a notebook, made by nbconvert from the same file: `python -m book.slides NOTEBOOK TARGET`. They need no network."""

import re
import shutil
import sys
from importlib import resources
from pathlib import Path

import nbformat
from math_core import LatexToMathML
from nbconvert import SlidesExporter
from nbconvert.preprocessors import ExtractOutputPreprocessor

from .pages import ROOT

LATEX = LatexToMathML()
MARKDOWN = str.maketrans({sign: f"&#{ord(sign)};" for sign in "*_|`[]"})


def mathml(text: str) -> str:
    """Markdown with its equations as MathML, in which no sign is one of Markdown's."""
    for pattern, block in ((r"\$\$(.+?)\$\$", True), (r"(?<![\\$])\$([^$\n]+?)\$", False)):
        parts = re.split(pattern, text, flags=re.DOTALL)
        for n, latex in enumerate(parts[1::2]):
            equation = LATEX.convert_with_local_state(latex, displaystyle=block)
            parts[2 * n + 1] = re.sub(r"\s*\n\s*", "", equation).translate(MARKDOWN)
        text = "".join(parts)
    return text


def slides(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """One slide per cell of text with the cells of code under it; code without an output is left out."""
    cells = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = mathml(cell.source)
            cell.metadata["slideshow"] = {"slide_type": "slide"}
        elif not cell.outputs:
            continue
        cells.append(cell)
    notebook.cells = cells
    return notebook


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    target.mkdir(parents=True)
    exporter = SlidesExporter(
        extra_template_basedirs=[str(ROOT / "book")], template_name="slides", exclude_anchor_links=True
    )
    exporter.reveal_url_prefix, exporter.reveal_theme = ".", "serif"
    exporter.register_preprocessor(ExtractOutputPreprocessor, enabled=True)
    page, found = exporter.from_notebook_node(slides(nbformat.read(source, as_version=4)))
    (target / "index.html").write_text(page, encoding="utf-8")
    for name, picture in found["outputs"].items():
        (target / name).write_bytes(picture)
    made = Path(str(resources.files("sphinx_revealjs"))) / "_static" / "revealjs" / "dist"
    for name in ("reveal.js", "reveal.css", "theme/serif.css"):
        (target / "dist" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(made / name, target / "dist" / name)


if __name__ == "__main__":
    main()
