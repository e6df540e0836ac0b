"""``improve --distil``: the last stage, one network of what base and copy compute together."""

import dataclasses
import json

import pytest
import torch
from factories import noise_source, tiny_preset

import nomadiff as nd
from nomadiff.cli import main
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import UsageError
from nomadiff.guidance.shared_encoder import end_share
from nomadiff.improve import improve as improve_module
from nomadiff.improve.distillation import distil
from nomadiff.improve.improve import improve
from nomadiff.improve.settings import Improvement
from nomadiff.methods.casd import CASD
from nomadiff.methods.dm import DM
from nomadiff.methods.sims import SIMS, Neon
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.models.model import Model
from nomadiff.models.provenance import origins
from nomadiff.training.fitting import Fitting
from nomadiff.workflows.held_out import HeldOut
from nomadiff.workflows.improve import improve_files, plan_improvement

PRESET = tiny_preset(budget=160, learning_rate=1e-2, snapshot_every=32, ema_half_life=20)
QUICK = Improvement(
    synthetic_count=40, budget=64, snapshots=2, weight=1.0, count=30, evaluations=4, confirmations=2, distil=True
)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    mix = SourceMix(noise_source("real"), [noise_source("a", 1)])
    DM(PRESET).fit(mix, root / "dm", device="cpu")
    CASD(PRESET, class_labels=True).fit(mix, root / "casd", device="cpu")
    return root


@pytest.fixture
def base(bases):
    return Model.load(bases / "dm", device="cpu")


@pytest.fixture(scope="module")
def reference():
    return ReferenceSet(noise_source("reference", 9).images, detector="pixels")


def test_the_student_is_a_model_of_one_network(base, tmp_path):
    done = improve(base, tmp_path / "out", QUICK, device="cpu")
    student = Model.load(tmp_path / "out" / "distilled", device="cpu")
    assert student.sha256 == done.distilled.sha256 and student.config.method == "distilled"
    assert (student.nfe(), done.model.nfe(), base.nfe()) == (5, 10, 5)
    assert not torch.equal(student.sample(4), base.sample(4))
    assert origins(student) == origins(base) != []
    assert done.distilled_gain is None and done.sentence.endswith("; one network in distilled/")
    # it came nearer to what the guided model computes than the base is
    x, sigma = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(0.5)
    target = done.model.denoiser(x, sigma)
    errors = [float((model.denoiser(x, sigma) - target).square().mean()) for model in (student, base)]
    assert errors[0] < errors[1]
    assert not (tmp_path / "out" / "own").exists()
    assert Model.load(tmp_path / "out", device="cpu").sha256 == done.model.sha256  # the guided model is there too
    again = improve(student, tmp_path / "again", dataclasses.replace(QUICK, distil=False), device="cpu")
    assert again.model.nfe() == 10


def test_it_is_scored_beside_the_rest(base, tmp_path):
    held_out = HeldOut(reference="digits:reference", detector="digits")
    done = improve_files(base, tmp_path / "out", QUICK, held_out, device="cpu")
    content = json.loads((tmp_path / "out" / "improve.json").read_text())
    rows = [row for row in content["rows"] if row["space"] == "distilled"]
    fresh = [row for row in content["rows"] if row["noise"] == "fresh" and not row["weight"]]
    assert [row["seed"] for row in rows] == [row["seed"] for row in fresh] and len(rows) == 2
    assert {row["noise"] for row in rows} == {"fresh"} and {row["nfe"] for row in rows} == {5}
    assert {row["mparams"] for row in rows} == {row["mparams"] for row in fresh}
    assert len([row for row in content["rows"] if not row["weight"]]) == 3  # the base is not scored once more
    gain = done.distilled_gain
    expected = sum((b["fd_digits"] - r["fd_digits"]) / b["fd_digits"] for b, r in zip(fresh, rows)) / 2
    assert gain.mean == pytest.approx(expected) and gain.low <= gain.mean <= gain.high and gain.chance is not None
    assert content["meta"]["distilled"]["mean"] == pytest.approx(gain.mean)
    assert f"distilled into one network, at the base's cost: {gain.mean:+.1%}" in done.sentence
    assert content["meta"]["sentence"] == done.sentence
    page = (tmp_path / "out" / "report.html").read_text()
    assert "One network that was taught what the improved model computes" in page and "2 sets of 30 samples" in page


