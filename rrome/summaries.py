"""From rows of a study to numbers with intervals: the metrics table, paired differences, and how well keys foretell.

Every interval is a 95 % percentile bootstrap over facts (scipy). Shares and differences are in per cent, as the paper gives
them; GE is 100 times the entropy.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import bootstrap
from sklearn.metrics import roc_auc_score

from .errors import RromeError
from .metrics import score

SHARES = ("ES", "PS", "NS", "EM", "PM", "NM")
COLUMNS = (*SHARES, "GE", "S")
RESAMPLES = 2000
Found = tuple[float, float, float]  # a number with the ends of its interval
NOTHING: Found = (np.nan, np.nan, np.nan)


def interval(samples: Sequence[ArrayLike], statistic: Callable, seed: int = 0, *, paired: bool = True) -> Found:
    """(value, low, high) of a statistic of one or several samples; the ends are NaN where one has fewer than two facts.

    `statistic` takes the samples and `axis`. Aligned samples are resampled together, with `paired` False each by itself.
    """
    arrays = tuple(np.asarray(sample, dtype=float) for sample in samples)
    value = float(statistic(*arrays, axis=-1))
    if min(map(len, arrays)) < 2:
        return value, np.nan, np.nan
    found = bootstrap(
        arrays, statistic, paired=paired, vectorized=True, n_resamples=RESAMPLES, method="percentile", rng=seed
    )
    return value, float(found.confidence_interval.low), float(found.confidence_interval.high)


def harmonic_score(es, ps, ns, axis=-1):
    """S of facts: the harmonic mean of their mean ES, PS and NS."""
    return score(*(np.mean(values, axis=axis) for values in (es, ps, ns)))


def metrics_table(edits: pd.DataFrame) -> pd.DataFrame:
    """One row per rule: ES PS NS EM PM NM GE S, each with its interval in NAME_low and NAME_high.

    Per cent; facts without a measure (GE of rules that were not spoken, PS of facts without paraphrases) are left out of it.
    """
    rows = []
    for rule, here in edits.groupby("rule", sort=False):
        row = {"rule": rule, "facts": here["fact"].nunique()}
        for name in COLUMNS:
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), _measure(here, name), strict=True))
        rows.append(row)
    return pd.DataFrame(rows)


def _measure(here: pd.DataFrame, name: str) -> Found:
    names = ["ES", "PS", "NS"] if name == "S" else [name]
    whole = here.reindex(columns=names).dropna()
    if whole.empty:
        return NOTHING
    samples = [whole[each] for each in names]
    return _times(1 if name == "GE" else 100, interval(samples, harmonic_score if name == "S" else np.mean))


def _times(scale: float, found: Found) -> Found:
    value, low, high = found
    return scale * value, scale * low, scale * high


def paired_differences(edits: pd.DataFrame, rule: str, baseline: str, names: Sequence[str] = COLUMNS) -> pd.DataFrame:
    """Per measure: mean of `rule` minus `baseline` over the facts that have both, with its interval (per cent)."""
    tables = {each: edits[edits["rule"].eq(each)].set_index("fact") for each in (rule, baseline)}
    for each, table in tables.items():
        if table.empty:
            raise RromeError(f"the study holds no rule {each!r}: it has {', '.join(edits['rule'].unique())}")
    rows = []
    for name in names:
        columns = ["ES", "PS", "NS"] if name == "S" else [name]
        ours, theirs = (tables[each][columns].dropna() for each in (rule, baseline))
        both = ours.index.intersection(theirs.index)
        samples = [table.loc[both, column] for table in (ours, theirs) for column in columns]
        statistic = _score_difference if name == "S" else _mean_difference
        rows.append((name, *_times(1 if name == "GE" else 100, interval(samples, statistic))))
    return pd.DataFrame(rows, columns=["measure", "difference", "low", "high"]).set_index("measure")


def _mean_difference(ours, theirs, axis=-1):
    return np.mean(ours, axis=axis) - np.mean(theirs, axis=axis)


def _score_difference(es, ps, ns, their_es, their_ps, their_ns, axis=-1):
    return harmonic_score(es, ps, ns, axis) - harmonic_score(their_es, their_ps, their_ns, axis)


def auc(foretold: pd.Series, happened: pd.Series, seed: int = 0) -> Found:
    """Area under the ROC curve of a number foretelling an outcome, with its interval over resampled facts.

    All three are NaN when the outcome never, or always, happened. Resamples without both outcomes are left out.
    """
    size, came = np.asarray(foretold, dtype=float), np.asarray(happened, dtype=bool)
    if came.all() or not came.any():
        return (np.nan,) * 3
    draw = np.random.default_rng(seed).integers(len(came), size=(RESAMPLES, len(came)))
    areas = [roc_auc_score(came[rows], size[rows]) for rows in draw if 0 < came[rows].sum() < len(rows)]
    low, high = np.quantile(areas, [0.025, 0.975])
    return float(roc_auc_score(came, size)), float(low), float(high)
