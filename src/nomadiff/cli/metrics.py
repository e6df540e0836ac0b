"""``nomadiff metrics``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nomadiff.cli.answer import Answer, default_table, json_is_asked, scoring_command
from nomadiff.cli.lines import score_lines
from nomadiff.cli.options import Convention, Level

__all__ = ["metrics"]

_CALL = "nomadiff metrics REAL GENERATED, or nomadiff metrics GENERATED --reference REAL"


def metrics(
    real: Annotated[
        Path | None, Parameter(help="Real vectors (N, D): .npy, .npz, .pt, .safetensors, or statistics.")
    ] = None,
    fake: Annotated[Path | None, Parameter(help="Generated vectors (M, D), likewise.")] = None,
    *,
    reference: Path | None = None,
    train: Path | None = None,
    out: Annotated[Path | None, Parameter(help="Where to write the table: JSON, with CSV beside it.")] = None,
    k: int = 5,
    convention: Convention = "prdc",
    interval: Level = 0.95,
    save_reference: Path | None = None,
    allow_train_as_reference: bool = False,
) -> Answer:
    """Score features of your own: distances, precision, recall, density, coverage, replication; intervals and floors.

    An example, and another:

    nomadiff metrics real.npy generated.npz --train train.pt --out table.json

    nomadiff metrics generated.npy --reference edm-cifar10.npz --json

    An archive holds one array, or one that is called "features". Statistics (mu and sigma in .npz, as EDM writes them,
    or EDM2's .pkl) give the Frechet distance alone. The table goes to metrics.json unless --out or --json says where.

    Args:
        real: real vectors.
        fake: generated vectors.
        reference: The real vectors, where the generated ones stand alone, as for evaluate.
        train: What the generator was trained on, likewise; needed for replication.
        out: table.
        k: Neighbour of precision, recall, density and coverage.
        convention: prdc or kynkaanniemi.
        interval: Level of the confidence intervals.
        save_reference: Where to write the real vectors with their statistics (.npz), to score by later.
        allow_train_as_reference: Accept real vectors that are the training vectors, or mostly.
    """
    from nomadiff.errors import UsageError
    from nomadiff.files import check_output
    from nomadiff.metrics.arrays import metrics_of_arrays
    from nomadiff.metrics.fdr import too_few
    from nomadiff.metrics.frechet import Statistics
    from nomadiff.metrics.vector_files import read_real_vectors, read_vectors, save_real_vectors
    from nomadiff.tables import check_table

    if reference is not None and fake is None:
        real, fake = reference, real
    elif reference is not None:
        raise UsageError(f"give the real vectors once: {_CALL}")
    if real is None or fake is None:
        raise UsageError(f"give real and generated vectors: {_CALL}")
    path = out if out is not None or json_is_asked() else default_table()
    if path is not None:
        check_table(path)
    if save_reference is not None:
        check_output(save_reference, "file")
    vectors = read_real_vectors(real)
    if save_reference is not None and isinstance(vectors, Statistics):
        raise UsageError(f"{real}: holds statistics only, which is what --save-reference would write")
    table = metrics_of_arrays(
        vectors,
        read_vectors(fake),
        None if train is None else read_vectors(train),
        k=k,
        convention=convention,
        interval=interval,
        allow_train_as_reference=allow_train_as_reference,
    )
    if save_reference is not None and not isinstance(vectors, Statistics):
        save_real_vectors(save_reference, vectors)
    table.meta["command"] = scoring_command()
    if path is not None:
        table.write(path)
    counts = {name: table.meta["count"][name] for name in ("real", "fake")}
    judges = "statistics of real ones" if isinstance(vectors, Statistics) else f"{counts['real']:,} real ones"
    told = f"{counts['fake']:,} generated vectors ({fake}) of dimension {table.meta['dimension']}, by {judges} ({real})"
    lines = [score_lines(table.rows), told]
    if note := too_few({name: count for name, count in counts.items() if count}, table.meta["dimension"]):
        lines.append(note)
    if split := table.meta.get("floor_count"):
        lines.append(f"fresh real data: {split['fake']} of the real vectors judged by the other {split['real']}")
    return Answer(text="\n".join(lines), value=table, files={} if path is None else {"table": path})
