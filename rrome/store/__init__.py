"""What lies on disk: data files of the package, the cache, atomic files, and append-only journals of studies."""

from .disk import RromeError, atomic, bar, cache_dir, digest, file_sha256, read_yaml
from .journal import Journal, read_journal

__all__ = ["Journal", "RromeError", "atomic", "bar", "cache_dir", "digest", "file_sha256", "read_journal", "read_yaml"]