def test_killed_at_any_write_it_goes_on_to_the_same_student(base, reference, tmp_path, killed_at_write):
    work = {"reference": reference, "device": "cpu"}
    settings = dataclasses.replace(QUICK, snapshots=1)
    whole = improve(base, tmp_path / "whole", settings, **work)
    out, kills = tmp_path / "broken", 0
    while killed_at_write(2 * kills + 1, False, lambda: improve(base, out, settings, **work)):
        kills += 1
        assert kills < 60
    assert kills > 5
    broken = improve(base, out, settings, **work)
    assert (broken.sentence, broken.distilled_gain) == (whole.sentence, whole.distilled_gain)
    for file in ("distilled/model.safetensors", "distilled/sources.json", "guidance.json"):
        assert (out / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    names = [sorted(path.name for path in (folder / "distilled").iterdir()) for folder in (out, tmp_path / "whole")]
    assert names == [["model.safetensors", "sources.json"]] * 2


def test_a_finished_one_is_only_read(base, reference, tmp_path, monkeypatch):
    first = improve(base, tmp_path / "out", QUICK, reference=reference, device="cpu")
    for name in ("distil", "OwnSamples.draw"):
        monkeypatch.setattr(f"nomadiff.improve.improve.{name}", lambda *a, **k: pytest.fail("worked again"))
    monkeypatch.setattr(Model, "sample_batches", lambda *a, **k: pytest.fail("drew again"))
    again = improve(base, tmp_path / "out", QUICK, reference=reference, device="cpu")
    assert again.distilled.sha256 == first.distilled.sha256 and again.sentence == first.sentence


def test_asked_for_later_it_draws_its_images_again(base, tmp_path):
    whole = improve(base, tmp_path / "whole", QUICK, device="cpu")
    improve(base, tmp_path / "out", dataclasses.replace(QUICK, distil=False), device="cpu")
    assert not (tmp_path / "out" / "distilled").exists() and not (tmp_path / "out" / "own").exists()
    done = improve(base, tmp_path / "out", QUICK, device="cpu")
    assert done.distilled.sha256 == whole.distilled.sha256 and not (tmp_path / "out" / "own").exists()


def test_another_weight_is_another_student(base, tmp_path):
    first = improve(base, tmp_path / "out", QUICK, device="cpu")
    before = first.distilled.sha256
    second = improve(base, tmp_path / "out", dataclasses.replace(QUICK, weight=0.5), device="cpu")
    assert second.distilled.sha256 != before
    alone = improve(base, tmp_path / "alone", dataclasses.replace(QUICK, weight=0.5), device="cpu")
    assert second.distilled.sha256 == alone.distilled.sha256
    with pytest.raises(UsageError, match="holds the student of another model"):
        distil(first.model, noise_source("x"), tmp_path / "out" / "distilled", Fitting(budget=16, batch=16))


def test_a_killed_student_of_another_teacher_is_not_continued(base, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    fit = improve_module.distil.__globals__["fit"]

    def stopped(module, loss, *args, **options):
        def until(seen, generator):
            if seen == 48:
                raise Killed
            return loss(seen, generator)

        return fit(module, until, *args, **options)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("nomadiff.improve.distillation.fit", stopped)
        improve(base, tmp_path / "out", QUICK, device="cpu")
    assert [path.name[:11] for path in (tmp_path / "out" / "distilled").iterdir()] == ["student-of-"]
    done = improve(base, tmp_path / "out", dataclasses.replace(QUICK, weight=0.5), device="cpu")
    alone = improve(base, tmp_path / "alone", dataclasses.replace(QUICK, weight=0.5), device="cpu")
    assert done.distilled.sha256 == alone.distilled.sha256


def test_without_a_gain_nothing_is_distilled(base, reference, tmp_path, monkeypatch):
    improve(base, tmp_path / "out", QUICK, reference=reference, device="cpu")  # a weight that is asked for
    settings = dataclasses.replace(QUICK, weight=None)
    monkeypatch.setattr("nomadiff.improve.confirmation.Gain.is_sure", property(lambda self: False))
    done = improve(base, tmp_path / "out", settings, reference=reference, device="cpu")
    assert done.distilled is None and done.model.guidance.weight == 0
    assert done.sentence.endswith("nothing is distilled, as the base is what is used")
    assert not (tmp_path / "out" / "distilled").exists()  # that of the weight is not what this folder draws


def test_labels_go_with_it(bases, tmp_path):
    base = Model.load(bases / "casd", device="cpu")
    student = improve(base, tmp_path / "out", QUICK, device="cpu").distilled
    assert (student.config.sources, student.config.classes) == (2, 3)
    assert not torch.equal(student.sample(4, class_label=0), student.sample(4, class_label=1))


def test_where_there_is_nothing_to_distil_it_is_refused(tmp_path):
    with pytest.raises(UsageError, match="merged weights are one network already"):
        dataclasses.replace(QUICK, space="parameters")
    for method in (SIMS, Neon):
        with pytest.raises(UsageError, match="no budget for a distillation"):
            method(PRESET, improvement=QUICK)

    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, x, sigma):
            return self.scale * x

    Own.__qualname__ = "Own"
    globals()["Own"] = Own
    model = nd.Model.from_denoiser(Own(), shape=(1, 8, 8), settings={})
    with pytest.raises(UsageError, match="has no recipe"):
        improve(model, tmp_path / "out", dataclasses.replace(QUICK, learning_rate=1e-3), device="cpu")
    assert not (tmp_path / "out").exists()


def test_the_plan_and_the_command_line_know_it(bases, tmp_path, capsys):
    assert "distilling:  64 images" in plan_improvement(bases / "dm", QUICK, scored=True)
    assert "distilling" not in plan_improvement(bases / "dm", dataclasses.replace(QUICK, distil=False), scored=True)
    command = ["improve", str(bases / "dm"), "--weight", "1", "--budget", "64", "--snapshots", "1", "--distil"]
    command += ["--synthetic-count", "40", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert "one network in distilled/" in capsys.readouterr().out
    assert "distil = true" in (tmp_path / "out" / "command.toml").read_text()
    assert Model.load(tmp_path / "out" / "distilled", device="cpu").nfe() == 5


@pytest.mark.parametrize(
    ("changes", "expected"),
    [  # of five calls two lie in the interval; "s" is the share of the decoder's end
        ({}, "NFE 10; {5+2s} with --train-part decoder --interval 0.05:5, see"),
        ({"interval": (0.05, 5.0)}, "NFE 7; {5+2s} with --train-part decoder, see"),
        ({"train_part": "decoder"}, "NFE {5+5s}; {5+2s} with --interval 0.05:5, see"),
        ({"train_part": "decoder", "interval": (0.05, 5.0)}, "NFE {5+2s}"),
        ({"space": "parameters"}, "NFE 5"),
    ],
)
def test_the_plan_proposes_what_costs_less(bases, changes, expected):
    settings = dataclasses.replace(QUICK, distil=False, **changes)
    share = end_share(PRESET.network)
    for calls in (2, 5):
        expected = expected.replace(f"{{5+{calls}s}}", f"{round(5 + calls * share, 1):g}")
    plan = plan_improvement(bases / "dm", settings, scored=False)
    assert plan.splitlines()[-1].startswith(f"result:      {expected}")
