"""Describe a file in a few lines: ``nomadiff info``."""

from __future__ import annotations

from pathlib import Path

import torch

from nomadiff.data.image_source import ImageSource
from nomadiff.data.labels import is_number, listed
from nomadiff.data.mapped import chunks
from nomadiff.errors import DataError, UnreadableImages, UsageError
from nomadiff.files import printable
from nomadiff.metrics.detectors.features import accuracy
from nomadiff.metrics.detectors.loading import load_detector
from nomadiff.metrics.detectors.names import DETECTORS, names_detector
from nomadiff.metrics.detectors.protocol import Classifier
from nomadiff.metrics.detectors.torchscript import is_script
from nomadiff.metrics.distance_names import distance_name
from nomadiff.models.dry_run import class_lines, millions, parameters_planned, three_digits
from nomadiff.models.foreign import foreign
from nomadiff.models.guided_model import GUIDANCE_NAME
from nomadiff.models.model import Model
from nomadiff.monitoring.history import History
from nomadiff.monitoring.words import findings
from nomadiff.networks.flops import flops_of
from nomadiff.processes import join_processes
from nomadiff.training.run_folder import RunFolder, images_seen_by

__all__ = ["describe"]


def describe(
    path: str, *, weights: str | None = None, accuracy_on: str | None = None, skip_unreadable: bool = False
) -> str:
    """Describe a run folder, a model file, a set of images or a detector, one fact a line.

    Args:
        path: run folder, safetensors file, anything :meth:`~nomadiff.data.image_source.ImageSource.open` opens, or
            one of :data:`~nomadiff.metrics.detectors.names.DETECTORS` or a plugin's detector (``module:qualname``),
            unless there is a file of that name.
        weights: path or URL of the detector's weights.
        accuracy_on: labelled images; to measure a classifying detector's accuracy on.
        skip_unreadable: leave out images that cannot be read, and name them.

    Raises:
        DataError: it is none of them, or damaged.
        UsageError: an option does not belong to what is described.
    """
    file = Path(path)
    if is_script(file) or (names_detector(path) and not file.exists()):
        return _joined(_describe_detector(path, weights, accuracy_on, skip_unreadable))
    if weights is not None or accuracy_on is not None:
        raise UsageError(f"{path} is no detector ({', '.join(DETECTORS)}): it has no weights or accuracy to ask for")
    if (reason := foreign(file, images=False)) is not None:
        raise DataError(reason)
    if (file / "config.json").is_file():
        return _joined(_describe_run(RunFolder(file)))
    if file.suffix == ".safetensors" or (file / GUIDANCE_NAME).is_file():
        return _joined(_describe_model(Model.load(file, device="cpu")))
    return _joined(_describe_images(path, skip_unreadable))


def _joined(facts: list[str]) -> str:
    """A line for each fact; line ends in names are escaped."""
    return "\n".join(map(printable, facts))


def _describe_run(folder: RunFolder) -> list[str]:
    config = folder.config()
    log = folder.read_log()
    seen = folder.goes_on_from() or (int(log[-1]["images_seen"]) if log else 0)
    end = config.training.steps * config.training.batch
    history = History(folder.path)
    finished = folder.model_path.exists()
    state = " (unfinished)" if not finished or images_seen_by(folder.model_path) != seen else ""
    if not state and seen < end and history.rows:
        state = " (stopped early)"
    lines = [
        f"run:         {folder.path}",
        f"method:      {config.method}",
        f"trained:     {seen:,} of {end:,} images{state}" if log or not finished else "trained:     elsewhere",
        f"snapshots:   {', '.join(f'{images:,}' for images in folder.snapshots()) or 'none'}",
    ]
    if log:
        lines.append(f"loss:        {log[-1]['loss']:.4g} (last)")
        effects = [record["source_effect"] for record in log if type(record.get("source_effect")) is float]
        if effects:
            lines.append(f"source:      its label moves the estimate by {effects[-1]:.2%}")
    lines += [f"validation:  {finding.text}" for finding in findings(history)]
    if (best := images_seen_by(folder.best_path)) is not None:
        lines.append(f"best:        {best:,} images ({folder.best_path})")
    for source in folder.read_sources():
        count = source.get("count")
        known = f"{count:,}" if type(count) is int and count else "unknown number"  # an imported model may not know
        lines.append(f"images:      {source['name']}: {known} from {source.get('spec')} ({source.get('kind')})")
    if folder.model_path.exists():
        lines += _describe_model(Model.load(folder.path, device="cpu"))
    return lines


