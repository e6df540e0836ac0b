"""One answer of a verdict: a principle, asked of one method with one source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nomadiff.metrics.evidence import Evidence

__all__ = ["ANSWERS", "Statement"]

Answer = Literal["yes", "no", "unclear", "not measured"]

ANSWERS: dict[str, dict[Answer, str]] = {
    "no harm": {"yes": "no harm", "no": "harm", "unclear": "no harm shown yet, and none excluded"},
    "utility": {"yes": "it helps", "no": "no help", "unclear": "no help shown yet"},
    "gain": {
        "yes": "better than its base trained as long",
        "no": "no better than its base trained as long",
        "unclear": "not shown to be better than its base trained as long",
    },
    "adaptability": {
        "yes": "it adapts to every source tried",
        "no": "it does not adapt to every source",
        "unclear": "not settled for every source",
    },
}
"""Answers as words, by principle."""
for _words in ANSWERS.values():
    _words["not measured"] = "not measured"


@dataclass(frozen=True)
class Statement:
    """One principle, asked of one method with one source (with all of them for adaptability).

    Attributes:
        principle: "no harm", "utility", "gain" or "adaptability".
        method: the method that is judged.
        source: name of the synthetic source; empty for adaptability, and for a method that uses none.
        answer: "yes", "no", "unclear" or "not measured".
        text: the answer in words.
        evidence: the measurements behind it.
    """

    principle: str
    method: str
    source: str
    answer: Answer
    text: str
    evidence: tuple[Evidence, ...] = ()

    @property
    def words(self) -> str:
        """The answer in a few words, such as "no harm shown yet"."""
        return ANSWERS[self.principle][self.answer]
