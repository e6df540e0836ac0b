"""``nomadiff presets``."""

from __future__ import annotations

from nomadiff.cli.answer import Answer

__all__ = ["presets"]


def presets() -> Answer:
    """List the presets: what each is for, how large its network is, how long and how it is trained.

    An example, and which of them suits your images and machine:

    nomadiff presets

    nomadiff suggest --real photos/
    """
    from nomadiff.models.dry_run import NFE_MEANS, millions, three_digits
    from nomadiff.workflows.presets import preset_table

    table = preset_table()
    lines = []
    for row in table.rows:
        lines.append(f"{row['preset']}: {row['description']}")
        lines.append(
            f"    {millions(row['parameters'])} parameters, {three_digits(row['gflop'])} GFLOP an image; "
            f"{row['budget']:,} images in batches of {row['batch']:,}, learning rate {row['learning_rate']:g}, "
            f"{row['precision']}; sampled with NFE {row['nfe']}"
        )
    return Answer(text="\n".join([*lines, NFE_MEANS]), value=table)
