"""The measures of the paper, as pure functions: numbers and words in, numbers out."""

import math
from collections import Counter
from collections.abc import Sequence


def words_of(text: str) -> list[str]:
    """The words of a text: lower-cased, full stops removed, split at white space."""
    return text.lower().replace(".", " ").split()


def entropy(counts: Sequence[int]) -> float:
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
