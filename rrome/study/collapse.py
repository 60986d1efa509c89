"""When a model is broken, and a sequential run collapses: the edit that did it, and how many edits runs survive.

The criterion is perplexity, the cheap monitor of collapse of Yang et al. 2024 (The Butterfly Effect of Model Editing): an
edited model is broken when that of a probe text exceeds `times` the unedited model's, and a run has collapsed at the first
edit after which its model is.
"""

import warnings

import pandas as pd
from scipy.stats import CensoredData, ecdf

from ..store.disk import RromeError

TIMES = 2.0


def broken(perplexity: pd.Series, unedited: float, times: float = TIMES) -> pd.Series:
    """Whether each edited model is broken: its perplexity on the probe is above `times` `unedited`, or no number."""
    return ~(perplexity <= times * unedited)


def collapse_edit(edits: pd.DataFrame, unedited: float, times: float = TIMES) -> int | None:
    """The first edit (from 1) after which the model is broken; None if there is none."""
    if "perplexity" not in edits:
        raise RromeError("the run has no perplexity after each edit: give Checks a probe")
    after = edits.loc[broken(edits["perplexity"], unedited, times), "edit"]
    return None if after.empty else int(after.iloc[0])


def disabling_edits(edits: pd.DataFrame, times: float = 5.0) -> pd.DataFrame:
    """The edits whose own |Delta| is above `times` the run's median: where the staircase of the cumulative one jumps."""
    return edits[edits["delta"] > times * edits["delta"].median()]


def curve(edits: pd.DataFrame, checkpoints: pd.DataFrame) -> pd.DataFrame:
    """One row per number of edits from 0: cumulative |Delta|, perplexity, and at checkpoints one column per task."""
    steps = pd.DataFrame({"edits": [0, *edits["edit"]], "delta": [0.0, *edits["delta_after"]]})
    steps["perplexity"] = [checkpoints.set_index("edits")["perplexity"][0], *edits["perplexity"]]
    measured = checkpoints.drop(columns=["delta", "perplexity", "texts"], errors="ignore")
    return steps.merge(measured, on="edits", how="left")


def survival(runs: pd.DataFrame) -> pd.DataFrame:
    """Kaplan-Meier curves: per rule the share of runs not collapsed after n edits, with its 95 % interval.

    `runs` has one row per run: `rule`, `collapse` (the edit, NaN when it did not come) and `edits` (the length of the run).
    """
    curves = []
    for rule, here in runs.groupby("rule", sort=False):
        came = here["collapse"].notna()
        times = CensoredData(uncensored=here.loc[came, "collapse"], right=here.loc[~came, "edits"])
        estimate = ecdf(times).sf
        with warnings.catch_warnings():  # where all runs live, or none, the interval is undefined, and stays NaN
            warnings.simplefilter("ignore", RuntimeWarning)
            ends = estimate.confidence_interval(method="log-log")
        points = {"edits": estimate.quantiles, "survived": estimate.probabilities}
        points |= {"low": ends.low.probabilities, "high": ends.high.probabilities}
        start = pd.DataFrame({"edits": [0], "survived": [1.0], "low": [1.0], "high": [1.0]})
        curves.append(pd.concat([start, pd.DataFrame(points)]).assign(rule=rule))
    return pd.concat(curves, ignore_index=True)
