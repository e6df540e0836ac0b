"""Features: cached under the hash of images and weights, and shared out over processes."""

from __future__ import annotations

import os
import warnings

import pytest
import torch

from nomadiff.files import atomic_path
from nomadiff.metrics.detectors import extract_features
from nomadiff.metrics.detectors import features as features_module


class Counting:
    """A detector that counts the images it has seen."""

    name, version, sha256, dimension = "counting", "1", "a" * 64, 3

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return images.flatten(1)[:, :3].float()


def test_the_same_images_are_computed_once(tmp_path, images) -> None:
    x, detector = images(10, 1, 8), Counting()
    first = extract_features(detector, x, cache=tmp_path)
    assert torch.equal(extract_features(detector, x.clone(), cache=tmp_path), first) and detector.seen == 10
    extract_features(detector, x.flip(0), cache=tmp_path)
    assert detector.seen == 20
    detector.version = "2"
    extract_features(detector, x, cache=tmp_path)
    assert detector.seen == 30
    detector.sha256 = ""  # nothing says whether it is the same detector tomorrow
    extract_features(detector, x, cache=tmp_path)
    extract_features(detector, x, cache=tmp_path)
    assert detector.seen == 50
    assert len(list(tmp_path.glob("counting-*.safetensors"))) == 3


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_what_a_killed_process_left_goes_when_the_features_are_found(tmp_path, images) -> None:
    detector, x = Counting(), images(10, 1, 8)
    extract_features(detector, x, cache=tmp_path)
    process = os.fork()
    if process == 0:
        with atomic_path(tmp_path / "other.safetensors") as temporary:
            temporary.write_bytes(b"half")
            os._exit(9)
    os.waitpid(process, 0)
    assert len(list(tmp_path.iterdir())) == 2
    extract_features(detector, x, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1 and detector.seen == 10


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_file_is_named_and_made_anew(tmp_path, images, damage: str) -> None:
    x, detector = images(10, 1, 8), Counting()
    first = extract_features(detector, x, cache=tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    else:
        content[-5] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=rf"{path.name}.*the features are computed again"):
        assert torch.equal(extract_features(detector, x, cache=tmp_path), first)
    with warnings.catch_warnings(action="error"):
        assert torch.equal(extract_features(detector, x, cache=tmp_path), first)
    assert detector.seen == 20


def test_the_cache_stays_small_and_keeps_what_was_used_last(tmp_path, images, monkeypatch) -> None:
    detector = Counting()
    sets = [images(10, 1, 8, seed=seed) for seed in range(3)]
    for number, x in enumerate(sets):
        extract_features(detector, x, cache=tmp_path)
        for path in tmp_path.iterdir():
            os.utime(path, (number, number))  # clocks may be too coarse to tell the three apart
    size = next(tmp_path.iterdir()).stat().st_size
    extract_features(detector, sets[0], cache=tmp_path)  # used again: no longer the oldest
    monkeypatch.setattr(features_module, "CACHE_BYTES", 2 * size)
    extract_features(detector, images(10, 1, 8, seed=3), cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 and detector.seen == 40
    extract_features(detector, sets[0], cache=tmp_path)
    assert detector.seen == 40


def test_a_cache_that_cannot_be_written_costs_no_result(tmp_path, images) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cannot be written.*the features are not kept"):
        assert len(extract_features(Counting(), images(4, 1, 8), cache=tmp_path / "file")) == 4


SCRIPT = """
import torch
from nomadiff.metrics.detectors import extract_features, load_detector
from nomadiff.metrics.frechet import Statistics, StatisticsAccumulator
from nomadiff.processes import join_processes
processes = join_processes("cpu")
images = torch.arange(11 * 64, dtype=torch.int64).remainder(251).to(torch.uint8).reshape(11, 1, 8, 8)
detector = load_detector("digits")
whole = extract_features(detector, images)
shared = extract_features(detector, images, processes=processes, batch_size=2)
assert processes.count == 2 and shared.shape == whole.shape
assert torch.equal(shared, extract_features(detector, images, batch_size=2))  # batch by batch what one computes
for size in (3, 11, 256):  # a process without a batch, too
    assert torch.equal(extract_features(detector, images, processes=processes, batch_size=size),
                       extract_features(detector, images, batch_size=size))
if processes.is_main:
    extract_features(detector, images, cache="cache-0")
for _ in range(2):  # a cache of their own each: one has the features, the other must not compute alone
    again = extract_features(detector, images, processes=processes, cache=f"cache-{processes.rank}")
    torch.testing.assert_close(again, whole, rtol=1e-5, atol=1e-5)
part = StatisticsAccumulator().update(whole[processes.rank * 4 : 4 + processes.rank * 7])
merged, expected = part.gathered(processes).finish(), Statistics.from_features(whole)
assert merged.count == 11
torch.testing.assert_close(merged.covariance, expected.covariance)
open(f"agrees-{processes.rank}", "w").close()
"""


def test_two_processes_share_the_work_and_agree(two_processes, tmp_path, monkeypatch) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    two_processes("script.py")
    assert {path.name for path in tmp_path.glob("agrees-*")} == {"agrees-0", "agrees-1"}
