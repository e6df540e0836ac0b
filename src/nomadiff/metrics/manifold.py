"""Precision, recall, density and coverage: how two sets of features overlap, by balls around k-th neighbours.

A ball around each real feature reaches to its k-th nearest other real feature, and likewise for the generated ones.
Precision is the share of generated features in some real ball, recall the share of real features in some generated
ball (Kynkaanniemi et al. 2019, eq. 1 and 2); density counts the real balls a generated feature is in, over k, and
coverage is the share of real balls that hold a generated feature (Naeem et al. 2020, eq. 4 and 5).

Two conventions are in use and give slightly different figures; say which one a figure follows:

* ``"prdc"`` (the package of Naeem et al.): inside means nearer than the radius, ``<``; customary k = 5.
* ``"kynkaanniemi"`` (the original and torch-fidelity): ``<=``; customary k = 3.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nomadiff.errors import UsageError
from nomadiff.metrics.intervals import GROUPS, means_left_out
from nomadiff.metrics.neighbours import LONG, as_points, kth_distances, nearest_neighbours
from nomadiff.metrics.screening import BLOCK, OPEN, Pairs, Screen, blocks_of, measure
from nomadiff.progress import progress_bar

__all__ = ["CONVENTIONS", "check_count", "prdc", "prdc_left_out", "radii"]

CONVENTIONS = ("prdc", "kynkaanniemi")


def radii(features: Tensor | np.ndarray, k: int = 5, what: str = "features") -> Tensor:
    """Distance of every feature to its k-th nearest other one: ``(N, D)`` to float64 ``(N,)``.

    Raises:
        UsageError: not more than k features, or a value that is not finite.
    """
    check_count(len(features), k, what)
    return kth_distances(features, k)


def prdc(
    real: Tensor | np.ndarray,
    fake: Tensor | np.ndarray,
    k: int = 5,
    convention: str = "prdc",
    *,
    real_radii: Tensor | None = None,
) -> dict[str, float]:
    """Precision, recall, density and coverage of ``fake`` against ``real``.

    Args:
        real: float features ``(N, D)``, more than k.
        fake: float features ``(M, D)``, more than k.
        k: which neighbour sets the radius of a ball.
        convention: one of :data:`CONVENTIONS`.
        real_radii: :func:`radii` of ``real``, where they are known from before.

    Returns:
        ``precision``, ``recall``, ``coverage`` in [0, 1] and ``density`` >= 0.

    Raises:
        UsageError: an unknown convention, too few features, different dimensions, values that are not finite, or real
            features that are all the same.
    """
    x, y = _checked(real, fake, convention)
    count = _Count(x, y, k, convention, _real_balls(x, k, real_radii), radii(y, k, "fake"))
    return count.values()


def prdc_left_out(
    real: Tensor | np.ndarray,
    fake: Tensor | np.ndarray,
    member: Tensor,
    k: int = 5,
    convention: str = "prdc",
    *,
    real_radii: Tensor | None = None,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """As :func:`prdc`, and the same four without each group of generated features in turn, in one pass over the pairs.

    Args:
        real, fake, k, convention, real_radii: as for :func:`prdc`.
        member: group of each generated feature, int64 ``(M,)``, see :func:`~nomadiff.metrics.intervals.random_groups`.

    Returns:
        The values of :func:`prdc`, and for each of the four float64 ``(GROUPS,)``.

    Raises:
        UsageError: as in :func:`prdc`, or not more than k features outside of some group.
    """
    x, y = _checked(real, fake, convention)
    check_count(len(y) - int(torch.bincount(member).max()), k, "fake without a twentieth")
    radius, left_out = _radii_left_out(y, member, k)
    count = _Count(x, y, k, convention, _real_balls(x, k, real_radii), radius, member, left_out)
    return count.values(), count.left_out()


def _checked(real: Tensor | np.ndarray, fake: Tensor | np.ndarray, convention: str) -> tuple[Tensor, Tensor]:
    if convention not in CONVENTIONS:
        raise UsageError(f"no convention {convention!r}: choose one of {', '.join(CONVENTIONS)}")
    x, y = as_points(real, "real"), as_points(fake, "fake")
    if x.shape[1] != y.shape[1]:
        raise UsageError(f"features of dimension {x.shape[1]} and {y.shape[1]} cannot be compared: two detectors?")
    return x, y


def check_count(count: int, k: int, what: str) -> None:
    if k < 1:
        raise UsageError(f"k must be at least 1, got {k}")
    if count <= k:
        raise UsageError(f"{what}: precision and recall with k = {k} need more than {k} images, got {count}")


def _real_balls(x: Tensor, k: int, known: Tensor | None) -> Tensor:
    balls = radii(x, k, "real") if known is None else known
    if not bool((balls > 0).any()):  # of the generated ones they may all be 0: then recall is 0
        raise UsageError(f"real: every feature has {k} exact copies (constant features): there is nothing to cover")
    return balls


def _radii_left_out(y: Tensor, member: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Radii ``(M,)``, and ``(M, GROUPS)`` without each group: the k-th neighbour among those that are left."""
    listed = min(3 * k + 6, len(y) - 1)
    index, distance = nearest_neighbours(y, y, listed, itself=True)
    group = member[index]
    result = torch.empty(len(y), GROUPS, dtype=torch.float64)
    for left in range(GROUPS):
        rank = (group != left).cumsum(1)
        column = (rank < k).sum(1)  # of the k-th that is left
        result[:, left] = distance.gather(1, column.clamp(max=listed - 1)[:, None])[:, 0]
        short = torch.nonzero(column >= listed)[:, 0]  # too many of the listed ones are in that group
        if len(short):
            others = torch.nonzero(member != left)[:, 0]
            own = (member[short] != left).long()  # the point itself is among the others: one neighbour further
            result[short, left] = nearest_neighbours(y[short], y[others], k + 1)[1].gather(1, (k - 1 + own)[:, None])[
                :, 0
            ]
    return distance[:, k - 1], result


