"""``nomadiff import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nomadiff.cli.answer import Answer
from nomadiff.cli.options import Images

__all__ = ["import_"]


def import_(
    weights: Annotated[
        str | None,
        Parameter(help="File, folder of EDM2 snapshots or of a diffusers pipeline (hf:USER/NAME), address, or card."),
    ] = None,
    *,
    out: Annotated[Path | None, Parameter(help="The model folder; must be new.")] = None,
    std: float | None = None,
    at: Images | None = None,
    sources: str | None = None,
    sha256: str | None = None,
    list_cards: Annotated[bool, Parameter(name="--list", negative="")] = False,
) -> Answer:
    """Make a model of published weights: EDM and EDM2 pickles, training states, physicsnemo and diffusers.

    An example:

    nomadiff import edm-cifar10-uncond-vp --out base/

    Nothing in the file is run: it is read with a closed table of names, and refused if it asks for more. The model has
    to pass a self-check before it is written. Cards download NVIDIA's published networks (CC BY-NC-SA 4.0).

    Args:
        weights: what to import.
        out: where to.
        std: Relative width of the average to rebuild from a folder of EDM2 snapshots, such as 0.13.
        at: Images seen at the end of that average, such as 2147Mi; the last snapshot by default.
        sources: Names of the sources the labels stand for ("real,sdxl"), for a network trained with the source as its
            class label; labels are classes without it.
        sha256: What the file must hash to.
        list_cards: Show the cards and end.
    """
    from nomadiff.errors import UsageError
    from nomadiff.interop.cards import CARDS
    from nomadiff.interop.gan_cards import GAN_CARDS

    if list_cards:
        lines = []
        for name, card in CARDS.items():
            fid = "" if card.fid is None else f", FID {card.fid:g}"
            lines.append(f"{name:<24} {card.parameters / 1e6:8.1f} M parameters, {card.sampler.nfe} NFE{fid}")
        lines.append("\nto draw from with nomadiff synthesize --from, no denoisers:")
        for name, generator in GAN_CARDS.items():
            classes = f", {generator.classes} classes" if generator.classes else ""
            lines.append(f"{name:<32} {generator.resolution} pixels{classes}")
        return Answer(text="\n".join(lines), value={"denoisers": list(CARDS), "generators": list(GAN_CARDS)})
    if weights is None or out is None:
        raise UsageError("say what to import and where to: nomadiff import FILE --out MODEL (--list shows the cards)")

    from nomadiff.files import check_output
    from nomadiff.interop.importing import import_model

    check_output(out, "new")
    names = tuple(name.strip() for name in sources.split(",")) if sources else ()
    if weights in CARDS:
        print(f"licence: {CARDS[weights].licence}")
    model = import_model(weights, out, std=std, at=at, sources=names, sha256=sha256)
    config = model.config
    count = sum(parameter.numel() for parameter in model.network.parameters())
    labels = f"{config.sources or 'no'} sources, {config.classes or 'no'} classes"
    return Answer(
        text=f"network: {config.network.architecture}, {config.network.resolution}x{config.network.resolution}, "
        f"{count / 1e6:.2f} M parameters, {labels}; denoises at sigma 0.002",
        value={"architecture": config.network.architecture, "parameters": count},
        files={"model": out},
        next=("sample", out, "--count", "64", "--out", "samples.zip"),
    )
