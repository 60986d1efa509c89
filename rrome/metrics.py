"""The measures of the paper, as pure functions: numbers and words in, numbers out."""

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def words_of(text: str) -> list[str]:
    """The words of a text: lower-cased, full stops removed, split at white space."""
    return text.lower().replace(".", " ").split()


def entropy(counts: Collection[int]) -> float:
    """Shannon entropy in bits of a distribution given by counts; 0 for none."""
    total = sum(counts)
    return sum(-count / total * math.log2(count / total) for count in counts if count) if total else 0.0


def normalised_entropy(text: str) -> float:
    """H(words) / log2(number of distinct words), in [0, 1]: 1 when no word is favoured, 0 for one word over and over.

    Empty text gives 0. Source: Gupta et al. 2024, the measure of Figure 2.
    """
    counts = Counter(words_of(text)).values()
    return entropy(counts) / math.log2(len(counts)) if len(counts) > 1 else 0.0


def distinct_share(text: str) -> float:
    """Distinct words over words, in (0, 1]; 0 for empty text. Unlike the entropy it sees long repeated phrases."""
    words = words_of(text)
    return len(set(words)) / len(words) if words else 0.0


def ngram_entropy(text: str, sizes: Sequence[int] = (2, 3), weights: Sequence[float] = (2 / 3, 4 / 3)) -> float:
    """GE: the mean of the weighted entropies (bits) of a text's 2-grams and 3-grams; tables give it times 100.

    Source: the generation entropy of Meng et al. 2022, with words and punctuation marks as tokens.
    """
    tokens = re.findall(r"\w+|[^\w\s]", text)
    grams = [Counter(zip(*(tokens[start:] for start in range(size)), strict=False)) for size in sizes]
    return sum(weight * entropy(gram.values()) for weight, gram in zip(weights, grams, strict=True)) / len(sizes)


def fact_metrics(probabilities: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, float]:
    """ES PS NS EM PM NM of one edit from its (p(new), p(true)) pairs per kind of prompt; NaN where there is none.

    ES, PS: share of rewrite / paraphrase prompts with p(new) > p(true); NS: share of neighbourhood prompts with
    p(true) > p(new). EM, PM, NM: the mean differences in the same direction.
    ES_prefixed: ES of the rewrite prompt behind prefixes that were not used for the edit.
    """
    measured = {}
    for letter, kind, sign in (("E", "rewrite", 1), ("P", "paraphrase", 1), ("N", "neighbourhood", -1)):
        differences = [sign * (new - true) for new, true in probabilities.get(kind, ())]
        measured[f"{letter}S"] = mean([float(difference > 0) for difference in differences])
        measured[f"{letter}M"] = mean(differences)
    names = ("ES", "PS", "NS", "EM", "PM", "NM")
    behind = [float(new > true) for new, true in probabilities.get("prefixed", ())]
    return {name: measured[name] for name in names} | {"ES_prefixed": mean(behind)}


def mean(numbers: Sequence[float]) -> float:
    """The arithmetic mean, NaN for none."""
    return sum(numbers) / len(numbers) if numbers else math.nan


def score(es: ArrayLike, ps: ArrayLike, ns: ArrayLike) -> Any:
    """S: the harmonic mean of ES, PS and NS, of numbers or element by element; 0 where one of them is 0."""
    with np.errstate(divide="ignore"):
        return 3 / sum(1 / np.asarray(share, dtype=float) for share in (es, ps, ns))
