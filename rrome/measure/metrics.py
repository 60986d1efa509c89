"""The paper's measures as pure functions, and tables of them with 95 % percentile bootstrap intervals over subjects.

Shares and differences in tables are in per cent, as the paper gives them; GE is 100 times the entropy.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from ..store.disk import RromeError

SHARES = ("ES", "PS", "NS", "EM", "PM", "NM")
COLUMNS = (*SHARES, "GE", "S")
ENDS = ("", "_low", "_high")  # of the columns that hold a number and its interval
RESAMPLES = 2000
FEWEST = 5  # words of which an entropy is taken
Found = tuple[float, float, float]  # a number with the ends of its interval
BOUNDS = dict.fromkeys(("ES", "PS", "NS", "S"), (0, 1)) | dict.fromkeys(("EM", "PM", "NM"), (-1, 1))  # of one fact
NOTHING: Found = (np.nan, np.nan, np.nan)


def words_of(text: str) -> list[str]:
    """The words of a text: lower-cased, full stops removed, split at white space."""
    return text.lower().replace(".", " ").split()


def entropy(counts: Collection[int]) -> float:
    """Shannon entropy in bits of a distribution given by counts; 0 for none."""
    return float(stats.entropy(list(counts), base=2)) if sum(counts) else 0.0


def normalised_entropy(text: str) -> float:
    """H(words) / log2(number of distinct words), in [0, 1]: 1 when no word is favoured, 0 for one word over and over.

    NaN for fewer than FEWEST words, as of text without spaces: see `token_entropy`. Source: Gupta et al. 2024, Figure 2.
    """
    words = words_of(text)
    if len(words) < FEWEST:
        return math.nan
    counts = Counter(words).values()
    return entropy(counts) / math.log2(len(counts)) if len(counts) > 1 else 0.0


def token_entropy(tokens: Sequence[Hashable]) -> float:
    """H(tokens) / log2(number of tokens), in [0, 1]: 1 when none comes twice, 0 for one alone, NaN for fewer than two."""
    return entropy(Counter(tokens).values()) / math.log2(len(tokens)) if len(tokens) > 1 else math.nan


def distinct_share(text: str) -> float:
    """Distinct words over words, in (0, 1]; 0 for empty text. Unlike the entropy it sees long repeated phrases."""
    return len(set(words)) / len(words) if (words := words_of(text)) else 0.0


def ngram_entropy(text: str) -> float:
    """GE: the mean of the weighted entropies (bits) of a text's 2-grams and 3-grams; tables give it times 100.

    Source: the generation entropy of Meng et al. 2022, with words and punctuation marks as tokens.
    """
    tokens = re.findall(r"\w+|[^\w\s]", text)
    pairs, triples = (Counter(zip(*(tokens[start:] for start in range(n)), strict=False)) for n in (2, 3))
    return (2 / 3 * entropy(pairs.values()) + 4 / 3 * entropy(triples.values())) / 2


def fact_metrics(probabilities: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, float]:
    """ES PS NS EM PM NM of one edit from its (p(new), p(true)) pairs per kind of prompt; NaN where there is none.

    ES, PS: share of rewrite / paraphrase prompts with p(new) > p(true); NS: of neighbourhood prompts with p(true) > p(new).
    EM, PM, NM: the mean differences in the same direction. ES_prefixed: ES after prefixes that the edit has not seen.
    """
    measured = {}
    for letter, kind, sign in (("E", "rewrite", 1), ("P", "paraphrase", 1), ("N", "neighbourhood", -1)):
        differences = [sign * (new - true) for new, true in probabilities.get(kind, ())]
        measured[f"{letter}S"] = mean([float(each > 0) for each in differences])
        measured[f"{letter}M"] = mean(differences)
    prefixed = mean([float(new > true) for new, true in probabilities.get("prefixed", ())])
    return {name: measured[name] for name in SHARES} | {"ES_prefixed": prefixed}


def mean(numbers: Sequence[float]) -> float:
    """The arithmetic mean, NaN for none."""
    return sum(numbers) / len(numbers) if numbers else math.nan


def score(es: ArrayLike, ps: ArrayLike, ns: ArrayLike) -> Any:
    """S: the harmonic mean of ES, PS and NS, of numbers or element by element; 0 where one of them is 0."""
    return stats.hmean(np.asarray([es, ps, ns], dtype=float), axis=0)


def interval(
    samples: Sequence[ArrayLike], statistic: Callable, seed: int = 0, *, paired: bool = True, bounds=()
) -> Found:
    """(value, low, high) of a statistic of one or several samples; the ends are NaN where one has fewer than two facts.

    `statistic` takes the samples and `axis`. Aligned samples are resampled together, with `paired` False each by itself.
    Where all resamples agree and one fact's `bounds` are known, the rule of three: three facts could be at a bound.
    """
    arrays = tuple(np.asarray(sample, dtype=float) for sample in samples)
    value = float(statistic(*arrays, axis=-1))
    if min(map(len, arrays)) < 2:
        return value, np.nan, np.nan
    low, high = stats.bootstrap(
        arrays, statistic, paired=paired, vectorized=True, n_resamples=RESAMPLES, method="percentile", rng=seed
    ).confidence_interval
    if bounds and np.isclose(low, high):
        corners = itertools.product(bounds, repeat=len(arrays))
        moved = [[[*array[3:], *[end] * 3] for array, end in zip(arrays, ends, strict=True)] for ends in corners]
        found = [statistic(*map(np.asarray, each), axis=-1) for each in moved]
        low, high = min(found), max(found)
    return value, float(low), float(high)


def share(came: int, n: int) -> Found:
    """The share of n independent facts for which something came, with its 95 % Wilson interval; NaN for none."""
    if not n:
        return NOTHING
    ends = stats.binomtest(int(came), int(n)).proportion_ci(method="wilson")
    return came / n, float(ends.low), float(ends.high)


def harmonic_score(es, ps, ns, axis=-1):
    """S of facts: the harmonic mean of their mean ES, PS and NS."""
    return score(*(np.mean(values, axis=axis) for values in (es, ps, ns)))


def metrics_table(edits: pd.DataFrame) -> pd.DataFrame:
    """One row per rule: ES PS NS EM PM NM GE S, and median perplexity, with intervals in NAME_low and NAME_high.

    Per cent; a fact that lacks a measure (GE without text) is left out; NAME_best: `best_rules`. RromeError for a fact twice.
    """
    rows = []
    for rule, here in edits.groupby("rule", sort=False):
        if twice := here["fact"][here["fact"].duplicated()].tolist():
            raise RromeError(f"fact {twice[0]} has two rows under {rule}: number the facts of joined studies apart")
        found = {name: _measured(name, here.set_index("fact")) for name in COLUMNS}
        if "perplexity" in here:
            found["perplexity"] = interval([here["perplexity"].fillna(np.inf)], np.median)  # over facts
        numbers = {f"{name}{end}": three[n] for name, three in found.items() for n, end in enumerate(ENDS)}
        rows.append({"rule": rule, "facts": len(here)} | numbers)
    table = pd.DataFrame(rows)
    for name in COLUMNS:
        best = table["rule"].isin(best_rules(edits, name, table.set_index("rule")[name]))
        table.insert(table.columns.get_loc(f"{name}_high") + 1, f"{name}_best", best)
    return table


def best_rules(edits: pd.DataFrame, name: str, means: pd.Series) -> list[str]:
    """The rule with the highest mean of a measure, and those whose paired difference from it has zero in its interval.

    None where that is all of them. The unedited model does not compete.
    """
    means = means.drop("unedited", errors="ignore").dropna()
    high = {rule: paired_differences(edits, rule, means.idxmax(), [name])["high"].item() for rule in means.index}
    tied = [rule for rule in high if not high[rule] < 0]
    return tied if len(tied) < len(means) else []


def paired_differences(edits: pd.DataFrame, rule: str, baseline: str, names: Sequence[str] = COLUMNS) -> pd.DataFrame:
    """Per measure: mean of `rule` minus `baseline` over the facts that have both, with its interval (per cent)."""
    if missing := [each for each in (rule, baseline) if not edits["rule"].eq(each).any()]:
        raise RromeError(f"the study holds no rule {missing[0]!r}: it has {', '.join(edits['rule'].unique())}")
    tables = [edits[edits["rule"].eq(each)].set_index("fact") for each in (rule, baseline)]
    rows = [(name, *_measured(name, *tables)) for name in names]
    return pd.DataFrame(rows, columns=["measure", "difference", "low", "high"]).set_index("measure")


def _measured(name: str, *tables: pd.DataFrame) -> Found:
    """A measure of one table, or its difference between two over the facts of both, in the table's unit; NaN for no fact."""
    columns = ["ES", "PS", "NS"] if name == "S" else [name]
    statistic: Callable = harmonic_score if name == "S" else np.mean
    facts = pd.concat([table.reindex(columns=columns) for table in tables], axis=1, join="inner")

    def difference(*samples, axis):
        half = len(columns)
        return statistic(*samples[:half], axis=axis) - statistic(*samples[half:], axis=axis)

    own = tables[0].index.to_series()  # a fact whose subject is not told stands for itself
    subjects = tables[0].get("subject", own).fillna(own).loc[facts.index]
    of = statistic if len(tables) == 1 else difference
    value, low, high = by_subject(facts, subjects, of, BOUNDS.get(name, ()))
    scale = 1 if name == "GE" else 100
    return scale * value, scale * low, scale * high


