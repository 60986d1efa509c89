"""The style of all figures, and the one way to save a figure, a table or a page: with its data and its provenance."""

import contextlib
import json
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import psutil
import seaborn as sns
import torch
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..measure.metrics import COLUMNS
from ..store.disk import atomic

Record = Mapping[str, Any]

# The colour, marker and dash of a rule, told apart also in print and by the colour-blind. SERIES: for what is no rule.
NAMES = {"unedited": "unedited", "rome": "ROME", "r-rome": "r-ROME", "p-rome": "p-ROME", "aao": "aao"}
COLOURS = {"unedited": "#7F7F7F", "rome": "#D55E00", "r-rome": "#0072B2", "p-rome": "#009E73", "aao": "#CC79A7"}
MARKERS = {"unedited": "s", "rome": "X", "r-rome": "o", "p-rome": "^", "aao": "D"}
DASHES = {"unedited": (1, 1), "rome": "", "r-rome": (4, 1.5), "p-rome": (6, 1.5, 1, 1.5), "aao": (1.5, 1)}
SERIES = ("#332288", "#999933", "#882255", "#8B6B4A", "#444444", "#A8A8F0")
SIZE = r"$\Vert\Delta\Vert_F$"

CAPTION = (
    "{} {}. Per cent, GE times 100, perplexity the median; in brackets 95 % intervals, bootstrapped over subjects, that of "
    "perplexity over facts (rule of three where all agree). Bold: the best edited model of a column and those not seen to "
    "lie below it, where these are not all (paired differences)."
)

# seaborn's keywords: points and lines by rule
BY_RULE = {"hue": "rule", "style": "rule", "palette": COLOURS, "markers": MARKERS}
LINES = {**BY_RULE, "dashes": DASHES, "markeredgecolor": "auto"}

# a legend in one row above the panel, where it hides nothing
ABOVE = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 9, "fontsize": 7}
ABOVE |= {"columnspacing": 0.8, "handlelength": 1.3, "handletextpad": 0.3}

# seaborn's keywords that draw a value with an interval that is known already; see `with_interval`
INTERVAL = {"estimator": lambda three: three.iloc[0], "errorbar": lambda three: (three.iloc[1], three.iloc[-1])}


def with_interval(table: pd.DataFrame, value: str, low: str = "low", high: str = "high") -> pd.DataFrame:
    """The table three times: with the value, the low and the high end in column `value`."""
    return pd.concat([table.assign(**{value: table[column]}) for column in (value, low, high)], ignore_index=True)


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw all figures inside in one style; afterwards pyplot forgets them, else a notebook shows some twice."""
    before, state = plt.get_fignums(), np.random.get_state()
    with plt.style.context("rrome.data.rrome"):
        np.random.seed(0)  # seaborn spreads points with NumPy's global generator
        yield
    np.random.set_state(state)
    for number in set(plt.get_fignums()) - set(before):
        plt.close(number)


def subplots(*shape: int, **options: Any) -> tuple[Figure, Any]:
    """A figure whose panels leave room for each other's labels, and its panels."""
    return plt.subplots(*shape, layout="constrained", **options)


def lines(panel: Axes, table: pd.DataFrame, x: str, y: str, by: str = "rule", **looks: Any) -> None:
    """A line with marks for each `by`: a rule looks the same in all figures, other lines take the colours of SERIES."""
    if by != "rule":
        looks = {"palette": SERIES[: table[by].nunique()], "markers": True, "markersize": 5, "dashes": True} | looks
    sns.lineplot(table, x=x, y=y, ax=panel, **({"estimator": None} | LINES | {"hue": by, "style": by} | looks))


def legend(panel: Axes, **options: Any) -> None:
    """A small legend without a title, rules by their names."""
    handles, labels = panel.get_legend_handles_labels()
    panel.legend(handles, [NAMES.get(label, label) for label in labels], **({"fontsize": 7.5} | options))


def name_rules(grid: sns.FacetGrid) -> None:
    """Rules by their names, and no title, in the legend of a grid."""
    grid.legend.set_title(None)
    for label in grid.legend.texts:
        label.set_text(NAMES.get(label.get_text(), label.get_text()))


def show(figure: Figure, alt: str) -> None:
    """Display a figure in a notebook with its alternative text, which the book shows too."""
    display(figure, metadata={"image/png": {"alt": alt}})


def save_files(
    contents: Record, table: pd.DataFrame, name: str, folder: str | Path, *, provenance: Record
) -> list[Path]:
    """Write NAME.csv (the table), NAME.json (provenance) and `contents`, each whole or not at all.

    `contents` maps a suffix to a text, or to a function that writes to a path.
    """
    record = json.dumps({"figure": name, "rows": len(table), **provenance}, indent=2, ensure_ascii=False) + "\n"
    everything = {".csv": table.to_csv(index=False, lineterminator="\n"), **contents, ".json": record}
    files = [Path(folder) / f"{name}{suffix}" for suffix in everything]
    for file, content in zip(files, everything.values(), strict=True):
        with atomic(file) as scratch:
            content(scratch) if callable(content) else scratch.write_text(content, encoding="utf-8")
    return files


