"""Equations as MathML at build time: browsers draw and read them aloud by themselves, without a script."""

import re
from typing import Any

from docutils import nodes
from math_core import LatexToMathML
from sphinx.application import Sphinx

LATEX = LatexToMathML(annotation=True)


def inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(LATEX.convert_with_local_state(node.astext(), displaystyle=False))
    raise nodes.SkipNode


def block(writer: Any, node: nodes.math_block) -> None:
    equation = LATEX.convert_with_local_state(node.astext(), displaystyle=True)
    writer.body.append(f'<div class="math">{equation}</div>')
    raise nodes.SkipNode


def keep_together(app: Sphinx, doctree: nodes.document) -> None:
    """Put each equation in a line into one piece with the bracket before and the comma behind it."""
    for equation in list(doctree.findall(nodes.math)):
        parent, place = equation.parent, equation.parent.index(equation)
        before, after = cut(parent, place - 1, r"\S+$"), cut(parent, place + 1, r"^\S+")
        parent[place] = nodes.inline("", "", nodes.Text(before), equation, nodes.Text(after), classes=["together"])


def cut(parent: nodes.Element, place: int, pattern: str) -> str:
    """Take what matches out of a text among the parts of `parent`; nothing where there is no such text."""
    text = parent[place].astext() if 0 <= place < len(parent) and isinstance(parent[place], nodes.Text) else ""
    if found := re.search(pattern, text):
        parent[place] = nodes.Text(text[: found.start()] + text[found.end() :])
    return found.group() if found else ""


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    app.connect("doctree-read", keep_together)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
