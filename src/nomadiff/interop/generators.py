"""Generators of synthetic images: a model of nomadiff, or a text-to-image pipeline of diffusers."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from nomadiff.errors import DataError, NomadiffError, UsageError
from nomadiff.extras import install_command
from nomadiff.interop.diffusers_ import HUB_PREFIX, is_pipeline
from nomadiff.interop.prompts import PromptGrid
from nomadiff.models.foreign import is_importable
from nomadiff.models.model import Model
from nomadiff.seeding import mixed_seed

__all__ = ["Drawn", "ImageGenerator", "ModelGenerator", "PipelineGenerator", "is_text_to_image", "load_pipeline"]

_MOST_ATTEMPTS = 20
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Drawn:
    """One image and how it was made.

    Attributes:
        pixels: uint8 ``(H, W, C)``, C 1 or 3.
        record: what is written beside it: seed, and text and attributes where it has a prompt.
        label: its class, or None.
    """

    pixels: np.ndarray
    record: dict[str, Any] = field(default_factory=dict)
    label: int | None = None


class ImageGenerator(Protocol):
    """Draws image ``i`` of a set as a function of ``(seed, i)`` alone.

    Attributes:
        batch_size: images to ask for at once.
        class_names: name of label ``k`` at index ``k``; None if classes are known by their numbers, or there are none.
    """

    batch_size: int
    class_names: tuple[str, ...] | None

    def draw(self, indices: Sequence[int]) -> list[Drawn]:
        """The images with these consecutive indices."""
        ...

    def facts(self) -> dict[str, Any]:
        """Its entry in the manifest; it must not change when a job continues."""
        ...


class ModelGenerator:
    """Images of a nomadiff model, the same as ``nomadiff sample`` draws.

    Args:
        model: the model.
        seed: seed of the set.
        source, class_label, classes, sampler, precision: as for :meth:`~nomadiff.models.model.Model.sample_batches`.
        batch_size: images solved together; None chooses.

    Raises:
        UsageError: no such source or class, or the model draws latents of an unknown autoencoder.
        DataError: its autoencoder cannot be loaded.
    """

    def __init__(
        self,
        model: Model,
        seed: int,
        *,
        source: int | str = 0,
        class_label: int | str | None = None,
        classes: str | None = None,
        sampler: Any = None,
        batch_size: int | None = None,
        precision: str = "auto",
    ) -> None:
        self._model, self._seed = model, seed
        self._how: dict[str, Any] = {"sampler": sampler, "precision": precision}
        self._classes: dict[str, Any] = {"source": source, "class_label": class_label, "classes": classes}
        self._validate()
        self.batch_size = batch_size or model.default_batch_size
        self.class_names = model.class_names

    def _validate(self) -> None:
        """Raise for an unknown source or class, or a missing autoencoder, before the first expensive step."""
        self._model.sampling_denoiser(self._classes["source"])
        self._model.drawn_classes([], self._seed, **self._classes)
        if self._model.draws_latents:
            self._model.autoencoder  # noqa: B018

    def draw(self, indices: Sequence[int]) -> list[Drawn]:
        """As :class:`ImageGenerator`."""
        options = {**self._classes, **self._how, "first": indices[0], "batch_size": len(indices)}
        images = self._model.sample(len(indices), self._seed, **options)
        classes = self._model.drawn_classes(indices, self._seed, **self._classes)
        return [
            Drawn(
                pixels.permute(1, 2, 0).numpy(),
                {"seed": self._seed, "index": index},
                None if classes is None else int(classes[place]),
            )
            for place, (index, pixels) in enumerate(zip(indices, images))
        ]

    def facts(self) -> dict[str, Any]:
        """As :class:`ImageGenerator`."""
        manifest = self._model.manifest(0, self._seed, **self._how, **self._classes)
        unwanted = ("count", "kind", "versions")
        facts = {name: value for name, value in manifest.items() if name not in unwanted}
        return {**facts, "class_label": self._classes["class_label"]}


class PipelineGenerator:
    """Images of a text-to-image pipeline, one prompt of a grid after the other.

    Each image has a generator of its own on the CPU, seeded by a hash of ``(seed, index)``. An image that the
    pipeline's safety checker blacks out is drawn anew with the next seed, and its record says so.

    Args:
        spec: folder of the pipeline, or ``hf:<user>/<name>``.
        grid: the prompts.
        seed: seed of the set, and of the order of the prompts.
        steps, guidance_scale, height, width: passed to the pipeline; None leaves its own defaults.
        batch_size: images drawn together.
        device: where to compute.
        dtype: "fp32", "bf16" or "fp16".

    Raises:
        UsageError: diffusers is not installed, or the pipeline takes no prompt.
        DataError: the pipeline cannot be loaded.
    """

    def __init__(
        self,
        spec: str,
        grid: PromptGrid,
        seed: int,
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        height: int | None = None,
        width: int | None = None,
        batch_size: int = 4,
        device: torch.device | str = "cpu",
        dtype: str = "fp32",
    ) -> None:
        if dtype not in _DTYPES:
            raise UsageError(f"unknown dtype '{dtype}': choose one of {', '.join(_DTYPES)}")
        self.class_names = None if grid.label is None else tuple(grid.attributes[grid.label])
        self._pipeline = load_pipeline(spec, device, _DTYPES[dtype])
        taken = inspect.signature(self._pipeline.__call__).parameters
        if "prompt" not in taken:
            raise UsageError(
                f"{spec}: a {type(self._pipeline).__name__} takes no prompt; make it a model first (nomadiff import)"
            )
        wanted = {
            "num_inference_steps": steps,
            "guidance_scale": guidance_scale,
            "height": height,
            "width": width,
            "negative_prompt": grid.negative or None,
        }
        self._options = {key: value for key, value in wanted.items() if value is not None}
        unknown = [key for key in self._options if key not in taken]
        if refused := [key for key in unknown if key != "negative_prompt"]:
            raise UsageError(f"{spec}: a {type(self._pipeline).__name__} takes no {', '.join(refused)}")
        for key in unknown:  # FLUX and others take none
            del self._options[key]
        self.batch_size = batch_size
        self._grid, self._seed, self._order = grid, seed, grid.order(seed)
        self._spec, self._dtype = spec, dtype

    def draw(self, indices: Sequence[int]) -> list[Drawn]:
        """As :class:`ImageGenerator`."""
        done: dict[int, Drawn] = {}
        waiting = [(index, 0) for index in indices]
        while waiting:
            images, flagged = self._run(waiting)
            again = []
            for (index, attempt), pixels, blacked in zip(waiting, images, flagged):
                if not blacked:
                    done[index] = self._drawn(index, attempt, pixels)
                elif attempt + 1 < _MOST_ATTEMPTS:
                    again.append((index, attempt + 1))
                else:
                    prompt = self._prompt(index).text
                    raise NomadiffError(f"the safety checker refused {_MOST_ATTEMPTS} images of {prompt!r}; change it")
            waiting = again
        return [done[index] for index in indices]

    def _prompt(self, index: int) -> Any:
        return self._grid.prompt(int(self._order[index % len(self._order)]))

    def _drawn(self, index: int, attempt: int, pixels: np.ndarray) -> Drawn:
        prompt = self._prompt(index)
        record = {"seed": mixed_seed(self._seed, index, attempt), "index": index, "text": prompt.text}
        if attempt:
            record["attempt"] = attempt
        return Drawn(pixels, {**record, "attributes": prompt.attributes}, prompt.label)

    @torch.no_grad()
    def _run(self, wanted: Sequence[tuple[int, int]]) -> tuple[np.ndarray, Sequence[bool]]:
        options: dict[str, Any] = dict(self._options)
        if "negative_prompt" in options:
            options["negative_prompt"] = [options["negative_prompt"]] * len(wanted)
        result = self._pipeline(
            prompt=[self._prompt(index).text for index, _ in wanted],
            generator=[torch.Generator().manual_seed(mixed_seed(self._seed, *which)) for which in wanted],
            output_type="np",
            **options,
        )
        images = np.asarray(result.images)
        if images.ndim != 4 or len(images) != len(wanted) or not np.isfinite(images).all():
            raise NomadiffError(f"{self._spec}: the pipeline gave no finite images; in half precision try --dtype bf16")
        flagged = getattr(result, "nsfw_content_detected", None) or [False] * len(wanted)
        return (images * 255).round().clip(0, 255).astype(np.uint8), flagged

    def facts(self) -> dict[str, Any]:
        """As :class:`ImageGenerator`."""
        import diffusers

        return {
            "generator": type(self._pipeline).__name__,
            "model": self._spec if self._spec.startswith(HUB_PREFIX) else Path(self._spec).resolve().name,
            "revision": _revision(self._pipeline),
            "prompts": self._grid.name,
            "prompts_sha256": self._grid.sha256,
            "seed": self._seed,
            "dtype": self._dtype,
            "diffusers": diffusers.__version__,
            **self._options,
        }


def load_pipeline(spec: str, device: torch.device | str, dtype: torch.dtype) -> Any:
    """A pipeline of diffusers on its device, silent. Code that comes with a pipeline is not run.

    Args:
        spec: its folder, or ``hf:<user>/<name>``.
        device: where it is to compute.
        dtype: what in.

    Raises:
        UsageError: diffusers is not installed.
        DataError: it cannot be loaded.
    """
    try:
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise UsageError(f"pipelines of diffusers need an extra: {install_command('diffusers')}") from error
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # its name changes in diffusers 1.0
            pipeline = DiffusionPipeline.from_pretrained(spec.removeprefix(HUB_PREFIX), torch_dtype=dtype).to(device)
    except Exception as error:  # files, network and settings fail in the ways of several libraries
        lines = str(error).strip().splitlines()
        raise DataError(f"{spec}: cannot be loaded ({lines[0] if lines else type(error).__name__})") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def is_text_to_image(spec: str, prompts: str | None) -> bool:
    """Whether a source is a text-to-image pipeline rather than a model; of a name on the hub its prompts tell."""
    return prompts is not None if spec.startswith(HUB_PREFIX) else is_pipeline(spec) and not is_importable(spec)


def _revision(pipeline: Any) -> str | None:
    """The commit of a pipeline from the hub, which its cache folder is named after."""
    parts = Path(str(getattr(pipeline.config, "_name_or_path", ""))).parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts[:-1] else None
