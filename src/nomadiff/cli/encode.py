"""``nomadiff encode``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nomadiff.cli.answer import Answer, facts
from nomadiff.cli.options import Device, DryRun, Out, SkipUnreadable

__all__ = ["encode"]


def encode(
    images: Annotated[str, Parameter(help="Images: folder, zip, npz, npy or hf:NAME.")],
    *,
    out: Out,
    vae: str | None = None,
    like: Path | None = None,
    resolution: int | None = None,
    skip_unreadable: SkipUnreadable = False,
    batch_size: int = 8,
    device: Device = None,
    dry_run: DryRun = False,
) -> Answer | None:
    """Encode images once into latents, to train in latent space as EDM2's ImageNet-512 networks do.

    An example:

    nomadiff encode photos/ --resolution 512 --out latents.zip

    Train on the zip as on any set of images (--real latents.zip --preset imagenet512-edm2-s); sample and improve make
    images of what the model draws. A synthetic set stays synthetic. An interrupted job continues with the same command;
    several GPUs share it: torchrun --nproc-per-node 8 -m nomadiff encode ...

    Args:
        images: what to encode.
        out: A .zip in EDM2's layout; must be new, or half done by the same command.
        vae: Autoencoder (folder or hf:USER/NAME); EDM2's by default, hf:stabilityai/sd-vae-ft-mse.
        like: Latents that these are to be mixed with: the same autoencoder and scale. Without it the scale is EDM2's
            for EDM2's autoencoder, and measured on these images for any other.
        resolution: Crop to a square and resize to this many pixels.
        skip_unreadable: leave files out.
        batch_size: Images encoded together.
        device: where to compute.
        dry_run: plan only.
    """
    from nomadiff.data.latents import LatentSpace, read_space
    from nomadiff.data.lazy_images import open_lazily
    from nomadiff.files import check_output
    from nomadiff.interop.latents import encode_set
    from nomadiff.networks.autoencoder import Autoencoder
    from nomadiff.processes import join_processes

    if not dry_run:
        check_output(out, "new")
    processes = join_processes(device)
    space = None if like is None else read_space(like)
    known = space or LatentSpace()
    sha256 = known.vae_sha256 if space is not None else None
    autoencoder = Autoencoder.load(vae or known.vae, sha256=sha256, device=processes.device, batch_size=batch_size)
    if dry_run:
        with open_lazily(images, resolution=resolution, skip_unreadable=skip_unreadable) as found:
            channels, height, width = autoencoder.encode(found.batch(0, 1)).shape[1:]
            size = 4 * channels * height * width * len(found)
            plan = (
                f"images:  {len(found):,}\nlatents: {channels} x {height} x {width} (means and standard deviations), "
                f"{size / 1e9:,.3g} GB on disk, half of it while training: in memory, or above 1 GiB in a file"
            )
        return Answer(text=plan, value=facts(plan))
    space = encode_set(
        images,
        out,
        autoencoder,
        space=space,
        resolution=resolution,
        skip_unreadable=skip_unreadable,
        processes=processes,
    )
    if not processes.is_main:
        return None
    scale = ", ".join(f"{mean:.3g} ± {std:.3g}" for mean, std in zip(space.mean, space.std))
    return Answer(
        text=f"scale:   {scale} by channel",
        value={"mean": space.mean, "std": space.std},
        files={"latents": out},
        next=("train", "--real", out, "--out", "run/"),
    )
