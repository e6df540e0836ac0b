"""No test writes into the caches of the person who runs it."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Downloads and features go to a folder of this session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOMADIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
