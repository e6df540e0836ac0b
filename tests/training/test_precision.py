"""What "auto" means, and that a slow choice is told of."""

import pytest
import torch

from nomadiff.errors import NomadiffWarning, UsageError
from nomadiff.training import precision
from nomadiff.training.precision import resolved_precision
from nomadiff.training.presets import PRESETS
from nomadiff.training.settings import TrainingConfig

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))
SMALL, LARGE = 0.01e9, 1e9


@pytest.mark.parametrize(
    ("device", "fast", "forward", "expected"),
    [
        (CPU, {"bf16"}, LARGE, "bf16"),
        (CPU, set(), LARGE, "fp32"),  # a CPU with AVX2 alone
        (CPU, {"bf16"}, SMALL, "fp32"),
        (CUDA, {"bf16", "fp16"}, LARGE, "bf16"),
        (CUDA, {"fp16"}, LARGE, "fp16"),  # a GPU before Ampere
        (MPS, set(), LARGE, "fp32"),
    ],
)
def test_auto(monkeypatch, device, fast, forward, expected):
    monkeypatch.setattr(precision, "has_fast_half", lambda _, name: name in fast)
    assert resolved_precision("auto", device, forward) == expected


def test_a_slow_choice_is_kept_and_told_of(monkeypatch, recwarn):
    monkeypatch.setattr(precision, "has_fast_half", lambda device, name: False)
    with pytest.warns(NomadiffWarning, match="bf16 has no fast path on this cpu"):
        assert resolved_precision("bf16", CPU, LARGE) == "bf16"
    recwarn.clear()
    assert resolved_precision("fp32", CPU, LARGE) == "fp32" and not recwarn.list


def test_this_cpu_is_asked():
    assert precision.has_fast_half(CPU, "bf16") == torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert not precision.has_fast_half(MPS, "bf16")


def test_names():
    with pytest.raises(UsageError, match="auto, fp32, bf16, fp16"):
        TrainingConfig(budget=1, precision="fp8")
    assert {PRESETS[name].training.precision for name in ("compact32", "compact64", "small32", "tiny")} == {"auto"}
