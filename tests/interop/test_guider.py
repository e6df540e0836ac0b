"""SIMS inside diffusers, in the loop that modular pipelines run and around classic ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nomadiff.errors import UsageError
from nomadiff.interop.guider import sims_guider, steered

diffusers = pytest.importorskip("diffusers", reason="needs the diffusers extra")


def tiny_unet(seed: int) -> Any:
    """SDXL's kind of network, tiny."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=32,
    ).eval()


class Conditions:
    """Random inputs of one denoising step."""

    def __init__(self) -> None:
        torch.manual_seed(9)
        self.latents = torch.randn(2, 4, 8, 8)
        self.cond = self._embeddings()
        self.uncond = self._embeddings()

    def _embeddings(self) -> dict[str, torch.Tensor]:
        return {"prompt": torch.randn(2, 5, 16), "pooled": torch.randn(2, 8), "ids": torch.rand(2, 6)}

    def call(self, unet: Any, which: dict[str, torch.Tensor], step: int) -> torch.Tensor:
        """One call of a network, as SDXL makes it."""
        with torch.no_grad():
            added = {"text_embeds": which["pooled"], "time_ids": which["ids"], "image_embeds": None}
            return unet(self.latents, step, encoder_hidden_states=which["prompt"], added_cond_kwargs=added).sample

    def run(self, unet: Any, guider: Any, index: int = 3, steps: int = 10) -> tuple[torch.Tensor, int]:
        """The denoising block of diffusers' own modular SDXL; the prediction, and how often the base was asked."""
        from diffusers.modular_pipelines.modular_pipeline import BlockState
        from diffusers.modular_pipelines.stable_diffusion_xl.denoise import StableDiffusionXLLoopDenoiser

        calls: list[int] = []
        handle = unet.register_forward_hook(lambda *_: calls.append(1))
        state = BlockState(
            scaled_latents=self.latents,
            num_inference_steps=steps,
            timestep_cond=None,
            cross_attention_kwargs=None,
            prompt_embeds=self.cond["prompt"],
            negative_prompt_embeds=self.uncond["prompt"],
            add_time_ids=self.cond["ids"],
            negative_add_time_ids=self.uncond["ids"],
            pooled_prompt_embeds=self.cond["pooled"],
            negative_pooled_prompt_embeds=self.uncond["pooled"],
            ip_adapter_embeds=None,
            negative_ip_adapter_embeds=None,
        )
        components = SimpleNamespace(guider=guider, unet=unet)
        _, state = StableDiffusionXLLoopDenoiser()(components, state, index, torch.tensor(400))
        handle.remove()
        return state.noise_pred, len(calls)


def test_a_second_network_steers() -> None:
    base, auxiliary, inputs = tiny_unet(0), tiny_unet(1), Conditions()
    found, calls = inputs.run(base, sims_guider(auxiliary, 0.8))
    expected = 1.8 * inputs.call(base, inputs.cond, 400) - 0.8 * inputs.call(auxiliary, inputs.cond, 400)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    # the base's own forward is left alone afterwards
    assert torch.equal(inputs.call(base, inputs.cond, 400), inputs.call(base, inputs.cond, 400))
    assert calls == 2
    again, _ = inputs.run(base, sims_guider(auxiliary, 0.8))
    assert torch.equal(found, again)


def test_beside_classifier_free_guidance() -> None:
    base, auxiliary, inputs = tiny_unet(0), tiny_unet(1), Conditions()
    found, calls = inputs.run(base, sims_guider(auxiliary, 0.5, guidance_scale=4.0))
    cond, uncond = inputs.call(base, inputs.cond, 400), inputs.call(base, inputs.uncond, 400)
    expected = uncond + 4 * (cond - uncond) + 0.5 * (cond - inputs.call(auxiliary, inputs.cond, 400))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert calls == 3


