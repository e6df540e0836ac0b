from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Networks this small lose by threads, and a busy machine punishes them."""
    torch.set_num_threads(1)
