"""A mix of sources before it is read, for command lines and worker processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nomadiff.data.choice import parse_choice, parse_named
from nomadiff.data.reading import AnyImages, Reading
from nomadiff.errors import UsageError

if TYPE_CHECKING:
    from nomadiff.data.source_mix import SourceMix

__all__ = ["MixSpec"]


@dataclass(frozen=True, kw_only=True)
class MixSpec(Reading):
    """Which images to train on, by name. Opening it reads them.

    From Python an :class:`~nomadiff.data.image_source.ImageSource` may stand where a path does.

    Attributes:
        real: Real images: a folder, .zip, .tar, .npz or .npy file, tar or parquet shards (a folder or a pattern),
            hf:NAME of a hub data set, or digits:pool; behind it may stand what is meant:
            #images=NAME,labels=NAME,config=NAME. Sets beyond 1 GiB decoded are kept in a file of the cache.
        synthetic: Synthetic sources, [name=]path. The name is the path's stem unless given.
        real_subset: Part of the real images: first:1000, range:0:1000, random:1000:SEED or each:125 (of every class).
        synthetic_subset: Part of every synthetic source, likewise.
        real_classes: Keep only these classes of the real images: 0-7, 0,2,5 or cat,dog.
        synthetic_classes: Keep only these classes of every synthetic source.
        real_fraction: Share of real images in a batch; the default is their share of all images (CASD eq. 5).
            For compare also auto: sda and casd search it.
        source_weights: Relative weights of the synthetic sources, one for each; the default is their sizes.
    """

    real: AnyImages
    synthetic: tuple[AnyImages, ...] = ()
    resolution: int | None = None
    real_subset: str | None = None
    synthetic_subset: str | None = None
    real_classes: str | None = None
    synthetic_classes: str | None = None
    real_fraction: float | Literal["auto"] | None = None
    source_weights: tuple[float, ...] | None = None
    allow_synthetic_as_real: bool = False
    skip_unreadable: bool = False

    @classmethod
    def of(cls, mix: SourceMix) -> MixSpec:
        """The spec of a mix whose images are read already.

        Raises:
            UsageError: the mix has floors, which belong to one training and not to a spec.
        """
        if mix.floors:
            raise UsageError("a mix with noise floors cannot be a spec: give it without them, to the method Ambient")
        real, *synthetic = mix.sources
        return cls(real=real, synthetic=tuple(synthetic), real_fraction=mix.real_fraction, source_weights=mix.weights)

    def open(self) -> SourceMix:
        """Read the images.

        Raises:
            UsageError, DataError: as :class:`~nomadiff.data.image_source.ImageSource` and
                :class:`~nomadiff.data.source_mix.SourceMix` do, for a synthetic source that is the real one, and for a
                real fraction that is to be searched.
        """
        from nomadiff.data.source_mix import SourceMix

        if self.real_fraction == "auto":
            raise UsageError("a real fraction of auto is for compare; to train one model take --method casd+weighted")
        real = self.read(self.real, "real", subset=self.real_subset, classes=self.real_classes)
        part = {"subset": self.synthetic_subset, "classes": self.synthetic_classes}
        synthetic = [self.read(spec, name, synthetic=True, **part) for name, spec in self.named_synthetic()]
        for source in synthetic:
            if source.content_hash == real.content_hash:
                raise UsageError(f"the synthetic source '{source.name}' holds the real images: give each its own")
        return SourceMix(real, synthetic, real_fraction=self.real_fraction, weights=self.source_weights)

    def named_synthetic(self) -> list[tuple[str, AnyImages]]:
        """Name and spec of every synthetic source."""
        named: list[tuple[str, AnyImages]] = []
        for argument in self.synthetic:
            if not isinstance(argument, str):
                named.append((argument.name, argument))
                continue
            name, spec = parse_named(argument)
            named.append((name or Path(parse_choice(spec).location.rpartition(":")[2]).stem, spec))
        return named
