"""A central store of marketing preferences, and an unsubscribe service."""

__version__ = "0.1.0"
