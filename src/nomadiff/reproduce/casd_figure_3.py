"""CASD Figure 3: which classes the models of Table 2 draw, by a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nomadiff.reproduce import casd_table_2
from nomadiff.reproduce.study import Study

__all__ = ["DESCRIPTION", "study"]

DESCRIPTION = "CASD Figure 3: class composition of the models of Table 2 (table composition.json, bars in each report)"


def study(scale: str, data: Path | None, seeds: Sequence[int]) -> Study:
    """The models of Table 2, judged by the classes of their samples: ``composition.json`` has a row a class.

    The detector of photographs is a classifier of their classes.
    """
    table = casd_table_2.study(scale, data, seeds)
    return replace(table, name="casd-figure-3", title="CASD Figure 3: class composition under mismatch")
