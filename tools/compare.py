"""How far the tables of a run lie from the accepted ones: `python -m tools.compare TABLE.csv ...`, last in `make figures`."""

import sys
from pathlib import Path

import pandas as pd

from rrome.measure import largest_difference

ACCEPTED = Path("figures/data")


def difference(here: pd.DataFrame, accepted: pd.DataFrame) -> str:
    """The largest relative difference of a number, and how many texts differ; rows are compared in their order."""
    if here.shape != accepted.shape or list(here) != list(accepted):
        return f"{len(here)} rows of {here.shape[1]} columns, accepted are {len(accepted)} of {accepted.shape[1]}"
    numeric = [name for name in here if all(pd.api.types.is_numeric_dtype(table[name]) for table in (here, accepted))]
    numbers = (table[numeric].astype(float).rename_axis("row").reset_index() for table in (here, accepted))
    apart = largest_difference(*numbers, numeric, on=["row"])
    texts, other = (table.drop(columns=numeric).fillna("").astype(str) for table in (here, accepted))
    found = []
    if apart.max() > 0:
        found.append(f"{apart.idxmax()} by {apart.max():.1e} of itself, other numbers by less")
    if differ := int(texts.ne(other).to_numpy().sum()):
        found.append(f"{differ} texts differ")
    return "; ".join(found) or "equal"


def main(*paths: str) -> None:
    """One line per table that figures/data has too."""
    known = [path for path in map(Path, sorted(paths)) if (ACCEPTED / path.name).exists()]
    lines = [f"  {path.stem}: {difference(pd.read_csv(path), pd.read_csv(ACCEPTED / path.name))}" for path in known]
    sys.stdout.write("\n".join([f"Against the accepted tables in {ACCEPTED}:", *lines, ""]) if lines else "")


if __name__ == "__main__":
    main(*sys.argv[1:])
