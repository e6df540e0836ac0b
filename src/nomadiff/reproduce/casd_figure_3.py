"""CASD Figure 3: which classes the models of Table 2 draw, by a classifier."""

from __future__ import annotations

from dataclasses import replace

from nomadiff.reproduce import casd_table_2
from nomadiff.reproduce.recipe import Request
from nomadiff.reproduce.study import Study, study_recipe

__all__ = ["RECIPE", "study"]


def study(request: Request) -> Study:
    """The models of Table 2, judged by the classes of their samples: ``composition.json`` has a row a class.

    The detector of photographs is a classifier of their classes.
    """
    return replace(casd_table_2.study(request), title="CASD Figure 3: class composition under mismatch")


RECIPE = study_recipe(
    "casd-figure-3",
    "CASD Figure 3: class composition of the models of Table 2 (table composition.json, bars in each report)",
    study,
)
