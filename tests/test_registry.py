"""Parts by name: short, or ``module:qualname`` of what was imported, and nothing else; a file's name runs nothing."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import my_parts
import pytest
import torch

from nomadiff import registry
from nomadiff.errors import DataError, UsageError
from nomadiff.oracles import GaussianDenoiser
from nomadiff.registry import Registry, import_plugin, modules_of_parts
from nomadiff.sampling.sampler import SamplerConfig, draw
from nomadiff.sampling.solvers import SOLVERS, heun


def ten_calls(denoiser, x, sigmas, noise=None, churn=None):
    """Two calls a step: at five steps ten, where Heun's method has nine."""
    for sigma, following in zip(sigmas.tolist(), sigmas.tolist()[1:]):
        for _ in range(2):
            clean = denoiser(x.float(), torch.full((len(x),), sigma)).to(x)
        x = clean + following / sigma * (x - clean)
    return x


class Holder:
    def nested(denoiser, x, sigmas, noise=None, churn=None):
        return ten_calls(denoiser, x, sigmas)


def cropping(denoiser, x, sigmas, noise=None, churn=None):
    return ten_calls(denoiser, x, sigmas)[..., :-1]


def failing(denoiser, x, sigmas, noise=None, churn=None):
    raise ValueError("no such level")


def test_a_part_is_found_by_short_name_by_full_name_and_by_itself():
    assert SOLVERS.find("heun") is SOLVERS.find(heun) is SOLVERS["heun"] is heun
    assert SOLVERS.name_of(heun) == SOLVERS.name_of("nomadiff.sampling.solvers:heun") == "heun"
    assert SOLVERS.find(f"{__name__}:ten_calls") is ten_calls
    assert SOLVERS.name_of(Holder.nested) == f"{__name__}:Holder.nested"
    assert SOLVERS.find(f"{__name__}:Holder.nested") is Holder.nested
    assert list(SOLVERS) == ["heun", "euler", "ddpm"]


def test_a_registered_part_has_a_short_name_and_recipes_give_the_full_one():
    kinds: Registry = Registry("number", lambda part: "" if callable(part) else "it must be callable", {"one": heun})
    kinds.register("ten", ten_calls)
    assert kinds.find("ten") is ten_calls and kinds.name_of("ten") == f"{__name__}:ten_calls"
    with pytest.raises(UsageError, match="'one': taken"):
        kinds.register("one", ten_calls)
    with pytest.raises(UsageError, match="three is no number: it must be callable"):
        kinds.register("three", 3)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("huen", r"unknown solver 'huen' \(did you mean 'heun'\?\): choose one of heun, euler, ddpm"),
        ("absent_parts:midpoint", "a module that is not imported: if you trust it, pass --plugin absent_parts"),
        ("my_parts:midpiont", r"module my_parts has no solver 'midpiont' \(did you mean 'midpoint'\?\)"),
        ("my_parts:Plain", "my_parts:Plain is no solver: it must be a function of denoiser, x, sigmas, noise, churn"),
        # whatever a file may name of what is always there
        ("os:system", "os:system is no solver"),
        ("builtins:exec", "builtins:exec is no solver"),
        ("subprocess:Popen", "subprocess:Popen is no solver"),
        ("my_parts:Plain.__init__.__globals__", "no solver"),
        ("my_parts:", "module my_parts has no solver ''"),
        (":heun", "not imported"),
    ],
)
def test_a_name_that_is_no_part_is_one_line(name, told):
    with pytest.raises(UsageError, match=told) as caught:
        SamplerConfig(solver=name)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="sampler: "):
        SamplerConfig.from_dict({"solver": name})


def test_a_file_runs_nothing_of_a_module_that_makes_its_attributes_when_asked(monkeypatch):
    lazy = ModuleType("lazy_parts")
    lazy.__getattr__ = lambda name: pytest.fail("ran")  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "lazy_parts", lazy)
    with pytest.raises(UsageError, match="no solver"):
        SOLVERS.find("lazy_parts:midpoint")


def test_what_no_recipe_could_name_is_told():
    def local(denoiser, x, sigmas, noise=None, churn=None):
        return x

    class Instance:
        def __call__(self, denoiser, x, sigmas, noise=None, churn=None):
            return x

    for part in (local, Instance()):
        with pytest.raises(UsageError, match="define it at the top of a module"):
            SamplerConfig(solver=part)


@pytest.mark.parametrize(
    ("module", "told"),
    [
        ("absent_parts", "--plugin absent_parts: no such module"),
        ("absent.parts", "--plugin absent.parts: no such module"),
        ("my_parts.py", "no such module"),
        ("a/my_parts.py", "takes a module's name"),
        ("broken_parts", r"its import fails \(ZeroDivisionError"),
        ("needy_parts", r"its import fails \(ModuleNotFoundError: No module named 'not_here'"),
        ("leaving_parts", r"its import fails \(SystemExit"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_one_line(module, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "broken_parts.py").write_text("1 / 0")
    (tmp_path / "needy_parts.py").write_text("import not_here")
    (tmp_path / "leaving_parts.py").write_text("raise SystemExit(3)")
    with pytest.raises(UsageError, match=told):
        import_plugin(module)


def test_modules_of_parts_are_known_for_other_processes(monkeypatch):
    monkeypatch.setattr(registry, "_modules", {})
    SamplerConfig(solver=my_parts.midpoint)
    assert modules_of_parts() == ("my_parts",)


@pytest.mark.parametrize(("solver", "nfe"), [(ten_calls, 10), (my_parts.midpoint, 9), (Holder.nested, 10)])
def test_nfe_of_an_own_solver_is_counted(solver, nfe):
    config = SamplerConfig(solver=solver, steps=5)
    assert config.nfe == len(config.called_levels()) == nfe
    assert SamplerConfig.from_dict(config.to_dict()) == config
    assert isinstance(config.to_dict()["solver"], str)


def test_an_own_solver_that_fails_or_changes_the_shape_is_told():
    with pytest.raises(UsageError, match=r"made \(2, 3\) of noise \(2, 4\)"):
        list(draw(GaussianDenoiser(0.3, 0.25), (4,), range(2), seed=0, config=SamplerConfig(solver=cropping, steps=2)))
    with pytest.raises(UsageError, match=r"failing fails \(ValueError: no such level\)"):
        SamplerConfig(solver=failing).nfe  # noqa: B018


def test_a_recipe_of_a_fresh_process_names_the_plugin_and_runs_nothing(tmp_path):
    """In a fresh process the module is not imported; with the import the same text is the same sampler."""
    (tmp_path / "fresh_parts.py").write_text(
        "print('ran')\n"
        "def still(denoiser, x, sigmas, noise=None, churn=None):\n"
        "    return denoiser(x.float(), sigmas[0])\n"
    )
    code = (
        "from nomadiff.sampling.sampler import SamplerConfig\n"
        "print(SamplerConfig.from_dict({'solver': 'fresh_parts:still', 'steps': 7}).nfe)"
    )

    def run(text):
        return subprocess.run([sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, check=False)

    refused = run(code)
    assert refused.stdout == "" and "--plugin fresh_parts" in refused.stderr
    done = run(f"import fresh_parts\n{code}")
    assert done.stdout.split() == ["ran", "1"], done.stderr
