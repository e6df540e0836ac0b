"""The figures that the papers print, quoted to stand beside what a recipe measures. The numbers are in one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nomadiff.files import read_json
from nomadiff.reports.markdown import markdown_table
from nomadiff.reports.page import PageTable
from nomadiff.tables import Table

__all__ = ["Published", "published"]

_FILE = Path(__file__).with_name("published.json")


@dataclass(frozen=True)
class Published:
    """A table of a paper.

    Attributes:
        paper: authors and title.
        where: which table.
        columns: their headings.
        rows: the cells as printed, text, so that no digit is added or lost.
        notes: what the figures are of.
    """

    paper: str
    where: str
    columns: list[str]
    rows: list[list[str]]
    notes: str

    @property
    def caption(self) -> str:
        """Whose figures these are, that they were not measured, and of what they are."""
        return f"Quoted from {self.paper}, {self.where}; nothing here was measured by nomadiff. {self.notes}"

    def page_table(self) -> PageTable:
        """As a section of a report."""
        return PageTable("Published figures (quoted)", self.columns, self.rows, self.caption)

    def markdown(self) -> str:
        """As a section of a summary."""
        return f"## Published figures (quoted)\n\n{self.caption}\n\n{markdown_table(self.columns, self.rows)}\n"

    def table(self) -> Table:
        """As a table file; its meta says where the figures are from."""
        about = {"quoted": True, "paper": self.paper, "where": self.where, "notes": self.notes}
        return Table([dict(zip(self.columns, row)) for row in self.rows], about)


def published(recipe: str) -> Published | None:
    """What the paper prints for a recipe, such as ``casd-table-1``; None where it prints no table."""
    found = read_json(_FILE, dict).get(recipe)
    return None if found is None else Published(**found)
