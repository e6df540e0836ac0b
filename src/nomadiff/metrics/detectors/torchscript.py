"""Any TorchScript file as a detector or classifier: preprocessing included."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from nomadiff.errors import DataError, UsageError
from nomadiff.files import require_regular, sha256_of_file
from nomadiff.metrics.detectors.protocol import check_images
from nomadiff.safe_pickle import printable

__all__ = ["SCRIPTS", "TorchScriptClassifier", "TorchScriptDetector", "is_script", "load_script"]

SCRIPTS = (".pt", ".ts", ".torchscript")
"""Endings of TorchScript files."""


# TorchScript's ways to files, to the terminal and to other processes
_REFUSED = rb"save|from_file|_?print|Print|rpc_\w+"
# operators and classes of other libraries: what they do is not known here
_FOREIGN = rb"ops\.(?!aten\.|prim\.)\w+|torch\.classes"
_IN_CODE = re.compile(rb"(?<!\w)(?:" + _REFUSED + rb"|" + _FOREIGN + rb")(?!\w)")
# getattr(self, "0") is how torch writes parts with such names; its text must be the literal one
_SPLIT_TEXT = re.compile(rb"\\|[\"']\s*[\"']")
_IN_PICKLES = re.compile(rb"torch\.classes")
_STORAGE = re.compile(r"/(data|constants|tensors)/\d+$")
_LONGEST_CODE = 16 << 20  # bytes of one entry that holds no numbers


def is_script(path: Path) -> bool:
    """Whether a file is an archive of TorchScript, and not of weights, as ``torch.save`` writes them."""
    try:
        require_regular(path)
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except Exception:  # no file, no archive, damaged: whatever else it may be
        return False


def load_script(path: Path, device: torch.device) -> tuple[torch.jit.ScriptModule, dict[str, bool]]:
    """The module of a TorchScript file, and the options to call it with for features.

    Raises:
        DataError: the file is truncated, no TorchScript, or names an operator that could reach beyond its tensors.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # torch >= 2.13 announces its end
            network = torch.jit.load(_checked(path), map_location=device).eval()
        asked = {argument.name for argument in network.forward.schema.arguments}
    except DataError:
        raise
    except Exception as error:  # zipfile and torch have many
        raise DataError(f"{path}: not a TorchScript file, or damaged ({_last_line(error)})") from error
    return network, {"return_features": True} if "return_features" in asked else {}


def _checked(path: Path) -> io.BytesIO:
    """The file again, entry by entry, with only entries that were checked.

    Parts of a module run as soon as it is loaded, so its code is read before torch sees it. What torch is given is
    written here: two readers of one zip can disagree about what is in it.

    Raises:
        DataError: see :func:`load_script`.
    """
    require_regular(path)
    copy = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as written:
        for entry in archive.infolist():
            storage = _STORAGE.search(entry.filename) is not None
            if entry.filename.endswith(".debug_pkl") or entry.is_dir():  # the source it was made of: not needed
                continue
            if storage and entry.compress_type != zipfile.ZIP_STORED:
                raise DataError(f"{path}: refused: numbers that are compressed, which torch does not do")
            if not storage and entry.file_size > _LONGEST_CODE:
                raise DataError(f"{path}: refused: {entry.file_size:,} bytes of code")
            content = archive.read(entry)
            if not storage and b"getattr" in content and _SPLIT_TEXT.search(content):
                raise DataError(f"{path}: refused: its code puts names together while it runs")
            pattern = _IN_PICKLES if entry.filename.endswith(".pkl") else _IN_CODE
            if not storage and (found := pattern.search(content)):
                raise DataError(
                    f"{path}: refused: its code names '{printable(found[0].decode())}', which a detector has no need of"
                )
            written.writestr(entry.filename, content)
    copy.seek(0)
    return copy


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return printable(lines[-1], 200)


class TorchScriptDetector:
    """A module saved by ``torch.jit.save`` that maps uint8 images ``(N, C, H, W)`` to float features ``(N, D)``.

    It gets the images as they are; whatever resizing and scaling it needs is its own. A module that can be asked for
    features (``forward(images, return_features=True)``, as NVIDIA's detectors can) is asked for them. Only
    TorchScript's own instructions run, no Python, and a file that names an operator with a way to files, other
    processes or foreign libraries is refused. It is still a program, which may never end: use only files
    from people you trust. Its distance is ``fd_<file name>``.

    Args:
        path: the file.
        device: where it computes.

    Raises:
        DataError: the file is absent, truncated, or no TorchScript.
    """

    version = "1"
    dimension = None

    def __init__(self, path: str | Path, device: str | torch.device = "cpu") -> None:
        path = Path(path)
        if not path.is_file():
            raise DataError(f"{path}: no such detector file")
        self.name = path.stem
        self.device = torch.device(device)
        self.network, self.options = load_script(path, self.device)
        self.sha256 = sha256_of_file(path)  # after it was read: what is no TorchScript may be of any length

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 ``(N, C, H, W)`` to float32 ``(N, D)``.

        Raises:
            UsageError: the module fails on these images, or gives something else.
        """
        check_images(images, f"detector {self.name}")
        try:
            with torch.inference_mode():
                output = self.network(images.to(self.device), **self.options)
        except Exception as error:  # a script may raise what it likes; the last line of its trace says what went wrong
            reason = _last_line(error)
            raise UsageError(f"detector {self.name} fails on images {tuple(images.shape)}: {reason}") from error
        if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(images):
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UsageError(f"detector {self.name} must give ({len(images)}, D) features, it gives {got}")
        if output.dtype == torch.bool or output.is_complex():
            raise UsageError(f"detector {self.name} must give real numbers, it gives {output.dtype}")
        return output.float()


class TorchScriptClassifier(TorchScriptDetector):
    """A TorchScript file whose output ``(N, D)`` are the scores of D classes, named 0..D-1."""

    def __init__(self, path: str | Path, device: str | torch.device = "cpu") -> None:
        super().__init__(path, device)
        self.options = {}  # scores, not features

    @property
    def class_names(self) -> tuple[str, ...]:
        """Known once the network saw an image."""
        return tuple(str(index) for index in range(self._count))

    _count = 0

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 ``(N, C, H, W)`` to the scores, float32 ``(N, D)``."""
        scores = super().__call__(images)
        self._count = scores.shape[1]
        return scores

    def classes(self, images: Tensor) -> Tensor:
        """uint8 ``(N, C, H, W)`` to the class, int64 ``(N,)``."""
        return self.classes_of_features(self(images))

    def classes_of_features(self, features: Tensor) -> Tensor:
        """Scores ``(N, D)`` to the class of the highest, int64 ``(N,)``."""
        self._count = features.shape[1]
        return features.argmax(1)
