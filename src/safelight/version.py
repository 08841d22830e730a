"""The version of Safelight, which recipes and packages both tell."""

__version__ = "0.1.0"
