"""Which preset suits images and a device, and what is said of trouble ahead."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from factories import noise_source

from nomadiff.cli import main
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import UsageError
from nomadiff.methods.dm import DM
from nomadiff.training import loop
from nomadiff.training.presets import PRESETS, presets_that_fit, proposed_preset
from nomadiff.workflows.presets import preset_table
from nomadiff.workflows.suggest import Rate, Suggestion, suggest


@pytest.mark.parametrize(
    ("resolution", "channels", "device", "preset"),
    [
        (8, 1, "cpu", "digits"),
        (28, 1, "cpu", "compact32"),
        (32, 3, "cpu", "compact32"),
        (64, 3, "cpu", "compact64"),
        (96, 1, "cpu", "compact64"),
        (36, 3, "cpu", "compact32"),  # compact64 halves it three times
        (8, 1, "cuda", "digits"),
        (28, 1, "cuda", "compact32"),  # no level of EDM's networks has the 16 pixels that attention wants
        (32, 3, "cuda", "cifar10"),
        (64, 3, "cuda", "ffhq64"),
        (64, 4, "cuda", "imagenet512-edm2-s"),
        (64, 4, "cpu", "imagenet512-edm2-tiny"),
    ],
)
def test_the_proposed_preset_suits_size_and_device(resolution: int, channels: int, device: str, preset: str) -> None:
    assert proposed_preset(resolution, channels, torch.device(device)) == preset
    replace(PRESETS[preset].network, resolution=resolution, channels=channels).validate()


def test_a_size_that_nothing_fits_says_what_does() -> None:
    assert presets_that_fit(30) == []
    with pytest.raises(UsageError, match=r"no preset fits a resolution of 30.*multiple of 16"):
        proposed_preset(30, 3, torch.device("cpu"))


def test_a_preset_that_does_not_fit_names_those_that_do() -> None:
    mix = SourceMix(noise_source("real"))
    with pytest.raises(UsageError, match=r"attention at resolution 16.*presets that fit: compact32, .*digits"):
        DM("small32").recipe(mix)


def test_a_stopped_trial_is_not_said_to_be_kept(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    step = loop._Training._step

    def told(*given: object) -> None:
        signal.raise_signal(signal.SIGINT)
        step(*given)

    monkeypatch.setattr(loop._Training, "_step", told)
    assert main(["suggest", "--real", "digits:pool", "--device", "cpu"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "nomadiff: stopped"


def test_a_suggestion_is_measured_and_knows_the_trouble() -> None:
    synthetic = noise_source("made", 1, 2000)
    synthetic = replace(synthetic, labels=torch.where(synthetic.labels == 2, 1, synthetic.labels))
    found = suggest(SourceMix(noise_source("real"), [synthetic]), device="cpu")
    assert (found.method, found.preset, found.images) == ("casd", "digits", {"real": 40, "made": 2000})
    assert [rate.preset for rate in found.rates] == ["compact32", "compact64", "digits"]
    assert all(rate.images_per_second > 0 for rate in found.rates)
    assert found.rate.hours == pytest.approx(150_000 / found.rate.images_per_second / 3600)
    assert found.real_share == pytest.approx(40 / 2040)
    words = " ".join(found.trouble)
    for told in ("40 real images are few", "at 2.0% of a batch", "made has no images of 2", "kept aside"):
        assert told in words
    assert "images/s" in found.text()


@pytest.mark.parametrize(
    ("speed", "told"),
    [
        (1000.0, "16.7 h"),
        (100.0, "6.9 days"),
        (1.0, "not on this machine (694.4 days)"),
        (0.1, "not on this machine (19.0 years)"),
    ],
)
def test_a_suggestion_says_durations_that_can_be_read(speed: float, told: str) -> None:
    rate = Rate("cifar10", 60_000_000, speed)
    assert rate.words == told
    found = Suggestion(
        images={"real": 10}, size=(3, 32), device="1 CPU thread", method="dm", preset="cifar10", rates=(rate,),
        real_share=1.0, trouble=(),
    )  # fmt: skip
    assert found.text().count(told) == 2 and "hours" not in found.text()


def test_plenty_of_real_images_alone_are_no_trouble_but_for_the_judging() -> None:
    found = suggest(SourceMix(noise_source("real", count=1200)), device="cpu")
    assert found.method == "dm" and len(found.trouble) == 1 and "kept aside" in found.trouble[0]


def test_a_budget_too_small_for_real_images_to_be_copied_is_said_to_be_one() -> None:
    found = suggest(SourceMix(noise_source("real", count=1200), [noise_source("made", 1, 2000)]), device="cpu")
    assert "shows real images alone 125 times each" in " ".join(found.trouble)  # the preset's 150,000


def test_presets_are_listed_with_the_papers_sizes() -> None:
    rows = {row["preset"]: row for row in preset_table().rows}
    assert rows.keys() == PRESETS.keys()
    assert rows["cifar10"]["parameters"] == pytest.approx(55.73e6, rel=1e-3)  # EDM
    assert rows["imagenet64-edm2-s"]["gflop"] == pytest.approx(2 * 102, rel=0.02)  # EDM2 Table 2, multiply-adds


def test_the_commands(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["presets"]) == 0
    assert "cifar10: 32x32 images" in capsys.readouterr().out
    assert main(["train", "--real", "digits:pool", "--dry-run", "--device", "cpu", "--out", str(tmp_path / "run")]) == 0
    assert "preset: digits, which suits these images and this device" in capsys.readouterr().out
    study = ["compare", "--real", "digits:pool", "--synthetic", "s=digits:style", "--reference", "digits:reference"]
    assert main([*study, "--device", "cpu", "--dry-run", "--out", str(tmp_path / "study")]) == 0
    assert "preset: digits" in capsys.readouterr().out
