"""``nomadiff metrics``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nomadiff.cli.options import Convention, Level, score_lines

__all__ = ["metrics"]


def metrics(
    real: Annotated[Path, Parameter(help="Real vectors, .npy of shape (N, D).")],
    fake: Annotated[Path, Parameter(help="Generated vectors, .npy of shape (M, D).")],
    *,
    train: Path | None = None,
    out: Annotated[Path, Parameter(help="Where to write the table: JSON, with CSV beside it.")] = Path("metrics.json"),
    k: int = 5,
    convention: Convention = "prdc",
    interval: Level = 0.95,
    allow_train_as_reference: bool = False,
) -> None:
    """Score features of your own: distances, precision, recall, density, coverage, replication; intervals and floors.

    An example:

    nomadiff metrics real.npy generated.npy --train train.npy --out table.json

    Args:
        real: real vectors.
        fake: generated vectors.
        train: What the generator was trained on, .npy; needed for replication.
        out: table.
        k: Neighbour of precision, recall, density and coverage.
        convention: prdc or kynkaanniemi.
        interval: Level of the confidence intervals.
        allow_train_as_reference: Accept real vectors that are the training vectors, or mostly.
    """
    from nomadiff.metrics.arrays import metrics_of_arrays, read_vectors
    from nomadiff.tables import check_table

    check_table(out)
    table = metrics_of_arrays(
        read_vectors(real),
        read_vectors(fake),
        None if train is None else read_vectors(train),
        k=k,
        convention=convention,
        interval=interval,
        allow_train_as_reference=allow_train_as_reference,
    )
    table.write(out)
    split = table.meta["floor_count"]
    print(score_lines(table.rows))
    print(f"fresh real data: {split['fake']} of the real vectors judged by the other {split['real']}; table: {out}")
