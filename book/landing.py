"""What the landing page and the page of figures show of the repository: verdicts, thumbnails, where each figure comes from."""

import json
import re
from pathlib import Path
from typing import Any

from .stored import claims

ROWS = {  # the stored rows behind a figure, where its CSV is not all of them
    "single_edits-*.jsonl": ("fig2_delta_scatter", "grid_key_choices", "claims", "prefixed_efficacy"),
    "sequential-*/edits.jsonl": ("fig3_collapse_rome", "fig4_stability_rrome", "collapse_by_layer", "claims"),
}


def fill(text: str, root: Path) -> str:
    """A page with `{{verdicts}}` and the like replaced by what is in the repository laid out at root."""
    for name, made in (("verdicts", verdicts), ("thumbnails", thumbnails), ("figures", figures), ("times", times)):
        if f"{{{{{name}}}}}" in text:
            text = text.replace(f"{{{{{name}}}}}", made(root))
    return text


def verdicts(root: Path) -> str:
    """One line per claim: the claim, what was found for its core statement, the verdict."""
    lines = ["| | verdict | the paper's claim | measured here |", "|---|---|---|---|"]
    for row in claims(root / "figures" / "data" / "claims.csv"):
        notebook = row["evidence"].split()[0]
        found = f"{row['statement']}: {row['found']}" if row["statement"] else "not measured"
        cells = [row["id"], f"[{row['verdict']}](notebooks/{notebook}.ipynb)", row["claim"], found]
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("$", "\\$") for cell in cells) + " |")
    return "```{container} verdicts\n" + "\n".join(lines) + "\n```"


def sources(root: Path) -> dict[str, tuple[Path, str]]:
    """The notebook that saves each figure of the repository, and its title."""
    found = {}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        try:
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        except ValueError:
            continue
        title = "".join(cells[0]["source"]).splitlines()[0].lstrip("# ")
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        code = "\n".join(source for source in code if "save_figure" in source)
        for name in re.findall(r'"(\w+)"', code):
            if (root / "figures" / f"{name}.png").exists():
                found.setdefault(name, (path, title))
    return dict(sorted(found.items(), key=lambda each: each[1][0].name))


def provenance(root: Path, name: str) -> dict[str, Any]:
    return json.loads((root / "figures" / f"{name}.json").read_text(encoding="utf-8"))


def times(root: Path) -> str:
    """One line per notebook: profile and time of the longest of the runs that drew its figures."""
    runs: dict[Path, list[tuple[float, str]]] = {}
    for name, (path, title) in sources(root).items():
        made = provenance(root, name)
        seconds, profile = made["run_seconds"], made["settings"]["profile"]
        took = f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
        line = f"| [{title}](../notebooks/{path.name}) | {profile} | {took} | {made['machine']} |"
        runs.setdefault(path, []).append((seconds, line))
    return "\n".join(
        ["| notebook | profile | took | on |", "|---|---|---|---|", *(max(each)[1] for each in runs.values())]
    )


def words(root: Path, name: str) -> str:
    """What a figure's provenance says that it shows."""
    return " ".join(provenance(root, name)["alt"].split()).replace("[", "(").replace("]", ")").replace("|", "\\|")


def thumbnails(root: Path) -> str:
    """A small picture per notebook, its first figure, that leads there."""
    first: dict[Path, tuple[str, str]] = {}
    for name, (path, title) in sources(root).items():
        first.setdefault(path, (name, title))
    items = [
        f"- [![{words(root, name)}](figures/{name}.png)\\\n  {title}](notebooks/{path.name})"
        for path, (name, title) in first.items()
    ]
    return "```{container} thumbnails\n" + "\n".join(items) + "\n```"


def figures(root: Path) -> str:
    """Every figure with its notebook, its numbers, how it was made, and the stored rows behind it."""
    parts, studies = [], root / "figures" / "data" / "studies"
    for name, (path, title) in sources(root).items():
        files = {"numbers": f"data/{name}.csv", "provenance": f"{name}.json"}
        rows = [file for pattern, names in ROWS.items() if name in names for file in sorted(studies.glob(pattern))]
        files |= {f"rows {n}": f"data/studies/{file.relative_to(studies)}.gz" for n, file in enumerate(rows, 1)}
        links = [f"[{word}]({file})" for word, file in files.items() if (root / "figures" / file).exists()]
        links.insert(0, f"[{title}](../notebooks/{path.name})")
        heading = re.sub(r"^Fig(\d)", r"Figure \1:", name.replace("_", " ").capitalize())
        parts.append(f"## {heading}\n\n![{words(root, name)}]({name}.png)\n\n{' · '.join(links)}\n")
    return "\n".join(parts)