def by_subject(facts: pd.DataFrame, subjects: ArrayLike, statistic: Callable, bounds: Sequence[float] = ()) -> Found:
    """A statistic of the columns (each a sample, one row a fact) with its interval, resampled by subject.

    Facts of one subject are not independent. The statistic depends on the columns' means only; rows with NaN are left out.
    """
    groups = facts.dropna().groupby(pd.Series(np.asarray(subjects), facts.index), sort=False)

    def of_means(*samples, axis):  # per subject the sum of each column, and the number of facts
        *sums, n = (np.sum(sample, axis=axis, keepdims=True) for sample in samples)
        return statistic(*(total / n for total in sums), axis=axis)

    if not len(groups):
        return NOTHING
    found = interval([*groups.sum().to_numpy().T, groups.size()], of_means)
    return interval(groups.mean().to_numpy().T, statistic, bounds=bounds) if np.isclose(*found[1:]) else found


def auc(predictor: pd.Series, outcome: pd.Series) -> Found:
    """Area under the ROC curve of a number that predicts an outcome, with its interval over resampled facts.

    All three are NaN when the outcome never, or always, came. Resamples without both outcomes are left out; where the
    others agree (a perfect predictor), the interval is `score_interval`'s.
    """
    size, came = np.asarray(predictor, dtype=float), np.asarray(outcome, dtype=bool)
    if came.all() or not came.any():
        return NOTHING
    rows = np.random.default_rng(0).integers(len(came), size=(RESAMPLES, len(came)))
    rows = rows[came[rows].any(1) & ~came[rows].all(1)]
    area = float(roc_area(size, came))
    low, high = np.quantile(roc_area(size[rows], came[rows]), [0.025, 0.975])
    if np.isclose(low, high):
        low, high = score_interval(area, came.sum(), (~came).sum())
    return area, float(low), float(high)


