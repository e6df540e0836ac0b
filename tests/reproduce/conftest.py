"""The recipes' shared fixture."""

from dataclasses import replace

import pytest

from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.training.presets import PRESETS


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The preset of digits draws by 3 solver steps in this process: what a recipe does is at stake, not how well."""
    monkeypatch.setitem(PRESETS, "digits", replace(PRESETS["digits"], sampler=SamplerConfig(steps=3)))
