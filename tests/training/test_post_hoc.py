"""Snapshots of other networks do not enter an average: what they lack would silently count as zero."""

import pytest
import torch

from nomadiff.errors import DataError
from nomadiff.training.post_hoc import rebuild_average
from nomadiff.training.run_folder import save_tensors

GOOD = {"a": torch.ones(3), "b": torch.ones(2, 2)}


def run(folder, tensors, **metadata):
    for seen in (16, 32, 48):
        said = {"images_seen": seen, "ema_std": 0.1, "recipe": {}}
        odd = seen == 32
        save_tensors(
            folder / f"snapshots/{seen:012d}.safetensors", tensors if odd else GOOD, said | (metadata if odd else {})
        )
    return folder


@pytest.mark.parametrize("tensors", [{"a": GOOD["a"]}, GOOD | {"c": torch.ones(1)}, GOOD | {"a": torch.ones(1)}])
def test_other_weights_are_refused(tmp_path, tensors):
    with pytest.raises(DataError, match=r"000000000032.safetensors: a snapshot of another network"):
        rebuild_average(run(tmp_path, tensors), 0.1, tmp_path / "out.safetensors")


@pytest.mark.parametrize("metadata", [{"images_seen": "32"}, {"ema_std": None}, {"recipe": "x"}, {"images_seen": [1]}])
def test_snapshots_that_do_not_say_what_they_are(tmp_path, metadata):
    with pytest.raises(DataError, match=r"000000000032.safetensors: no snapshot of a run"):
        rebuild_average(run(tmp_path, GOOD, **metadata), 0.1, tmp_path / "out.safetensors")


def test_equal_averages_are_their_average(tmp_path):
    assert rebuild_average(run(tmp_path, GOOD), 0.1, tmp_path / "out.safetensors").exists()
