"""The GPU's kernels between convolutions. Without a GPU Triton interprets its kernels (tests/conftest.py)."""

import pytest
import torch
from torch.nn import functional as F

from nomadiff.networks import layers
from nomadiff.networks.layers import UNetBlock, attend, group_norm

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def normal(*shape):
    return torch.randn(shape).to(DEVICE)


def kernels():
    pytest.importorskip("triton", reason="the extra 'test' brings triton on Linux alone")
    from nomadiff.networks import fused

    return fused


def fused(*arguments, **options):
    return kernels().fused_group_norm(*arguments, **options)


SHAPES = {  # batch, channels, height, width: one group, groups of 6 and 24 channels, pixels that no tile divides
    "one group": (2, 4, 4, 4),
    "many": (2, 32, 8, 8),
    "six channels a group": (2, 192, 4, 4),
    "wide": (1, 768, 2, 2),
    "odd": (3, 24, 5, 7),
    "split": (1, 16, 32, 32),
    "one pixel": (2, 32, 1, 1),
}


@pytest.mark.parametrize("added", [True, False])
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients_are_those_of_torch_in_float64(shape, silu, added):
    torch.manual_seed(0)
    x = (normal(*shape) * 2 + 3).contiguous(memory_format=torch.channels_last).requires_grad_()
    layer = group_norm(shape[1], 1e-6)
    weight, bias = (normal(shape[1]).requires_grad_() for _ in range(2))
    inputs = [x, weight, bias, *([(normal(*shape[:2]) * 2).requires_grad_()] if added else [])]
    found = fused(x, layer.num_groups, weight, bias, 1e-6, silu=silu, added=inputs[3] if added else None)
    pull = normal(*shape)  # in the other layout
    exact = [each.detach().double().requires_grad_() for each in inputs]
    moved = exact[0] + exact[3][:, :, None, None] if added else exact[0]
    expected = F.group_norm(moved, layer.num_groups, *exact[1:3], 1e-6)
    expected = F.silu(expected) if silu else expected
    assert found.is_contiguous(memory_format=torch.channels_last) and found.dtype == torch.float32
    pairs = zip(
        [found, *torch.autograd.grad(found, inputs, pull)],
        [expected, *torch.autograd.grad(expected, exact, pull.double())],
    )
    for one, two in pairs:
        torch.testing.assert_close(one, two.float(), rtol=1e-4, atol=1e-4 if shape[2:] == (1, 1) else 2e-5)


@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 4e-3), (torch.float16, 5e-4)])
def test_half_precision_loses_no_more_than_its_output_does(dtype, most):
    torch.manual_seed(1)
    x = (normal(2, 64, 16, 16) + 1).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight, bias = (normal(64).requires_grad_() for _ in range(2))
    found = fused(x, 16, weight, bias, 1e-6, silu=True)
    pull = torch.randn_like(found)
    exact = [each.detach().double().requires_grad_() for each in (x, weight, bias)]
    expected = F.silu(F.group_norm(exact[0], 16, *exact[1:], 1e-6))
    assert found.dtype == dtype
    made = torch.autograd.grad(found, [x, weight, bias], pull)
    assert [each.dtype for each in made] == [dtype, torch.float32, torch.float32]
    for one, two in zip([found, *made], [expected, *torch.autograd.grad(expected, exact, pull.double())]):
        assert (one.double() - two).norm() < most * two.norm()


def test_the_same_input_gives_the_same_bits_whatever_lies_beside_it():
    torch.manual_seed(2)
    x = normal(4, 32, 8, 8).contiguous(memory_format=torch.channels_last)
    weight, bias = normal(32), normal(32)
    whole = fused(x, 8, weight, bias, 1e-6, silu=True)
    assert torch.equal(
        whole[1:2], fused(x[1:2].contiguous(memory_format=torch.channels_last), 8, weight, bias, 1e-6, silu=True)
    )


def test_attention_keeps_the_layout_of_its_input():
    qkv = torch.randn(2, 3 * 8, 4, 4)
    plain, last = attend(qkv, 2), attend(qkv.contiguous(memory_format=torch.channels_last), 2)
    assert plain.is_contiguous() and last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(plain, last)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_residual_is_that_of_torch_in_float64(shape, dtype):
    torch.manual_seed(3)
    x, skip = (normal(*shape).to(dtype).requires_grad_() for _ in range(2))  # in the other layout
    bias = normal(shape[1]).requires_grad_()
    found = kernels().fused_residual(x, skip, bias, 0.7)
    exact = [each.detach().double().requires_grad_() for each in (x, skip, bias)]
    expected = (exact[0] + exact[2][:, None, None] + exact[1]) * 0.7
    pull = normal(*shape).to(dtype)
    made = torch.autograd.grad(found, [x, skip, bias], pull)
    assert [each.dtype for each in (found, *made)] == [dtype, dtype, dtype, torch.float32]
    for one, two in zip([found, *made], [expected, *torch.autograd.grad(expected, exact, pull.double())]):
        most = 1e-6 if dtype == torch.float32 else 4e-3
        assert (one.double() - two).norm() <= most * two.norm()


@pytest.mark.parametrize("resample", [None, "down", "up"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_a_block_on_kernels_is_the_block(resample, adaptive, monkeypatch):
    kernels()
    torch.manual_seed(4)

    def init(layer):
        torch.nn.init.normal_(layer.weight, std=0.1)
        torch.nn.init.normal_(layer.bias)

    block = UNetBlock(
        16, 32, 8, init=init, init_zero=init, init_attention=init, resample=resample, heads=2, adaptive=adaptive
    )
    block.to(DEVICE, memory_format=torch.channels_last)
    x = normal(2, 16, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    emb = normal(2, 8).requires_grad_()
    inputs = [x, emb, *block.parameters()]
    results = []
    for on_kernels in (True, False):
        monkeypatch.setattr(layers, "has_fused_kernels", lambda device, answer=on_kernels: answer)
        made = block(x, emb)
        pull = torch.ones_like(made).cumsum(1)
        results.append([made, *torch.autograd.grad(made, inputs, pull)])
    for one, two in zip(*results):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)


def test_a_hook_at_the_end_of_attention_still_counts(monkeypatch):
    """Perturbed attention replaces the input of this layer."""
    kernels()
    block = UNetBlock(16, 16, 8, init=lambda _: None, init_zero=lambda _: None, init_attention=lambda _: None, heads=1)
    block.to(DEVICE, memory_format=torch.channels_last)
    x = normal(1, 16, 4, 4).contiguous(memory_format=torch.channels_last)
    emb = normal(1, 8)
    results = []
    for on_kernels in (True, False):
        monkeypatch.setattr(layers, "has_fused_kernels", lambda device, answer=on_kernels: answer)
        handle = block.proj.register_forward_pre_hook(lambda module, args: (torch.ones_like(args[0]).contiguous(),))
        results.append(block(x, emb).detach())
        handle.remove()
        results.append(block(x, emb).detach())
    torch.testing.assert_close(results[0], results[2], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(results[0], results[1], rtol=1e-2, atol=1e-2)
