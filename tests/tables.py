"""Laws that are tables: what is given, and what comes of it."""

from collections.abc import Mapping

import pytest


def each(table: Mapping[str, str]) -> pytest.MarkDecorator:
    """A test for each row, which takes it as `given` and `expected`."""
    return pytest.mark.parametrize(("given", "expected"), list(table.items()))
