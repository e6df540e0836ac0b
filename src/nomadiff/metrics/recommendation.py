"""What to do after a comparison, in a sentence or two and as a step that a command can be made of."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from nomadiff.metrics.statement import Statement

__all__ = ["COPIER", "LONGER", "Step", "copying", "listed", "named", "recommendation", "untold"]

COPIER = 0.2  # share of replicated samples from which on the baseline's precision says little: four times fresh data's

_FEWEST = 3  # seeds that any interval should be of


@dataclass(frozen=True)
class Step:
    """What a recommendation comes down to.

    Attributes:
        kind: "use" the models of an arm, train with more "seeds", or train "longer".
        arm: method and source of the arm to use; the baseline where nothing else is recommended.
        seeds: number of seeds to train with in all, at least one more than there are.
    """

    kind: Literal["use", "seeds", "longer"]
    arm: tuple[str, str] = ("", "")
    seeds: int = 0


LONGER = Step("longer")


def untold(raw: Mapping[tuple[str, str], str], arms: Sequence[tuple[str, str]]) -> str:
    """What to do about arms that are not yet models."""
    who = "Nothing here is" if len(raw) == len(arms) else f"{', '.join(named(arm) for arm in raw)}: not"
    why = next(iter(raw.values()))
    return f"{who} yet a model ({why}): train longer (a larger --budget) before you compare."


def copying(baseline: str, copied: float, others: Mapping[tuple[str, str], float | None]) -> str:
    """What is plain to see where real-only training memorises."""
    known = [f"{named(arm)} {share:.0%}" for arm, share in others.items() if share is not None]
    told = f" ({', '.join(known)})" if known else ""
    return (
        f"Training on real images only ({baseline}) copies: {copied:.0%} of its samples repeat a training image{told}."
    )


def recommendation(
    statements: Sequence[Statement], baseline: str, *, copies: bool, unjudged: Collection[str] = ()
) -> tuple[str, Step]:
    """What to do, in sentences and as a step.

    Args:
        statements: the answers on every arm that is a model.
        baseline: the method that was trained on real images only.
        copies: whether its samples are copies of the training images.
        unjudged: sources of arms that are no models yet: nobody knows what those would say of them.
    """
    arms = list(dict.fromkeys((item.method, item.source) for item in statements if item.principle == "no harm"))
    answers = {arm: {item.principle: item for item in statements if (item.method, item.source) == arm} for arm in arms}

    def gain(arm: tuple[str, str]) -> float:
        found = [item.worse for item in answers[arm]["utility"].evidence if item.role == "distance"]
        return found[0] if found else 0.0

    def are(harm: Iterable[str], use: str) -> list[tuple[str, str]]:
        """The arms with these answers, the one nearest to real images first."""
        chosen = [
            arm for arm in arms if answers[arm]["no harm"].answer in harm and answers[arm]["utility"].answer == use
        ]
        return sorted(chosen, key=gain)

    best, hopeful = are(["yes"], "yes"), are(["unclear"], "yes") + are(["yes", "unclear"], "unclear")
    harmless = {source for method, source in arms if answers[method, source]["no harm"].answer != "no"}
    harmful = {source for _, source in arms if source}.difference(harmless, unjudged)
    sentences = []
    step = Step("use", best[0] if best else (baseline, ""))
    if best:
        sentences.append(f"Use {named(best[0])}: it helps and does no harm.")
    elif hopeful:
        method, source = hopeful[0]
        needed = [
            item.needed
            for principle in ("no harm", "utility")
            for item in answers[method, source][principle].evidence
            if item.needed is not None
        ]
        done = max((item.seeds for of in answers[method, source].values() for item in of.evidence), default=1)
        # as many as would settle it, but not more than some at a time: the estimate is one
        step = Step("seeds", seeds=max(done + 1, min(min(needed, default=_FEWEST), 2 * done + 1)))
        more = f" (about {min(needed)} would settle the nearest question)" if needed else ""
        until = "." if copies else f". Until then train on real images only ({baseline})."
        if answers[method, source]["utility"].answer == "yes":
            sentences.append(
                f"{named((method, source))} helps, but these seeds cannot show that it does no harm; run more "
                f"seeds{more}{until}"
            )
        else:
            sentences.append(
                f"Do not decide yet: {named((method, source))} may help, but these seeds cannot show that it does "
                f"and does no harm; run more seeds{more}{until}"
            )
    else:
        nothing = "no synthetic source" if all(source for _, source in arms) else "nothing that was tried"
        instead = "Get more real images" if copies else f"Train on real images only ({baseline})"
        sentences.append(f"{instead}: {nothing} helps without harm.")
    if harmful:
        sentences.append(f"Drop source {listed(sorted(harmful))}: it does harm with every method that was tried.")
    for arm in arms:
        if answers[arm]["no harm"].answer == "no" and arm[1] not in harmful:
            sentences.append(f"Do not use {named(arm)}: it does harm.")
    return " ".join(sentences), step


def named(arm: tuple[str, str]) -> str:
    """An arm, ``(method, source)``, in words."""
    method, source = arm
    return f"{method} with source {source!r}" if source else method


def listed(names: Sequence[str]) -> str:
    """Names in quotes, with commas between them."""
    return ", ".join(repr(name) for name in names)
