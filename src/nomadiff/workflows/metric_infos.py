"""What readers are told of each metric."""

from __future__ import annotations

from collections.abc import Mapping

from nomadiff.metrics.distance_names import FDR, FDR_MEANS, kernel_name, what_it_misses
from nomadiff.reports.summary import MetricInfo

__all__ = ["metric_infos"]


def metric_infos(distance: str, floors: Mapping[str, float]) -> list[MetricInfo]:
    """The metrics in the order of a report.

    Args:
        distance: name of the Frechet distance, such as ``fd_digits``.
        floors: what fresh real data scores, by metric.
    """
    told = f"Frechet distance to held-out real images in the detector's feature space. {what_it_misses(distance)}"
    described = [
        (distance, distance, "lower", told.strip()),
        (FDR, "FDr", "lower", FDR_MEANS),
        ("precision", "precision", "higher", "Share of samples that lie among the real images."),
        ("recall", "recall", "higher", "Share of real images that lie among the samples."),
        ("density", "density", "higher", "How deep among the real images the samples lie."),
        ("coverage", "coverage", "higher", "Share of real images with a sample next to them."),
        (
            "replication",
            "replication",
            "lower",
            "Share of samples closer to a training image than 95 % of held-out real images are.",
        ),
        (
            "ssim_nearest",
            "SSIM to training",
            "lower",
            "Structural similarity of samples to their nearest training image.",
        ),
        ("ssim_pairs", "SSIM of pairs", "lower", "Structural similarity of samples to one another."),
        (kernel_name(distance), kernel_name(distance), "lower", "Kernel distance, unbiased in the number of images."),
        ("cmmd", "CMMD", "lower", "Mean discrepancy of CLIP features, unbiased in the number of images."),
        (
            "lpips_alex_nearest",
            "LPIPS to training",
            "higher",
            "Perceptual distance of samples to their nearest training image.",
        ),
        ("lpips_alex_pairs", "LPIPS of pairs", "higher", "Perceptual distance of samples to one another."),
        ("composition_tv", "composition", "lower", "Total variation distance between class shares."),
        ("style", "style", "lower", "Share of samples that look like the synthetic source rather than real."),
    ]
    return [
        MetricInfo(field, label, "lower" if better == "lower" else "higher", floors.get(field), text)
        for field, label, better, text in described
    ]
