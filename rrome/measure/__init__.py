"""What an edited model says and knows: probabilities, perplexity, the paper's metrics with intervals, downstream tasks."""

from .glue import glue_task
from .metrics import (
    auc,
    distinct_share,
    fact_metrics,
    harmonic_score,
    interval,
    largest_difference,
    metrics_table,
    ngram_entropy,
    normalised_entropy,
    paired_differences,
    score,
    share,
    token_entropy,
)
from .scores import fact_probabilities, perplexity, retained, row_perplexities, rowwise, target_nll
from .tasks import Task, agreement_task, recall_task, sentiment_task

__all__ = [
    "Task", "agreement_task", "auc", "distinct_share", "fact_metrics", "fact_probabilities", "glue_task",
    "harmonic_score", "interval", "largest_difference", "metrics_table", "ngram_entropy", "normalised_entropy",
    "paired_differences", "perplexity", "recall_task", "retained", "row_perplexities", "rowwise", "score",
    "sentiment_task", "share", "target_nll", "token_entropy",
]  # fmt: skip
