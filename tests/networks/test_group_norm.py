"""Group norm in a GPU's autocast; the GPU is not there, its tensors have no values."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from nomadiff.networks.layers import group_norm


def test_group_norm_stays_in_half_precision_in_a_gpus_autocast():
    with FakeTensorMode(), torch.device("cuda"), torch.no_grad():
        torch.set_autocast_enabled("cuda", True)
        try:
            x = torch.empty(2, 8, 4, 4, dtype=torch.bfloat16)
            layer = group_norm(8, 1e-6)
            made = layer(x).dtype, torch.nn.functional.group_norm(x, 2, layer.weight, layer.bias).dtype
        finally:
            torch.set_autocast_enabled("cuda", False)
    assert made == (torch.bfloat16, torch.float32)