def _describe_model(model: Model) -> list[str]:
    config = model.buildable
    network = config.network
    assert network is not None
    parameters = millions(parameters_planned(config))
    flops = flops_of(network, config.sources + config.classes)
    names = ", ".join(f"{index} = {name}" for index, name in enumerate(config.source_names))
    labels = f"sources {names}" if config.sources else "no sources"
    lines = [
        f"network:     {network.architecture}, {parameters} parameters, {three_digits(flops / 1e9)} GFLOP an image",
        f"images of:   {' x '.join(map(str, model.image_shape))}",
        f"labels:      {labels}" + (f"; {config.classes} classes" if config.classes else ""),
        *(f"classes:     {line}" for line in class_lines(config)),
        f"sampler:     {config.sampler.solver}, {config.sampler.steps} steps (NFE {config.sampler.nfe} unguided)",
        f"sha256:      {model.sha256}",
    ]
    if config.latents is not None:
        lines.insert(2, f"latents:     {' x '.join(map(str, model.shape))}, of {config.latents.vae}")
    if model.guidance is not None:
        lines.insert(0, f"guidance:    {model.guidance.kind}, weight {model.guidance.weight:g}")
    return lines


def _describe_detector(name: str, weights: str | None, accuracy_on: str | None, skip_unreadable: bool) -> list[str]:
    detector = load_detector(name, weights=weights, device=join_processes().device)
    width = "depends on the image, or is not told" if detector.dimension is None else f"{detector.dimension:,}"
    lines = [
        f"detector:    {detector.name}, version {detector.version}",
        f"features:    {width}",
        f"distance:    {distance_name(detector)}",
        f"sha256:      {detector.sha256 or 'no weights'}",
    ]
    classifier = detector if isinstance(detector, Classifier) else None
    if classifier is not None:
        lines.append(f"classes:     {', '.join(classifier.class_names)}")
    if accuracy_on is not None:
        if classifier is None:
            raise UsageError(f"detector {name} has no classes: there is no accuracy to measure")
        images = ImageSource.open(accuracy_on, name="images", synthetic=True, skip_unreadable=skip_unreadable)
        if images.labels is None:
            why = f" ({images.unlabelled})" if images.unlabelled else ""
            raise UsageError(f"{accuracy_on}: these images have no labels to measure the accuracy by{why}")
        names = classifier.class_names
        if images.class_names is None and not all(map(is_number, names)):  # numbers count the detector's classes
            names = tuple(str(number) for number in range(len(names)))
        if unknown := [each for each in images.class_counts if each not in names]:
            told = f"the images are of {listed(unknown)}, detector {name} knows {listed(names)}"
            raise UsageError(f"{accuracy_on}: {told}")
        share = accuracy(classifier, images.pixels, images.labels_among(names))
        lines.append(f"accuracy:    {share:.2%} of {len(images):,} images ({accuracy_on})")
    return lines


def _describe_images(path: str, skip_unreadable: bool) -> list[str]:
    try:
        source = ImageSource.open(path, name="images", synthetic=True, skip_unreadable=skip_unreadable)
    except UnreadableImages:
        raise
    except DataError as error:
        raise DataError(f"{error} (neither a run folder, a model file nor a set of images)") from error
    manifest = source.provenance.get("manifest")
    size = f"{len(source):,} of {source.channels} x {source.resolution} x {source.resolution}"
    if source.latents is None:
        sums = torch.stack([part.sum((0, 2, 3)) for part in chunks(source.images, 4096)])  # whole numbers: exact
        means = sums.sum(0) / (255 * len(source) * source.resolution**2)
        what = [f"images:      {size}", f"mean:        {', '.join(f'{value:.4f}' for value in means)} of 1"]
    else:
        what = [f"latents:     {size}", f"of:          {source.latents.vae}"]
    lines = [
        *what,
        f"classes:     {_classes(source)}",
        f"content:     sha256 {source.content_hash}",
    ]
    if manifest:
        keys = ("generator", "source", "seed", "nfe", "model_sha256")
        lines.append(f"made by:     {', '.join(f'{key} {manifest[key]}' for key in keys if key in manifest)}")
    else:
        lines.append("made by:     no manifest: taken for real images")
    return lines


def _classes(source: ImageSource) -> str:
    if source.labels is None:
        return "none" + (f" ({source.unlabelled})" if source.unlabelled else "")
    return f"{len(source.class_counts)} ({listed(f'{name}: {count:,}' for name, count in source.class_counts.items())})"
