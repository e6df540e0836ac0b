"""Prompt grids: every combination of attributes."""

from __future__ import annotations

from pathlib import Path

import pytest

from nomadiff.errors import DataError, UsageError
from nomadiff.interop.prompts import SHIPPED, PromptGrid

ANIMALS = """
templates = ["a {light} photo of {animal}", "a drawing of {animal}"]
negative = "text"
label = "animal"
[attributes]
animal = ["a cat", "a dog", "a fox"]
light = ["dark", "bright"]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "animals.toml"
    path.write_text(text)
    return path


def test_every_combination_comes_once(tmp_path: Path) -> None:
    grid = PromptGrid.read(written(tmp_path, ANIMALS))
    prompts = [grid.prompt(number) for number in range(len(grid))]
    assert len(grid) == 3 * 2 + 3 and len({prompt.text for prompt in prompts}) == 9
    assert prompts[0].text == "a dark photo of a cat" and prompts[0].attributes == {"light": "dark", "animal": "a cat"}
    assert prompts[1].text == "a dark photo of a dog" and prompts[1].label == 1
    assert prompts[8].text == "a drawing of a fox" and prompts[8].attributes == {"animal": "a fox"}
    assert grid.name == "animals" and grid.negative == "text"
    with pytest.raises(IndexError):
        grid.prompt(9)


def test_the_order_is_a_shuffle_of_all(tmp_path: Path) -> None:
    grid = PromptGrid.read(written(tmp_path, ANIMALS))
    order = grid.order(5)
    assert sorted(order) == list(range(9)) and list(order) == list(grid.order(5)) != list(grid.order(6))


def test_the_hash_is_of_the_prompts(tmp_path: Path) -> None:
    grid = PromptGrid.read(written(tmp_path, ANIMALS))
    other = PromptGrid.read(written(tmp_path, ANIMALS.replace("fox", "hen")))
    again = PromptGrid.read(written(tmp_path, "# a comment\n" + ANIMALS))
    assert grid.sha256 == again.sha256 != other.sha256


def test_shipped_grids_span_the_papers_faces() -> None:
    assert len(SHIPPED) == 2
    faces = PromptGrid.read("faces")
    assert len(faces) == 5 * 5 * 6 * 2 * 4 * 4 * 5
    # of the CASD paper's Table 7
    examples = {
        "A DSLR photo of a child Asian woman with a confident look, studio background, headshot, photorealistic, "
        "high detail",
        "A professional headshot of an elderly South Asian woman with a gentle smile, subtle gradient background, "
        "headshot, photorealistic, high detail",
        "A studio portrait of a teen South Asian woman with a serious face, indoor background, realistic lighting, "
        "photorealistic, high detail",
    }
    found = {prompt.text for prompt in (faces.prompt(number) for number in range(len(faces)))}
    assert examples <= found
    classes = PromptGrid.read("class-names")
    labels = [classes.prompt(number).label for number in range(len(classes))]
    assert set(labels) == set(range(10))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("templates = []", "templates must be a list"),
        ('templates = ["a"]\nsurprise = 1', "unknown entry surprise"),
        ('templates = ["a {b}"]', "uses b, which is no attribute"),
        ('templates = ["a {b"]\n[attributes]\nb = ["x"]', "template"),
        ('templates = ["a {b!r}"]\n[attributes]\nb = ["x"]', "only plain"),
        ('templates = ["a {b.__class__}"]\n[attributes]\nb = ["x"]', "no attribute"),
        ('templates = ["a {b:>{c}}"]\n[attributes]\nb = ["x"]\nc = ["3"]', "only plain"),
        ('templates = ["a", "a"]', "twice"),
        ('templates = ["a {b}"]\nlabel = "c"\n[attributes]\nb = ["x"]', "does not exist"),
        ('templates = ["a"]\nlabel = "b"\n[attributes]\nb = ["x"]', "does not say its class"),
        ('templates = ["a {b}"]\nattributes = 3', "table of lists"),
        ('templates = ["a {b}"]\n[attributes]\nb = "x"', "attribute b must be a list"),
        ("templates = [", "animals.toml"),
    ],
)
def test_other_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        PromptGrid.read(written(tmp_path, text))


def test_unknown_grids(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="shipped grids are faces, class-names"):
        PromptGrid.read("nonsense")
    huge = 'templates = ["' + " ".join(f"{{a{i}}}" for i in range(8)) + '"]\n[attributes]\n'
    huge += "\n".join(f"a{i} = [{', '.join(f'{str(j)!r}' for j in range(10))}]" for i in range(8))
    with pytest.raises(DataError, match="more than 10,000,000"):
        PromptGrid.read(written(tmp_path, huge))
