"""Every class of settings reads images by its own fields."""

from dataclasses import fields

import pytest

import nomadiff as nd
from nomadiff.data.digits import read_digits
from nomadiff.data.reading import Reading
from nomadiff.data.writing import write_images
from nomadiff.workflows.held_out import HeldOut

SETTINGS = {
    nd.MixSpec: {"real": "x"},
    nd.EvaluationSettings: {},
    nd.ImageLoop: {"real": "x", "reference": "x", "out": "x"},
    HeldOut: {},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A synthetic set of which one file is damaged."""
    folder = tmp_path_factory.mktemp("made") / "set"
    write_images(folder, [read_digits("digits:pool").images[:4]], 4, manifest={"kind": "synthetic"})
    next(folder.rglob("*.png")).write_bytes(b"damaged")
    return str(folder)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.__name__)
@pytest.mark.filterwarnings("ignore::nomadiff.NomadiffWarning")
def test_settings_read_by_their_fields(settings, made):
    needed = SETTINGS[settings]
    with pytest.raises(nd.UsageError, match="allow.synthetic.as.real"):
        settings(**needed, skip_unreadable=True).read(made, "real")
    with pytest.raises(nd.DataError):
        settings(**needed, allow_synthetic_as_real=True).read(made, "real")
    source = settings(**needed, skip_unreadable=True, allow_synthetic_as_real=True).read(made, "real", subset="first:2")
    assert source.images.shape == (2, 1, 8, 8) and source.name == "real"
    assert (
        settings(**needed, skip_unreadable=True).read(made, "made", synthetic=True, resolution=4).images.shape[2] == 4
    )
    if "resolution" in {field.name for field in fields(settings)}:
        resized = settings(**needed, skip_unreadable=True, resolution=6).read(made, "made", synthetic=True)
        assert resized.images.shape[1:] == (1, 6, 6)
    assert {"allow_synthetic_as_real", "skip_unreadable"} <= {field.name for field in fields(settings)}
    assert issubclass(settings, Reading)
