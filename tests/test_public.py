"""``import nomadiff as nd`` is the product: what it holds, how it shows itself, and what it leaves alone."""

import inspect
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

import nomadiff as nd
from nomadiff.data.digits import read_digits

PACKAGES = "data networks sampling guidance training metrics reports interop models methods improve shift loops plane"
DIGITS = read_digits("digits:pool").images


def source(name="real", count=40, synthetic=False):
    return nd.ImageSource.from_array(DIGITS[:count], name=name, synthetic=synthetic)


def test_every_public_name_is_there_and_described():
    for name in nd.__all__:
        assert getattr(nd, name) is not None
        assert inspect.getdoc(getattr(nd, name)), name
    assert dir(nd) == sorted([*nd.__all__, "__version__"])
    with pytest.raises(AttributeError, match="has no attribute 'imporve'"):
        _ = nd.imporve


@pytest.mark.parametrize("verb", ["improve", "shift"])
def test_a_package_that_is_called_as_a_verb(verb):
    """However it was imported first, the package and the verb are one."""
    code = f"import nomadiff.{verb}.settings as s; import nomadiff as nd; assert callable(nd.{verb}), s"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert "out" in inspect.signature(getattr(nd, verb)).parameters
    with pytest.raises(nd.UsageError, match=f"^{verb} takes a Model"):
        getattr(nd, verb)(
            lambda x, sigma: x,
            "out",
            *([nd.Improvement(weight=1)] if verb == "improve" else [nd.Shift(target={"0": 0.5})]),
            **({} if verb == "improve" else {"classifier": "digits"}),
        )


@pytest.mark.parametrize("package", PACKAGES.split())
def test_packages_have_the_names_of_their_modules(package):
    """Nothing is imported before it is asked for, and every name a module lists is a name of its package."""
    module = __import__(f"nomadiff.{package}", fromlist=["x"])
    names = dir(module)
    assert names == sorted(set(names)) and not any(name.startswith("_") for name in names)
    for name in names:
        assert getattr(__import__(f"nomadiff.{package}", fromlist=[name]), name) is not None
    with pytest.raises(AttributeError, match="has no attribute"):
        _ = module.nothing_of_the_kind


def test_what_the_issue_asked_for():
    from nomadiff.guidance import Extrapolation
    from nomadiff.methods import SIMS, Neon

    assert (Extrapolation, SIMS, Neon) == (nd.Extrapolation, nd.SIMS, nd.Neon)


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    real, made = source(), source("made", 20, True)
    method = nd.CASD("digits", budget=32, batch=16, warmup=16)
    mix = nd.SourceMix(real, [made])
    model = method.fit(mix, tmp_path_factory.mktemp("run"), device="cpu")
    return {
        "source": real,
        "mix": mix,
        "method": method,
        "model": model,
        "own": nd.Model.from_denoiser(lambda x, sigma: x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2), shape=(1, 8, 8)),
        "recipe": model.config,
        "table": nd.Table([{"metric": "<fd>", "value": 1.23456}, {"metric": "recall"}]),
    }


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("source", "real, 40 images of 1x8x8"),
        ("mix", "66.7% real, 33.3% made"),
        ("method", "CASD(network ddpmpp"),
        ("model", "method casd"),
        ("own", "'denoiser'"),
        ("recipe", "casd: ddpmpp 1x8x8"),
        ("table", "2 rows of metric, value"),
    ],
)
def test_things_say_what_they_are(things, name, says):
    text = repr(things[name])
    assert says in text and "\n" not in text and len(text) < 300


def test_things_show_themselves_in_a_notebook(things):
    for name in ("source", "mix", "method", "model", "own", "table"):
        shown = things[name]._repr_html_()
        assert ("data:image/png;base64," in shown) == (name in ("source", "mix")), name
        assert ("<table>" in shown) == (name != "source"), name
    assert "&lt;fd&gt;" in things["table"]._repr_html_() and "1.235" in things["table"]._repr_html_()


@pytest.mark.parametrize("method", [nd.DM, nd.SIMS])
def test_training_and_scoring_leave_the_callers_randomness_alone(method, tmp_path):
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 - the global generator is what is asked about
    random.seed(3)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    options = {"improvement": nd.Improvement(weight=1, snapshots=1, budget=16)} if method is nd.SIMS else {}
    model = method("digits", budget=32, batch=16, warmup=16, **options).fit(
        nd.SourceMix(source()), tmp_path, device="cpu"
    )
    nd.evaluate(model, source("reference"), count=20)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert before[2] == random.getstate()


def test_no_process_is_changed_unasked(monkeypatch):
    """How memory goes back to the system is the command line's choice."""
    import ctypes

    from nomadiff.processes import join_processes

    def refuse(*arguments):
        raise AssertionError("a library was called")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    join_processes("cpu")


def test_a_model_and_sources_are_scored_as_their_images_are(things):
    reference = source("reference", 60)
    images = things["model"].sample(20, 4)
    told = nd.evaluate(images, reference.images)
    assert nd.evaluate(things["model"], reference, count=20, seed=4) == told
    assert nd.evaluate(nd.ImageSource.from_array(images, name="x", synthetic=True), reference) == told
    with pytest.raises(nd.UsageError, match="synthetic"):
        nd.evaluate(images, source("made", 60, True))
