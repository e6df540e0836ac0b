"""Published networks by name: where they are, how large, how their authors sample them, and under what terms.

The files are NVIDIA's and are not part of nomadiff; importing one means agreeing to its licence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.sampling.solvers import Churn

__all__ = ["CARDS", "LICENCE_TEXT", "Card"]

LICENCE_TEXT = (
    "CC BY-NC-SA 4.0: published by NVIDIA for non-commercial use, with attribution; what is derived from it (a model "
    "fine-tuned from it, or merged with it) is under the same terms. https://creativecommons.org/licenses/by-nc-sa/4.0/"
)

_EDM = "https://nvlabs-fi-cdn.nvidia.com/edm/pretrained"
_EDM2 = "https://nvlabs-fi-cdn.nvidia.com/edm2/posthoc-reconstructions"


@dataclass(frozen=True)
class Card:
    """One published network.

    Attributes:
        url: its file.
        parameters: how many it has, to notice another file under the address.
        images: size of the training set.
        sampler: the settings its authors recommend.
        fid: the distance they report with them (Inception, 50,000 samples, best of three seeds), or None.
        training: how it was trained, as fields of :class:`~nomadiff.training.settings.TrainingConfig`.
        licence: its terms, shown at import and kept with the model.
    """

    url: str
    parameters: int
    images: int
    sampler: SamplerConfig
    fid: float | None = None
    training: dict[str, Any] = field(default_factory=dict)
    licence: str = LICENCE_TEXT


_MI = 1_000_000
_CIFAR = {"budget": 200 * _MI, "batch": 512, "learning_rate": 1e-3, "ema_half_life": 500_000, "augment": 0.12}
_FACES = {"budget": 200 * _MI, "batch": 256, "learning_rate": 2e-4, "ema_half_life": 500_000, "augment": 0.15}
_IMAGENET = {"budget": 2500 * _MI, "batch": 4096, "learning_rate": 1e-4, "ema_half_life": 50 * _MI, "augment": 0.0}


def _edm(name: str, parameters: int, images: int, sampler: SamplerConfig, fid: float, training: dict[str, Any]) -> Card:
    return Card(f"{_EDM}/{name}.pkl", parameters, images, sampler, fid, training)


def _edm2(name: str, parameters: int, fid: float | None = None) -> Card:
    return Card(f"{_EDM2}/{name}.pkl", parameters, 1_281_167, SamplerConfig(steps=32), fid)


# parameters of EDM2's networks, with the 128 of the uncertainty head; ImageNet-64 has 3 channels and -512 4 (latents)
_XS64, _S64, _M64, _L64, _XL64 = 124_710_949, 280_209_381, 497_803_173, 777_492_325, 1_119_276_837
_XS512, _S512, _M512 = 124_713_253, 280_212_837, 497_807_781
_L512, _XL512, _XXL512 = 777_498_085, 1_119_283_749, 1_523_164_773

CARDS: dict[str, Card] = {
    "edm-cifar10-uncond-vp": _edm(
        "edm-cifar10-32x32-uncond-vp", 55_733_891, 50_000, SamplerConfig(steps=18), 1.97, _CIFAR
    ),
    "edm-cifar10-uncond-ve": _edm(
        "edm-cifar10-32x32-uncond-ve", 56_397_827, 50_000, SamplerConfig(steps=18), 1.98, _CIFAR
    ),
    "edm-cifar10-cond-vp": _edm("edm-cifar10-32x32-cond-vp", 55_735_299, 50_000, SamplerConfig(steps=18), 1.79, _CIFAR),
    "edm-cifar10-cond-ve": _edm("edm-cifar10-32x32-cond-ve", 56_400_643, 50_000, SamplerConfig(steps=18), 1.79, _CIFAR),
    "edm-ffhq-uncond-vp": _edm("edm-ffhq-64x64-uncond-vp", 61_805_571, 70_000, SamplerConfig(steps=40), 2.39, _FACES),
    "edm-ffhq-uncond-ve": _edm("edm-ffhq-64x64-uncond-ve", 62_761_091, 70_000, SamplerConfig(steps=40), 2.53, _FACES),
    "edm-afhqv2-uncond-vp": _edm(
        "edm-afhqv2-64x64-uncond-vp", 61_805_571, 15_803, SamplerConfig(steps=40), 1.96, _FACES
    ),
    "edm-afhqv2-uncond-ve": _edm(
        "edm-afhqv2-64x64-uncond-ve", 62_761_091, 15_803, SamplerConfig(steps=40), 2.16, _FACES
    ),
    "edm-imagenet64-cond-adm": _edm(
        "edm-imagenet-64x64-cond-adm",
        295_899_267,
        1_281_167,
        SamplerConfig(steps=256, churn=Churn(40, 0.05, 50, 1.003)),
        1.36,
        _IMAGENET,
    ),
    "edm2-img64-s": _edm2("edm2-img64-s-1073741-0.075", _S64, 1.58),
    "edm2-img64-m": _edm2("edm2-img64-m-2147483-0.060", _M64, 1.43),
    "edm2-img64-l": _edm2("edm2-img64-l-1073741-0.040", _L64, 1.33),
    "edm2-img64-xl": _edm2("edm2-img64-xl-0671088-0.040", _XL64, 1.33),
    "edm2-img512-xs": _edm2("edm2-img512-xs-2147483-0.135", _XS512, 3.53),
    "edm2-img512-s": _edm2("edm2-img512-s-2147483-0.130", _S512, 2.56),
    "edm2-img512-m": _edm2("edm2-img512-m-2147483-0.100", _M512, 2.25),
    "edm2-img512-l": _edm2("edm2-img512-l-1879048-0.085", _L512, 2.06),
    "edm2-img512-xl": _edm2("edm2-img512-xl-1342177-0.085", _XL512, 1.96),
    "edm2-img512-xxl": _edm2("edm2-img512-xxl-0939524-0.070", _XXL512, 1.91),
    # for autoguidance: the network to guide and the weaker one that guides it (Karras et al. 2024b)
    "edm2-img64-s-autog": _edm2("edm2-img64-s-1073741-0.045", _S64),
    "edm2-img64-xs-guide": _edm2("edm2-img64-xs-0134217-0.110", _XS64),
    "edm2-img512-s-autog": _edm2("edm2-img512-s-2147483-0.070", _S512),
    "edm2-img512-xs-guide": _edm2("edm2-img512-xs-0134217-0.125", _XS512),
}
