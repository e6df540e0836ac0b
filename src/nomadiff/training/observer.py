"""What the training loop tells whoever looks on, and what it asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from nomadiff.denoiser import EDMDenoiser

__all__ = ["Observer"]


class Observer(Protocol):
    """Looks at a training: it must leave weights and torch's global generators alone. Every process has one.

    What :meth:`snapshot` writes must be a function of the weights and of what it wrote for earlier snapshots: it is
    called again for the same images seen when a killed run goes on, and :meth:`begin` says from where.
    """

    @property
    def edges(self) -> list[float]:
        """Noise levels between the bands that losses are logged for, ascending."""
        raise NotImplementedError

    def stopped_at(self) -> int | None:
        """Images seen where it has stopped this run before; asked before the folder is claimed."""
        raise NotImplementedError

    def begin(self, images_seen: int) -> str:
        """The training goes on from so many images; gives why it is over already, or an empty text."""
        raise NotImplementedError

    def log(self, record: Mapping[str, Any]) -> None:
        """A line of the log was written; in the main process only."""
        raise NotImplementedError

    def snapshot(self, denoiser: EDMDenoiser, images_seen: int, last: bool) -> str:
        """A snapshot was written; gives why training should stop here, or an empty text, alike in every process.

        Args:
            denoiser: the averaged denoiser, in evaluation mode.
            images_seen: images it has seen.
            last: whether the budget is used up.
        """
        raise NotImplementedError

    def seen(self, images_seen: int) -> bool:
        """Whether the snapshot of so many images was looked at."""
        raise NotImplementedError

    def stopped(self, images_seen: int) -> None:
        """The training was stopped here by a signal, its state is saved; in the main process only."""
        raise NotImplementedError

    def close(self) -> None:
        """The training ends, is interrupted, or fails."""
        raise NotImplementedError
