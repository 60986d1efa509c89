"""The style of all figures, and one way to save figures and tables: picture, data, and provenance beside them."""

import contextlib
import json
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import psutil
import torch
from IPython.display import display
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from ..edit.editor import Editor
from ..measure.metrics import COLUMNS
from ..store.disk import atomic

PACKAGES = ("rrome", "torch", "transformers", "tokenizers", "numpy")


def provenance(editor: Editor | None = None, **settings: Any) -> dict[str, Any]:
    """A JSON-able record: an editor's model, C_0, prefixes and search, settings, versions, commit, device and time.

    `run_seconds` counts from the start of this process (in a notebook: its kernel).
    """
    record = {"settings": settings, **({} if editor is None else _of_editor(editor))}
    record["versions"] = {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}
    record["git_commit"] = git_commit()
    record["machine"] = f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads"
    record["run_seconds"] = round(time.time() - psutil.Process().create_time(), 1)
    return record


def git_commit(folder: Path | None = None) -> str | None:
    """The commit of the checkout that holds the package, with "+changes" when its code differs; None outside git."""
    folder = folder or Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(folder, "status", "--porcelain", "--", "*.py", "*.yaml") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _of_editor(editor: Editor) -> dict[str, Any]:
    model = editor.model
    return {
        "model": {"name": model.name, "fingerprint": model.fingerprint, **model.origin},
        "layer": model.layer,
        "dtype": str(model.site.weight.dtype).removeprefix("torch."),
        "device": _device_name(model.device),
        "second_moment": {"key": editor.second_moment.key, "tokens": editor.second_moment.count},
        "seed": editor.seed,
        "leading": editor.leading,
        "prefixes": list(editor.prefixes),
        "search": vars(editor.search),
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


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


# One colour and one second channel (marker, hatch) per rule, told apart also in print and by the colour-blind.
COLOURS = {"unedited": "#7F7F7F", "rome": "#D55E00", "r-rome": "#0072B2", "p-rome": "#009E73", "aao": "#CC79A7"}
HATCHES = {"unedited": "", "rome": "////", "r-rome": "", "p-rome": "....", "aao": "xxxx"}
MARKERS = {"unedited": "s", "rome": "X", "r-rome": "o", "p-rome": "^", "aao": "D"}
DASHES = {"unedited": ":", "rome": "-", "r-rome": "--", "p-rome": "-.", "aao": (0, (1, 1))}
NAMES = {"unedited": "unedited", "rome": "ROME", "r-rome": "r-ROME", "p-rome": "p-ROME", "aao": "aao"}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Inside, figures are drawn in the kit's one style; after it pyplot forgets them, else a notebook shows some twice."""
    before = plt.get_fignums()
    with resources.as_file(resources.files("rrome") / "data" / "rrome.mplstyle") as path, plt.style.context(path):
        yield
    for number in set(plt.get_fignums()) - set(before):
        plt.close(number)


def show(figure: Figure, alt: str) -> None:
    """Display a figure in a notebook with its alternative text, for who cannot see it; the book shows it too."""
    display(figure, metadata={"image/png": {"alt": alt}})


def save_figure(
    figure: Figure, table: pd.DataFrame, name: str, folder: str | Path, *, alt: str, provenance: dict[str, Any]
) -> list[Path]:
    """Write NAME.png, .pdf, .csv and .json (provenance with the alternative text), each whole or not at all."""
    folder = Path(folder)
    record = {"figure": name, "alt": alt, "rows": len(table), **provenance}
    writers: dict[str, Callable[[Any], Any]] = {
        ".png": partial(figure.savefig, format="png", metadata={"Description": alt}),
        ".pdf": partial(figure.savefig, format="pdf", metadata={"CreationDate": None, "Title": alt}),
        ".csv": partial(table.to_csv, index=False, lineterminator="\n"),
        ".json": lambda path: Path(path).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n"),
    }
    with style():
        for suffix, write in writers.items():
            with atomic(folder / f"{name}{suffix}") as scratch:
                write(scratch)
    return [folder / f"{name}{suffix}" for suffix in writers]
