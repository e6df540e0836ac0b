"""Every file of the hostile corpus is read, or refused in one line; nothing in it is run.

Within the process, by the functions behind the commands: ``scripts/hostile_corpus.py`` runs the commands themselves,
each in a process with limits.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nomadiff.data.image_source import ImageSource
from nomadiff.errors import NomadiffError
from nomadiff.interop.torch_files import read_torch_file
from nomadiff.metrics.detectors import load_detector
from nomadiff.metrics.statistics_files import read_statistics
from nomadiff.metrics.vector_files import read_vectors
from nomadiff.models.model import Model
from nomadiff.workflows.info import describe


def corpus() -> Any:
    """The module beside this one; the tests are no package."""
    spec = importlib.util.spec_from_file_location("hostile_corpus", Path(__file__).with_name("hostile_corpus.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def read(kind: str, path: Path) -> None:
    """What the commands do with a file first."""
    if kind == "images":
        ImageSource.open(str(path), name="real", synthetic=False, resolution=8)
    elif kind == "statistics":
        read_statistics(path, "fd_pixels")
    elif kind == "weights":
        read_torch_file(path)
    elif kind == "vectors":
        read_vectors(path)
    elif kind == "detector":
        load_detector(str(path))
    elif (path / "config.json").exists():
        describe(str(path))
    else:
        Model.load(path, device="cpu")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_nothing_is_run_and_everything_else_is_one_line(tmp_path: Path) -> None:
    outcomes: Counter[str] = Counter()
    wrong = []
    for case in corpus().make(tmp_path / "corpus"):
        name = str(case.path.relative_to(tmp_path / "corpus"))
        started = time.process_time()
        try:
            read(case.kind, case.path)
            outcomes["read"] += 1
        except NomadiffError as error:
            outcomes["refused"] += 1
            if "\n" in str(error) or len(str(error)) > 2000:
                wrong.append(f"{name}: {str(error)[:300]!r}")
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")
        if (spent := time.process_time() - started) > 10:
            wrong.append(f"{name}: {spent:.0f} CPU-seconds")
    assert list((tmp_path / "corpus" / "canary").iterdir()) == []
    assert wrong == []
    assert outcomes["refused"] > 250 and outcomes["read"] > 20
