"""Packages stand as docs/architecture.md says: no import goes up, no circle, nothing heavy before it is needed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "nomadiff"
ENTRANCES = {"__init__", "__main__"}  # what users come in by: they may use every package, and none may use them
HEAVY = {"accelerate", "datasets", "diffusers", "jinja2", "matplotlib", "sklearn", "transformers"}


def read_plan() -> tuple[dict[str, int], dict[str, int], dict[str, set[str]]]:
    """The table of packages: to layer, to row (packages of one row may use one another), to neighbours in brackets."""
    layers: dict[str, int] = {}
    rows: dict[str, int] = {}
    neighbours: dict[str, set[str]] = {}
    lines = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if not (match := re.match(r"\| (\d+) \| ([^|]+) \|", line)):
            continue
        brackets = re.findall(r"\(uses ([^)]*)\)", match[2])
        used = {name for text in brackets for name in re.findall(r"`(\w+)(?:/|\.py)`", text)}
        for package in re.findall(r"`(\w+)(?:/|\.py)`", re.sub(r"\([^)]*\)", "", match[2])):
            layers[package], rows[package], neighbours[package] = int(match[1]), number, used
    return layers, rows, neighbours


LAYERS, ROWS, NEIGHBOURS = read_plan()
FILES = sorted(PACKAGE.rglob("*.py"))


def package_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a file imports, wherever in it: ``from a import b`` is ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write imports with their full name"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "nomadiff":
            yield node.lineno, f"nomadiff.{node.attr}"  # what is reached by `import nomadiff`


def may_use(package: str, other: str) -> bool:
    same = package == other or ROWS[package] == ROWS[other] or other in NEIGHBOURS[package]
    return LAYERS[other] < LAYERS[package] or same


def test_the_plan_is_read() -> None:
    assert LAYERS["errors"] == 0 and LAYERS["data"] == LAYERS["denoiser"] == 1 and LAYERS["cli"] == 9
    assert NEIGHBOURS["shift"] == {"improve"} and NEIGHBOURS["plane"] == {"loops"}
    assert may_use("workflows", "reports") and not may_use("reports", "workflows")
    assert may_use("shift", "improve") and not may_use("improve", "shift")
    assert may_use("files", "errors") and not may_use("errors", "data") and not may_use("sampling", "metrics")


def test_every_package_is_in_the_plan() -> None:
    present = {package_of(path) for path in FILES} - ENTRANCES
    assert present - set(LAYERS) == set(), "give these a layer in docs/architecture.md"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_import_goes_up(path: Path) -> None:
    package = package_of(path)
    if package in ENTRANCES or LAYERS.get(package) == max(LAYERS.values()):  # these may use everything
        return
    wrong = []
    for line, name in imports(path):
        first, _, rest = name.partition(".")
        if first != "nomadiff":
            continue
        other = rest.partition(".")[0]
        if other not in LAYERS or not may_use(package, other):
            wrong.append(f"line {line}: {name}")
    assert wrong == [], (
        f"{package} is on layer {LAYERS[package]} and may use lower layers and {NEIGHBOURS[package] or 'none'} only"
    )


def before_use(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports that run when the module is imported: not in functions, not for type checkers only."""
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from before_use(node.orelse)
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for inner in ("body", "orelse", "finalbody"):
                yield from before_use(getattr(node, inner, []))
            for handler in getattr(node, "handlers", []):
                yield from before_use(handler.body)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_heavy_packages_are_imported_where_they_are_used(path: Path) -> None:
    found = set()
    for node in before_use(ast.parse(path.read_text(encoding="utf-8")).body):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        found |= {name.partition(".")[0] for name in names} & HEAVY
    assert found == set(), "import these inside the functions that use them"


def test_importing_nomadiff_is_light() -> None:
    code = "import sys, nomadiff; nomadiff.__version__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "nomadiff" in loaded
    assert loaded & (HEAVY | {"torch", "numpy", "scipy", "numba", "PIL", "safetensors", "rich", "cyclopts"}) == set()


def test_no_circle() -> None:
    """No module imports itself by way of others, imports for types and inside functions included."""
    names = {path: ".".join(("nomadiff", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in FILES}
    modules = {name.removesuffix(".__init__") for name in names.values()}
    graph: dict[str, set[str]] = {}
    for path, name in names.items():
        if package_of(path) in ENTRANCES:
            continue
        found = (full if full in modules else full.rpartition(".")[0] for _, full in imports(path))
        graph[name.removesuffix(".__init__")] = {each for each in found if each in modules}
    done: set[str] = set()

    def walk(module: str, way: list[str]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            for other in sorted(graph.get(module, ())):
                walk(other, [*way, module])
            done.add(module)

    for module in sorted(graph):
        walk(module, [])
