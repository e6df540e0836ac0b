"""No-MAD diffusion: train diffusion models with synthetic data, without harm.

    import nomadiff as nd

    real = nd.ImageSource.open("photos/", name="real", synthetic=False)
    made = nd.ImageSource.open("generated/", name="sdxl", synthetic=True)
    model = nd.CASD("small32", budget=5_000_000).fit(nd.SourceMix(real, [made]), "run/")
    images = model.sample(64, seed=0)  # uint8 (64, 3, 32, 32), of the real distribution

Names are imported when they are first used, so that ``import nomadiff`` is instant.
"""
# ruff: noqa: F401 - the imports below are for type checkers

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nomadiff.version import __version__ as __version__

if TYPE_CHECKING:
    from nomadiff.data.image_source import ImageSource as ImageSource
    from nomadiff.data.mix_spec import MixSpec as MixSpec
    from nomadiff.data.source_mix import SourceMix as SourceMix
    from nomadiff.denoiser import BoundDenoiser as BoundDenoiser
    from nomadiff.denoiser import Denoiser as Denoiser
    from nomadiff.denoiser import EDMDenoiser as EDMDenoiser
    from nomadiff.errors import DataError as DataError
    from nomadiff.errors import Interrupted as Interrupted
    from nomadiff.errors import NomadiffError as NomadiffError
    from nomadiff.errors import NomadiffWarning as NomadiffWarning
    from nomadiff.errors import UsageError as UsageError
    from nomadiff.guidance.extrapolation import Extrapolation as Extrapolation
    from nomadiff.guidance.label_guidance import ClassifierFreeGuidance as ClassifierFreeGuidance
    from nomadiff.guidance.label_guidance import SourceGuidance as SourceGuidance
    from nomadiff.improve.improve import improve as improve
    from nomadiff.improve.settings import Improvement as Improvement
    from nomadiff.interop.export import export_model as export_model
    from nomadiff.interop.export import push_to_hub as push_to_hub
    from nomadiff.interop.importing import import_model as import_model
    from nomadiff.interop.latents import encode_set as encode
    from nomadiff.interop.lora import neon_lora as neon_lora
    from nomadiff.interop.lora import train_lora as train_lora
    from nomadiff.interop.synthesis import synthesize as synthesize
    from nomadiff.methods.ambient import Ambient as Ambient
    from nomadiff.methods.casd import CASD as CASD
    from nomadiff.methods.dm import DM as DM
    from nomadiff.methods.filtered import Filtered as Filtered
    from nomadiff.methods.method import Method as Method
    from nomadiff.methods.sda import SDA as SDA
    from nomadiff.methods.sims import SIMS as SIMS
    from nomadiff.methods.sims import Neon as Neon
    from nomadiff.methods.source_guidance import SourceGuided as SourceGuided
    from nomadiff.methods.weighted import Weighted as Weighted
    from nomadiff.methods.weighted import WeightedCASD as WeightedCASD
    from nomadiff.metrics.arrays import metrics_of_arrays as metrics_of_arrays
    from nomadiff.metrics.evaluate import evaluate as evaluate
    from nomadiff.metrics.reference import ReferenceSet as ReferenceSet
    from nomadiff.models.guided_model import GuidanceConfig as GuidanceConfig
    from nomadiff.models.model import Model as Model
    from nomadiff.monitoring.settings import Monitoring as Monitoring
    from nomadiff.networks.autoencoder import Autoencoder as Autoencoder
    from nomadiff.networks.config import NetworkConfig as NetworkConfig
    from nomadiff.sampling.sampler import SamplerConfig as SamplerConfig
    from nomadiff.shift.settings import Shift as Shift
    from nomadiff.shift.shift import shift as shift
    from nomadiff.studies.work import study_status as status
    from nomadiff.studies.work import work_study as work
    from nomadiff.tables import Table as Table
    from nomadiff.tables import read_table as read_table
    from nomadiff.training.config import RunConfig as RunConfig
    from nomadiff.training.presets import PRESETS as PRESETS
    from nomadiff.training.presets import Preset as Preset
    from nomadiff.training.settings import TrainingConfig as TrainingConfig
    from nomadiff.workflows.audit import audit_files as audit
    from nomadiff.workflows.compare import Comparison as Comparison
    from nomadiff.workflows.compare import compare as compare
    from nomadiff.workflows.evaluate import EvaluationSettings as EvaluationSettings
    from nomadiff.workflows.evaluate import evaluate_files as evaluate_files
    from nomadiff.workflows.evaluate import evaluate_sets as evaluate_sets
    from nomadiff.workflows.info import describe as info
    from nomadiff.workflows.loop import ImageLoop as ImageLoop
    from nomadiff.workflows.loop import run_image_loop as loop
    from nomadiff.workflows.score_table import score_table as score_table
    from nomadiff.workflows.suggest import suggest as suggest
    from nomadiff.workflows.verdict import verdict as verdict

