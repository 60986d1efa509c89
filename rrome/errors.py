"""The one exception of the kit: what is wrong, with which thing, and what to do about it."""


class RromeError(ValueError):
    """An input that cannot be used; the message names the offending thing and the remedy."""
