"""The papers' figures are quoted as printed, and are not taken for measured ones."""

from __future__ import annotations

import pytest

from nomadiff.reproduce.published import published
from nomadiff.reproduce.recipe import RECIPES


@pytest.mark.parametrize(
    ("recipe", "count", "some"),
    [
        ("sims-table-1", 39, ["CIFAR-10 32x32 (Unconditional)", "EDM-VP + SIMS", "1.41", "70", "560", "SIMS paper"]),
        ("sims-table-1", 39, ["ImageNet 512x512", "AutoGuidance-XL", "1.25", "126", "2236", "Karras et al., 2024b"]),
        ("casd-table-1", 48, ["FFHQ", "StyleGAN", "2k", "SDA", "23.53"]),
        ("casd-table-1", 48, ["CIFAR-10", "EDM", "10k", "CASD", "2.37"]),
        ("casd-table-2", 3, ["SDA", "9.98", "12.77", "13.71"]),
        ("casd-table-3", 3, ["CASD+FLUX", "0.5351", "0.8806", "0.2265", "0.2426"]),
    ],
)
def test_figures_are_those_of_the_papers(recipe: str, count: int, some: list[str]) -> None:
    quoted = published(recipe)
    assert quoted is not None and recipe in RECIPES
    assert len(quoted.rows) == count and some in quoted.rows
    assert all(len(row) == len(quoted.columns) for row in quoted.rows)
    table = quoted.table()
    assert table.meta["quoted"] is True and table.meta["where"].startswith("Table")
    page = quoted.page_table()
    assert page.title == "Published figures (quoted)" and "nothing here was measured by nomadiff" in page.caption
    text = quoted.markdown()
    assert text.startswith("## Published figures (quoted)") and " | ".join(some) in text


def test_recipes_without_a_table_quote_none() -> None:
    assert [name for name in RECIPES if published(name)] == [
        "casd-table-1",
        "casd-table-2",
        "casd-table-3",
        "sims-table-1",
    ]