def save_figure(
    figure: Figure, table: pd.DataFrame, name: str, folder: str | Path, *, alt: str, provenance: Record
) -> list[Path]:
    """Write NAME.csv, .png, .pdf and .json (provenance with the alternative text)."""
    pictures = {
        ".png": partial(figure.savefig, format="png", metadata={"Description": alt}),
        ".pdf": partial(figure.savefig, format="pdf", metadata={"CreationDate": None, "Title": alt}),
    }
    with style():
        return save_files(pictures, table, name, folder, provenance={"alt": alt, **provenance})


def save_table(
    table: pd.DataFrame, name: str, folder: str | Path, *, sample: str, published: Record | None = None,
    provenance: Record,
) -> list[Path]:  # fmt: skip
    """Write a table of metrics: NAME.csv (numbers with _low and _high), .md, .tex (captioned) and .json (provenance).

    `sample` says what facts these are and how they were drawn.
    """
    caption, latex = CAPTION.format(table["facts"].max(), sample), as_text(table, published, mark=r"\textbf{{{}}}")
    pages = {
        ".md": f"{caption}\n\n{as_text(table, published, mark='**{}**').to_markdown()}\n",
        ".tex": latex.style.to_latex(
            hrules=True, column_format="l" + "r" * latex.shape[1], caption=caption.replace("%", r"\%")
        ),
    }
    return save_files(pages, table, name, folder, provenance=provenance)


def as_text(table: pd.DataFrame, published: Record | None = None, mark: str = "{}") -> pd.DataFrame:
    """Cells as "mean [low, high]", the best of a column (see `best_rules`) put into `mark`; published rows, if any, below."""
    rows, names = {}, [name for name in (*COLUMNS, "perplexity") if name in table]
    for row in table.to_dict("records"):
        cells = {name: _cell(row[name], row[f"{name}_low"], row[f"{name}_high"]) for name in names}
        cells |= {name: mark.format(cells[name]) for name in COLUMNS if row[f"{name}_best"]}
        rows[NAMES.get(row["rule"], row["rule"])] = cells
    if published:
        for rule, numbers in published["table"].items():
            cells = {name: f"{numbers[name]:.2f}" for name in COLUMNS}
            rows[f"{NAMES[rule]}, {published['model']} (published)"] = cells
    return pd.DataFrame(rows).T.fillna("–").rename_axis("rule")


def _cell(value: float, low: float, high: float) -> str:
    if pd.isna(value):
        return "–"
    return f"{value:.1f}" if pd.isna(low) else f"{value:.1f} [{low:.1f}, {high:.1f}]"


def provenance(editor: Any = None, **settings: Any) -> dict[str, Any]:
    """A JSON-able record: an editor's model, C_0, prefixes and search, settings, versions, commit, device and time.

    `run_seconds` counts from the start of this process (in a notebook: its kernel).
    """
    packages = ("rrome", "torch", "transformers", "tokenizers", "numpy")
    record: dict[str, Any] = {"settings": settings}
    if editor is not None:
        model, moment, on_gpu = editor.model, editor.second_moment, editor.model.device.type == "cuda"
        record |= editor.settings | {
            "model": {"name": model.name, "fingerprint": model.fingerprint, **model.origin},
            "dtype": str(model.site.weight.dtype).removeprefix("torch."),
            "device": torch.cuda.get_device_name(model.device) if on_gpu else model.device.type,
            "second_moment": {"key": moment.key, "tokens": moment.count},
        }
    record["versions"] = {"python": platform.python_version(), **dict.fromkeys(packages)}  # None: not installed
    record["versions"] |= {each.name: each.version for name in packages for each in metadata.distributions(name=name)}
    record["git_commit"] = git_commit()
    record["machine"] = f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads"
    record["run_seconds"] = round(time.time() - psutil.Process().create_time(), 1)
    return record


def git_commit(folder: Path | None = None) -> str | None:
    """The commit of the checkout that holds the package, with "+changes" when its code differs; None outside git."""
    git = ["git", "-C", str(folder or Path(__file__).parent)]
    ask = partial(subprocess.run, check=True, capture_output=True, text=True)
    try:
        commit = ask([*git, "rev-parse", "HEAD"]).stdout.strip()
        return commit + ("+changes" if ask([*git, "status", "--porcelain", "--", "*.py", "*.yaml"]).stdout else "")
    except (OSError, subprocess.CalledProcessError):
        return None
