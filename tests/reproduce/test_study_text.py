"""What a study says of its rows, checked on rows made by hand."""

from __future__ import annotations

from nomadiff.reproduce.study_text import study_text
from nomadiff.tables import Table


def row(n: int, source: str, method: str, seed: int, distance: float) -> dict:
    named = {"n": n, "method": method, "source": source, "seed": seed, "images_seen": 1}
    return {**named, "fd_digits": distance, "recall": 0.5}


def test_methods_are_compared_seed_by_seed() -> None:
    rows = [
        *(row(100, "", "dm", seed, 20.0) for seed in (0, 1)),
        *(row(100, "style", "sda", seed, distance) for seed, distance in ((0, 30.0), (1, 10.0))),
        *(row(100, "style", "casd", seed, distance) for seed, distance in ((0, 12.0), (1, 14.0))),
        *(row(100, "close", "sda", seed, 8.0) for seed in (0, 1)),
        *(row(100, "close", "casd", seed, 9.0) for seed in (0, 1)),
    ]
    text = study_text("Title", ["n"], Table(rows), notes=("A note.",))
    nearer = "style (13.0 against 20.0, in 1 of 2 seeds)"  # n is 100 in all rows and tells nothing apart
    farther = "close (9.00 against 8.00, in 2 of 2 seeds)"
    assert f"**CASD against SDA**, fd_digits: nearer in 1 of 2 settings: {nearer}. Farther in {farther}." in text
    assert "**CASD against DM**, fd_digits: nearer in 2 of 2 settings" in text
    assert "| style | casd | 13.00 ± 1.41 | 0.500 ± 0.000 |" in text
    assert "| - | dm | 20.0 ± 0.0 |" in text
    assert text.startswith("# Title\n") and text.rstrip().endswith("A note.")


def test_a_method_of_one_setting_stands_for_all_and_one_seed_is_said_to_be_one() -> None:
    rows = [row(0, "", "dm", 0, 20.0), row(5, "close", "casd", 0, 10.0), row(9, "close", "casd", 0, 30.0)]
    text = study_text("Title", ["n"], Table(rows))
    assert "nearer in 1 of 2 settings: n 5, close (10.0 against 20.0)." in text
    assert "Farther in n 9, close (30.0 against 20.0)." in text
    assert "One seed shows" in text and "±" not in text and "SDA" not in text


def test_methods_without_a_common_setting_are_not_compared() -> None:
    # two settings of the rival, none of them this one: neither may stand for it
    rows = [row(1, "", "dm", 0, 1.0), row(2, "", "dm", 0, 2.0), row(3, "close", "casd", 0, 3.0)]
    assert "against" not in study_text("Title", ["n"], Table(rows))


def test_the_style_that_shows_in_samples_is_told_where_it_is_known() -> None:
    rows = [row(1, "", "dm", 0, 9.0), row(1, "style", "sda", 0, 8.0), row(1, "close", "sda", 0, 7.0)]
    rows[0]["style"], rows[1]["style"] = 0.0, 0.5
    text = study_text("Title", ["n"], Table(rows))
    assert "| source | method | fd_digits | recall | style |" in text
    assert "| style | sda | 8.00 | 0.500 | 0.500 |" in text
    assert "| close | sda | 7.00 | 0.500 | - |" in text  # it cannot be told from real images
