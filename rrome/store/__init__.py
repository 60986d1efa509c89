"""What lies on disk: data files of the package, the cache, atomic files, and append-only journals of studies."""

from .disk import RromeError, atomic, cache_dir, digest, explained, file_sha256, read_yaml
from .journal import Journal, read_journal, write_journal
from .progress import bar, quiet_bars

__all__ = [
    "Journal", "RromeError", "atomic", "bar", "cache_dir", "digest", "explained", "file_sha256", "quiet_bars",
    "read_journal", "read_yaml", "write_journal",
]  # fmt: skip
