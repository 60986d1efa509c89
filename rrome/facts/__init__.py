"""What is edited and what is read: facts with their prompts, and running text for C_0 and perplexity."""

from .fact import Fact, load_facts, paper_sample, read_facts
from .text import factbook_prose, named_texts, read_texts

__all__ = ["Fact", "factbook_prose", "load_facts", "named_texts", "paper_sample", "read_facts", "read_texts"]