def test_outside_its_steps_and_switched_off_it_costs_nothing() -> None:
    base, inputs = tiny_unet(0), Conditions()
    guider = sims_guider(tiny_unet(1), 0.8, start=0.5, stop=0.8)
    plain = inputs.call(base, inputs.cond, 400)
    for index, calls in ((4, 1), (5, 2), (7, 2), (8, 1)):
        found, made = inputs.run(base, guider, index)
        assert made == calls and torch.equal(found, plain) == (calls == 1)
    guider.disable()
    assert inputs.run(base, guider, 5)[1] == 1
    assert inputs.run(base, sims_guider(tiny_unet(1), 0.0), 5)[1] == 1


def test_an_adapter_steers_with_one_copy_of_the_weights() -> None:
    peft = pytest.importorskip("peft", reason="needs the diffusers extra")
    base, inputs = tiny_unet(0), Conditions()
    plain = inputs.call(base, inputs.cond, 400)
    base.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False), "auxiliary")
    with_adapter = inputs.call(base, inputs.cond, 400)
    assert (with_adapter - plain).abs().max() > 1e-3
    expected = 1.8 * plain - 0.8 * with_adapter
    found, calls = inputs.run(base, sims_guider("auxiliary", 0.8))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert calls == 2
    with steered(base, "auxiliary", 0.8):
        torch.testing.assert_close(inputs.call(base, inputs.cond, 400), expected, rtol=0, atol=1e-5)
    assert torch.equal(inputs.call(base, inputs.cond, 400), with_adapter), "adapters are as they were"
    base.disable_adapters()
    with steered(base, "auxiliary", 0.8):
        torch.testing.assert_close(inputs.call(base, inputs.cond, 400), expected, rtol=0, atol=1e-5)
    assert torch.equal(inputs.call(base, inputs.cond, 400), plain)
    # beside a style that the user has on
    base.enable_adapters()
    base.add_adapter(peft.LoraConfig(r=2, target_modules=["to_k"], init_lora_weights=False), "style")
    base.set_adapter(["style"])
    styled = inputs.call(base, inputs.cond, 400)
    base.set_adapter(["style", "auxiliary"])
    both = inputs.call(base, inputs.cond, 400)
    base.set_adapter(["style"])
    with steered(base, "auxiliary", 0.5):
        found = inputs.call(base, inputs.cond, 400)
    torch.testing.assert_close(found, 1.5 * styled - 0.5 * both, rtol=0, atol=1e-5)
    with pytest.raises(UsageError, match="no adapter 'nonsense'; loaded: auxiliary, style"), steered(base, "nonsense"):
        pass


def test_classic_pipelines_are_steered_whole() -> None:
    """A DDPM pipeline of the extrapolated network, against one that is steered."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1}
    options |= {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "norm_num_groups": 4}
    base, auxiliary = (diffusers.UNet2DModel(**options).eval() for _ in range(2))

    class Extrapolated(diffusers.UNet2DModel):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            one, other = base(*args, **kwargs).sample, auxiliary(*args, **kwargs).sample
            return SimpleNamespace(sample=1.7 * one - 0.7 * other)

    def images(unet: Any) -> torch.Tensor:
        pipeline = diffusers.DDPMPipeline(unet=unet, scheduler=diffusers.DDPMScheduler())
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(1)
        return torch.from_numpy(
            pipeline(batch_size=2, generator=generator, num_inference_steps=3, output_type="np").images
        )

    plain = images(base)
    with steered(base, auxiliary, 0.7):
        found = images(base)
    torch.testing.assert_close(found, images(Extrapolated(**options)), rtol=0, atol=1e-5)
    assert torch.equal(images(base), plain)
    with pytest.raises(RuntimeError, match="stop"), steered(base, auxiliary, 0.7):
        raise RuntimeError("stop")
    assert torch.equal(images(base), plain), "released after an error too"


def test_its_configuration_has_no_weights() -> None:
    guider = sims_guider(tiny_unet(1), 0.6, guidance_scale=2.0)
    assert guider.config["weight"] == 0.6 and guider.config["guidance_scale"] == 2.0
    assert "auxiliary" not in guider.config
