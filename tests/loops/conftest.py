from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Networks this small are slower with threads, most of all on a busy machine."""
    torch.set_num_threads(1)
