"""The lab's shipped table of methods says what the published schemas say."""

from __future__ import annotations

import json

import pytest

from tests.contract.methods import SHIPPED, published_methods
from tests.support.lab import published_schema
from vi_ops.lab.daemon import RELEASES


@pytest.mark.parametrize("release", RELEASES)
def test_table_is_as_published(release: str) -> None:
    if published_schema(release) is None:
        pytest.skip("the published schema is not at hand (../shared/pve-api)")
    shipped = json.loads(SHIPPED.read_text())[release]
    assert shipped == published_methods(release), "python -m tests.contract.methods writes it anew"