class _Count:
    """One pass over all pairs of real and generated features: which point lies in which ball.

    With groups it also keeps which groups reach a real feature, so that each can be left out afterwards. Leaving out a
    group makes some generated balls larger; a pair that only such a larger ball holds is noted for that group alone.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        k: int,
        convention: str,
        real_balls: Tensor,
        fake_balls: Tensor,
        member: Tensor | None = None,
        fake_left_out: Tensor | None = None,
    ) -> None:
        self.x, self.y, self.k, self.strict = x, y, k, convention == "prdc"
        self.member = torch.zeros(len(y), dtype=torch.int64) if member is None else member
        groups = 1 if member is None else GROUPS
        self.inside = torch.zeros(len(y), dtype=torch.int64)  # how many real balls hold each generated feature
        self.covering = torch.zeros(
            len(x), groups, dtype=torch.int64
        )  # how many generated features of a group each real ball holds
        self.recalling = torch.zeros(
            len(x), groups, dtype=torch.int64
        )  # how many generated balls of a group hold each real feature
        self.recalled_only_without = torch.zeros(len(x), groups, dtype=torch.bool)
        widest = None if fake_left_out is None else fake_left_out.max(1).values
        screen = Screen(x, y)
        show = len(x) * len(y) > LONG
        with progress_bar("precision and recall", total=len(x), unit="points", show=show) as advance:
            for rows in blocks_of(len(x)):
                for columns in blocks_of(len(y)):
                    reach = fake_balls if widest is None else widest
                    of_real, of_fake = screen.within(rows, columns, real_balls[rows], reach[columns], most_open=OPEN)
                    assert of_real is not None and of_fake is not None
                    inside = of_real.only(self._within(of_real, real_balls[of_real.i]))
                    self.inside += torch.bincount(inside.j, minlength=len(y))
                    self._add(self.covering, inside)
                    reached = self._within(of_fake, fake_balls[of_fake.j])
                    self._add(self.recalling, of_fake.only(reached))
                    if fake_left_out is not None:
                        self._note(of_fake.only(~reached), fake_left_out)
                screen.settle()
                advance(rows.stop - rows.start)

    def _add(self, counts: Tensor, pairs: Pairs) -> None:
        """Count the generated features of each pair, by groups, for its real one."""
        cell = pairs.i * counts.shape[1] + self.member[pairs.j]
        counts.view(-1).add_(torch.bincount(cell, minlength=counts.numel()))

    def _within(self, pairs: Pairs, ball: Tensor) -> Tensor:
        """Which pairs lie inside the radii ``ball``, one a pair: by their bounds, else by measuring them."""
        result = pairs.upper < ball
        open_ = torch.nonzero(~result & (pairs.lower <= ball))[:, 0]
        exact = measure(self.x, self.y, pairs.i[open_], pairs.j[open_])
        result[open_] = exact < ball[open_] if self.strict else exact <= ball[open_]
        return result

    def _note(self, pairs: Pairs, fake_left_out: Tensor) -> None:
        """Pairs that lie between a ball and its widest form: for which groups left out is the real feature reached?"""
        for start in range(0, len(pairs.i), BLOCK):
            some = pairs.only(torch.arange(start, min(start + BLOCK, len(pairs.i))))
            exact = measure(self.x, self.y, some.i, some.j)[:, None]
            reached = exact < fake_left_out[some.j] if self.strict else exact <= fake_left_out[some.j]
            reached[torch.arange(len(some.j)), self.member[some.j]] = False  # a ball that is left out contains no point
            pair, group = torch.nonzero(reached, as_tuple=True)
            self.recalled_only_without[some.i[pair], group] = True

    def values(self) -> dict[str, float]:
        return {
            "precision": float((self.inside > 0).double().mean()),
            "recall": float((self.recalling.sum(1) > 0).double().mean()),
            "density": float(self.inside.double().mean()) / self.k,
            "coverage": float((self.covering.sum(1) > 0).double().mean()),
        }

    def left_out(self) -> dict[str, np.ndarray]:
        covered = self.covering.sum(1, keepdim=True) > self.covering
        recalled = (self.recalling.sum(1, keepdim=True) > self.recalling) | self.recalled_only_without
        return {
            "precision": means_left_out((self.inside > 0).double(), self.member),
            "recall": recalled.double().mean(0).numpy(),
            "density": means_left_out(self.inside, self.member) / self.k,
            "coverage": covered.double().mean(0).numpy(),
        }
