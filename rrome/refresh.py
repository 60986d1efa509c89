"""For maintainers: run notebooks with their committed defaults and store one clean run's outputs in place.

python -m rrome.refresh notebooks/*.ipynb
"""

from pathlib import Path
from typing import Annotated

import nbformat
import typer
from nbclient import NotebookClient

KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def refresh(path: Path) -> None:
    """Execute a notebook from top to bottom in its folder and rewrite it with tidy outputs and metadata."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    tidy(notebook)
    nbformat.write(notebook, path)


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Keep outputs that say something: no progress bars, no warnings on stderr, no times and no widget state."""
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNELSPEC, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        if cell.cell_type != "code":
            continue
        cell.metadata.pop("execution", None)
        cell.outputs = [output for output in cell.outputs if not _is_noise(output)]


def _is_noise(output: nbformat.NotebookNode) -> bool:
    widget = "application/vnd.jupyter.widget-view+json" in output.get("data", {})
    return widget or (output.output_type == "stream" and output.name == "stderr")


def main(notebooks: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False)]) -> None:
    """Run NOTEBOOKS with their defaults and keep the outputs in them."""
    for path in notebooks:
        typer.echo(f"running {path}")
        refresh(path)


if __name__ == "__main__":
    typer.run(main)
