"""How settings with images among them read these."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nomadiff.data.image_source import ImageSource

    AnyImages = str | ImageSource
else:  # the command line evaluates the types of settings, and needs none that only Python gives: torch is not imported
    AnyImages = Any

__all__ = ["AnyImages", "Reading"]


class Reading:
    """How sets of images are read: the base of settings that have these among their fields.

    Attributes:
        resolution: Crop to a square and resize to this many pixels (Lanczos). Needed only if sizes differ.
        allow_synthetic_as_real: Accept a sample set with a manifest as real.
        skip_unreadable: Leave images out that cannot be read, and name them, instead of refusing.
    """

    resolution: int | None = None
    allow_synthetic_as_real: bool = False
    skip_unreadable: bool = False

    def read(self, images: AnyImages, name: str, *, synthetic: bool = False, **part: Any) -> ImageSource:
        """Read a set of images.

        Args:
            images: the set, anything :meth:`~nomadiff.data.image_source.ImageSource.open` opens.
            name: name of the source.
            synthetic: whether a model made it.
            **part: which part of it, or another resolution; as there.

        Raises:
            UsageError, DataError: as there.
        """
        from nomadiff.data.image_source import ImageSource

        leave = {"allow_synthetic_as_real": self.allow_synthetic_as_real, "skip_unreadable": self.skip_unreadable}
        options = {"resolution": self.resolution, **leave, **part}
        return ImageSource.open(images, name=name, synthetic=synthetic, **options)
