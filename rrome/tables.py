"""The metrics table, as a notebook shows it and as CSV, Markdown and LaTeX (booktabs); small tables as HTML."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from .cache import atomic
from .plots import NAMES
from .summaries import COLUMNS

CELL = 'style="text-align: left; vertical-align: top; padding: 0.2em 0.8em; white-space: pre-wrap"'


def best_rules(table: pd.DataFrame) -> dict[str, str]:
    """The rule with the best mean of each measure; the unedited model does not compete. All measures: more is better."""
    edited = table[table["rule"].ne("unedited")].set_index("rule")
    return {name: edited[name].idxmax() for name in COLUMNS if edited[name].notna().any()}


def as_text(table: pd.DataFrame, published: Mapping[str, Any] | None = None, mark: str = "{}") -> pd.DataFrame:
    """Cells as "mean [low, high]", the best of a column put into `mark`; published rows, if given, stand below."""
    best = best_rules(table)
    rows = {}
    for row in table.to_dict("records"):
        cells = {name: _cell(row[name], row[f"{name}_low"], row[f"{name}_high"]) for name in COLUMNS}
        rows[NAMES.get(row["rule"], row["rule"])] = {
            name: mark.format(cell) if best.get(name) == row["rule"] else cell for name, cell in cells.items()
        }
    published = published or {}
    for rule, numbers in published.get("table", {}).items():
        rows[f"{NAMES[rule]}, {published['model']} (published)"] = {name: f"{numbers[name]:.2f}" for name in COLUMNS}
    return pd.DataFrame(rows).T.rename_axis("rule")


def _cell(value: float, low: float, high: float) -> str:
    if pd.isna(value):
        return "–"
    return f"{value:.1f}" if pd.isna(low) else f"{value:.1f} [{low:.1f}, {high:.1f}]"


def styled(table: pd.DataFrame, published: Mapping[str, Any] | None = None) -> Styler:
    """The table for a notebook: best of each column bold, published rows in italics."""
    cells = as_text(table, published)
    best = {name: NAMES.get(rule, rule) for name, rule in best_rules(table).items()}

    def weights(column: pd.Series) -> list[str]:
        return ["font-weight: bold" if best.get(column.name) == rule else "" for rule in column.index]

    def slant(row: pd.Series) -> list[str]:
        return ["font-style: italic; opacity: 0.8" if "published" in row.name else ""] * len(row)

    return cells.style.apply(weights, axis=0).apply(slant, axis=1)


def save_table(
    table: pd.DataFrame,
    name: str,
    folder: str | Path,
    *,
    published: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any],
) -> list[Path]:
    """Write NAME.csv (numbers with _low and _high), .md, .tex and .json (provenance), each whole or not at all."""
    latex = as_text(table, published, mark=r"\textbf{{{}}}").style.to_latex(
        hrules=True, column_format="l" + "r" * len(COLUMNS)
    )
    contents = {
        ".csv": table.to_csv(index=False, lineterminator="\n"),
        ".md": as_text(table, published, mark="**{}**").to_markdown() + "\n",
        ".tex": latex,
        ".json": json.dumps({"figure": name, "rows": len(table), **provenance}, indent=2, ensure_ascii=False) + "\n",
    }
    files = []
    for suffix, content in contents.items():
        files.append(Path(folder) / f"{name}{suffix}")
        with atomic(files[-1]) as scratch:
            scratch.write_text(content, encoding="utf-8")
    return files


def html_table(caption: str, heads: Sequence[str], rows: Mapping[str, Sequence[str | float]]) -> str:
    """HTML with a caption and headers of columns and rows; every text in it is escaped, numbers have three digits."""
    head = "".join(f'<th scope="col" {CELL}>{escape(name)}</th>' for name in heads)
    body = ""
    for name, cells in rows.items():
        texts = [cell if isinstance(cell, str) else f"{cell:.3g}" for cell in cells]
        data = "".join(f"<td {CELL}>{escape(text)}</td>" for text in texts)
        body += f'<tr><th scope="row" {CELL}>{escape(name)}</th>{data}</tr>'
    return (
        f"<table><caption {CELL}>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
