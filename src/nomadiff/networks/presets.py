"""Named architectures.

``resolution`` and ``channels`` follow the data: ``dataclasses.replace(NETWORKS["tiny"], resolution=64, channels=1)``.
"""

from __future__ import annotations

from nomadiff.networks.config import NetworkConfig

__all__ = ["NETWORKS"]

NETWORKS: dict[str, NetworkConfig] = {
    # EDM's networks (Karras et al. 2022, appendix F.2), which both papers train; 55.73 M parameters unlabelled
    "cifar10": NetworkConfig("ddpmpp", 32, 3, 128, (2, 2, 2), 4, (16,), dropout=0.13, augment_dim=9),
    # 61.81 M parameters unlabelled
    "ffhq64": NetworkConfig("ddpmpp", 64, 3, 128, (1, 2, 2, 2), 4, (16,), dropout=0.05, augment_dim=9),
    # EDM's "VE" network for CIFAR-10 and its ImageNet-64 network (labelled with 1000 classes: 295.90 M parameters)
    "cifar10-ncsnpp": NetworkConfig("ncsnpp", 32, 3, 128, (2, 2, 2), 4, (16,), dropout=0.13, augment_dim=9),
    "imagenet64-adm": NetworkConfig("adm", 64, 3, 192, (1, 2, 3, 4), 3, (32, 16, 8), dropout=0.10),
    # EDM2 (Karras et al. 2024, Table 2), XS and S; ImageNet-512 is trained on 64 x 64 x 4 latents
    "imagenet64-edm2-s": NetworkConfig("edm2", 64, 3, 192, (1, 2, 3, 4), 3, (16, 8)),
    "imagenet64-edm2-xs": NetworkConfig("edm2", 64, 3, 128, (1, 2, 3, 4), 3, (16, 8)),
    "imagenet64-edm2-tiny": NetworkConfig("edm2", 64, 3, 32, (1, 2, 3, 4), 1, (8,), channels_per_head=32),
    "imagenet512-edm2-s": NetworkConfig("edm2", 64, 4, 192, (1, 2, 3, 4), 3, (16, 8)),
    "imagenet512-edm2-xs": NetworkConfig("edm2", 64, 4, 128, (1, 2, 3, 4), 3, (16, 8)),
    "imagenet512-edm2-tiny": NetworkConfig("edm2", 64, 4, 32, (1, 2, 3, 4), 1, (8,), channels_per_head=32),
    # 7 M parameters: a real image size on one small GPU
    "small32": NetworkConfig("ddpmpp", 32, 3, 64, (1, 2, 2), 2, (16,), dropout=0.05, augment_dim=9),
    # 1 M parameters, any resolution that is a multiple of 4: to see a run work on a CPU
    "tiny": NetworkConfig("ddpmpp", 32, 3, 32, (1, 2, 2), 1, (), augment_dim=9),
    # 1.2 M parameters for 64 pixels: few channels where pixels are many; any multiple of 8
    "compact64": NetworkConfig("ddpmpp", 64, 3, 16, (1, 2, 4, 4), 1, (), augment_dim=9),
    # 0.18 M parameters for 8 x 8 digits: minutes on a CPU
    "digits": NetworkConfig("ddpmpp", 8, 1, 16, (1, 2), 1, (4,)),
}