# where each name lives, in the order a reader meets them
_HOMES = {
    "ImageSource": "nomadiff.data.image_source:ImageSource",
    "SourceMix": "nomadiff.data.source_mix:SourceMix",
    "MixSpec": "nomadiff.data.mix_spec:MixSpec",
    "Method": "nomadiff.methods.method:Method",
    "DM": "nomadiff.methods.dm:DM",
    "SDA": "nomadiff.methods.sda:SDA",
    "CASD": "nomadiff.methods.casd:CASD",
    "Ambient": "nomadiff.methods.ambient:Ambient",
    "Weighted": "nomadiff.methods.weighted:Weighted",
    "WeightedCASD": "nomadiff.methods.weighted:WeightedCASD",
    "Filtered": "nomadiff.methods.filtered:Filtered",
    "SIMS": "nomadiff.methods.sims:SIMS",
    "Neon": "nomadiff.methods.sims:Neon",
    "SourceGuided": "nomadiff.methods.source_guidance:SourceGuided",
    "PRESETS": "nomadiff.training.presets:PRESETS",
    "Preset": "nomadiff.training.presets:Preset",
    "RunConfig": "nomadiff.training.config:RunConfig",
    "TrainingConfig": "nomadiff.training.settings:TrainingConfig",
    "NetworkConfig": "nomadiff.networks.config:NetworkConfig",
    "Monitoring": "nomadiff.monitoring.settings:Monitoring",
    "Model": "nomadiff.models.model:Model",
    "GuidanceConfig": "nomadiff.models.guided_model:GuidanceConfig",
    "SamplerConfig": "nomadiff.sampling.sampler:SamplerConfig",
    "suggest": "nomadiff.workflows.suggest:suggest",
    "Comparison": "nomadiff.workflows.compare:Comparison",
    "compare": "nomadiff.workflows.compare:compare",
    "verdict": "nomadiff.workflows.verdict:verdict",
    "evaluate": "nomadiff.metrics.evaluate:evaluate",
    "ReferenceSet": "nomadiff.metrics.reference:ReferenceSet",
    "evaluate_files": "nomadiff.workflows.evaluate:evaluate_files",
    "evaluate_sets": "nomadiff.workflows.evaluate:evaluate_sets",
    "EvaluationSettings": "nomadiff.workflows.evaluate:EvaluationSettings",
    "score_table": "nomadiff.workflows.score_table:score_table",
    "metrics_of_arrays": "nomadiff.metrics.arrays:metrics_of_arrays",
    "audit": "nomadiff.workflows.audit:audit_files",
    "status": "nomadiff.studies.work:study_status",
    "work": "nomadiff.studies.work:work_study",
    "Improvement": "nomadiff.improve.settings:Improvement",
    "Shift": "nomadiff.shift.settings:Shift",
    "ImageLoop": "nomadiff.workflows.loop:ImageLoop",
    "loop": "nomadiff.workflows.loop:run_image_loop",
    "import_model": "nomadiff.interop.importing:import_model",
    "export_model": "nomadiff.interop.export:export_model",
    "push_to_hub": "nomadiff.interop.export:push_to_hub",
    "encode": "nomadiff.interop.latents:encode_set",
    "Autoencoder": "nomadiff.networks.autoencoder:Autoencoder",
    "synthesize": "nomadiff.interop.synthesis:synthesize",
    "train_lora": "nomadiff.interop.lora:train_lora",
    "neon_lora": "nomadiff.interop.lora:neon_lora",
    "info": "nomadiff.workflows.info:describe",
    "Table": "nomadiff.tables:Table",
    "read_table": "nomadiff.tables:read_table",
    "Denoiser": "nomadiff.denoiser:Denoiser",
    "EDMDenoiser": "nomadiff.denoiser:EDMDenoiser",
    "BoundDenoiser": "nomadiff.denoiser:BoundDenoiser",
    "Extrapolation": "nomadiff.guidance.extrapolation:Extrapolation",
    "SourceGuidance": "nomadiff.guidance.label_guidance:SourceGuidance",
    "ClassifierFreeGuidance": "nomadiff.guidance.label_guidance:ClassifierFreeGuidance",
    "NomadiffError": "nomadiff.errors:NomadiffError",
    "UsageError": "nomadiff.errors:UsageError",
    "DataError": "nomadiff.errors:DataError",
    "Interrupted": "nomadiff.errors:Interrupted",
    "NomadiffWarning": "nomadiff.errors:NomadiffWarning",
}
_PACKAGES = ("improve", "shift")  # packages that are called as the verb of their name

__all__ = [*_HOMES, *_PACKAGES]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"nomadiff.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'nomadiff' has no attribute '{name}'")
    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