def score_interval(area: float, positive: int, negative: int) -> tuple[float, float]:
    """The ends of an AUC's 95 % score interval, which like Wilson's has a width also at 1 (Newcombe 2006, method 5)."""
    t, n = np.linspace(0, 1, 10_001), (positive + negative) / 2 - 1
    variance = t * (1 - t) * (1 + n * (1 - t) / (2 - t) + n * t / (1 + t)) / (positive * negative)
    return (inside := t[(area - t) ** 2 <= 1.96**2 * variance]).min(), inside.max()


def roc_area(size: np.ndarray, came: np.ndarray) -> np.ndarray:
    """The share of pairs (came, did not) in the last axis in which the one that came is larger; ties count half."""
    positive = came.sum(-1)
    above = (stats.rankdata(size, axis=-1) * came).sum(-1) - positive * (positive + 1) / 2
    return above / (positive * (came.shape[-1] - positive))


def largest_difference(again: pd.DataFrame, stored: pd.DataFrame, columns: list[str], on: list[str]) -> pd.Series:
    """Per column the largest |again - stored| / |stored| over the rows of `again`, matched by `on`; NaN where both are is 0.

    A row without a counterpart, or a number where the other has none, differs infinitely.
    """
    pairs = again[[*on, *columns]].merge(stored[[*on, *columns]], "left", on=on, suffixes=("", "_stored"))
    here, there = pairs[columns], pairs[[f"{name}_stored" for name in columns]].set_axis(columns, axis=1)
    apart = (here - there).abs() / there.abs().clip(lower=1e-12)
    return apart.mask(here.isna() & there.isna(), 0).fillna(math.inf).max()
