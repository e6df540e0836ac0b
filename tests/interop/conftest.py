"""What the interop tests share: files of the layout that NVIDIA's code writes, made without any of that code.

Pickles name the functions and classes they need by module; here these modules are empty stand-ins, present only while
a file is written. Networks are nomadiff's own, whose parameters have the original names.
"""

from __future__ import annotations

import encodings.cp437  # noqa: F401 - names in a zip are in it; imported late it would look like an import by the file
import json
import pickle
import sys
import types
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nomadiff.networks.build import build_network
from nomadiff.networks.config import NetworkConfig

# what NVIDIA's reader would run on loading
SOURCE = "import pathlib; pathlib.Path('{canary}').write_text('was run')"


def _reconstruct_persistent_obj(meta: Any) -> Any:
    raise AssertionError("a stand-in was called")


class EasyDict(dict):
    """Stands for dnnlib.util.EasyDict."""


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
EasyDict.__module__, EasyDict.__qualname__ = "dnnlib.util", "EasyDict"


class Persistent(nn.Module):
    """Pickles as an object of ``torch_utils.persistence`` does: class name, source text and ``__dict__``."""

    def __init__(self, class_name: str, arguments: dict[str, Any], source: str = "") -> None:
        super().__init__()
        self._init_args = ()
        self._init_kwargs = EasyDict(arguments)
        object.__setattr__(self, "identity", (class_name, source))

    def __reduce__(self) -> Any:
        class_name, source = self.identity
        state = {name: value for name, value in self.__dict__.items() if name != "identity"}
        meta = EasyDict(type="class", version=6, module_src=source, class_name=class_name, state=state)
        return _reconstruct_persistent_obj, (meta,)


def nested(tensors: dict[str, Tensor], class_name: str, arguments: dict[str, Any], source: str = "") -> Persistent:
    """A tree of persistent objects, and of torch's own ModuleDict, that holds these tensors by their full names."""
    module = Persistent(class_name, arguments, source)
    children: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        head, dot, rest = name.partition(".")
        if dot:
            children.setdefault(head, {})[rest] = value
        elif name in ("freqs", "phases", "resample_filter"):
            module.register_buffer(name, value)
        else:
            module.register_parameter(name, nn.Parameter(value, requires_grad=False))
    for name, inner in children.items():
        child: nn.Module = nested(inner, "Layer", {})
        if name in ("enc", "dec"):
            child = nn.ModuleDict(child.named_children())
        module.add_module(name, child)
    return module


def scrambled(config: NetworkConfig, classes: int = 0, seed: int = 0) -> nn.Module:
    """A network whose every weight matters (some fresh ones are zero)."""
    network = build_network(config, classes).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def stylegan_weights(name: str, shape: list[int]) -> np.ndarray:
    """The weights that the numbers were computed with."""
    value = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    last = name.split(".")[-1]
    scales = {"noise_strength": 0.3, "freqs": 0.9, "w_avg": 0.3}
    if last in scales:
        value = scales[last] * value
    elif last == "transform":
        value = np.eye(3) + 0.2 * value * [[1, 1, 1], [1, 1, 1], [0, 0, 0]]
    elif name.startswith("mapping") and last == "weight" and "embed" not in name:
        value = 100 * value
    elif name.endswith("affine.bias"):
        value = 1 + 0.3 * value
    elif last == "bias":
        value = (10 if name.startswith("mapping") else 0.1) * value
    elif last == "weight" and len(shape) == 4 and shape[0] in (1, 3):
        value = 3 * value
    return np.asarray(value, dtype=np.float32)


class Lookalikes:
    """Writes files as EDM's and EDM2's training loops do, around networks of nomadiff.

    Args:
        canary: a file that would exist if source text in a pickle was run.
    """

    def __init__(self, canary: Path) -> None:
        self.source = SOURCE.format(canary=canary)

    def edm(self, network: nn.Module, **arguments: Any) -> dict[str, Any]:
        """The contents of an EDM snapshot."""
        weights = {f"model.{name}": value for name, value in network.state_dict().items()}
        weights["model.enc.resample_filter"] = torch.ones(1, 1, 2, 2)  # constants that nomadiff does not store
        loss = Persistent("EDMLoss", {})
        loss.P_mean, loss.P_std = -1.1, 1.3
        augment = Persistent("AugmentPipe", {"p": 0.12})
        augment.p = 0.12
        return {
            "ema": nested(weights, "EDMPrecond", arguments, self.source),
            "loss_fn": loss,
            "augment_pipe": augment,
            "dataset_kwargs": {"path": "data.zip", "use_labels": False, "max_size": 100},
        }

    def edm2(self, network: nn.Module, half: bool = True, **arguments: Any) -> dict[str, Any]:
        """The contents of an EDM2 snapshot."""
        weights = {
            name if name.startswith("logvar_") else f"unet.{name}": value.half() if half else value
            for name, value in network.state_dict().items()
        }
        encoder = Persistent("StandardRGBEncoder", {})
        loss = Persistent("EDM2Loss", {})
        loss.P_mean, loss.P_std = -0.8, 1.6
        module = nested(weights, "Precond", arguments, self.source)
        return EasyDict(encoder=encoder, dataset_kwargs=EasyDict(path="data.zip"), loss_fn=loss, ema=module)

    def stylegan(self, frozen: dict[str, Any]) -> Persistent:
        """A generator of StyleGAN, from the tree of attributes and the shapes in tests/fixtures/parity."""
        tree, shapes = json.loads(str(frozen["tree"])), json.loads(str(frozen["shapes"]))
        modules: dict[str, Persistent] = {}
        for path, (class_name, attributes) in tree.items():
            modules[path] = module = Persistent(class_name, {}, self.source)
            for key, value in attributes.items():
                value = np.array(value["array"]) if isinstance(value, dict) else value
                object.__setattr__(module, key, value)
            if path:
                above, _, name = path.rpartition(".")
                modules[above].add_module(name, module)
        for path, shape in shapes.items():
            above, _, name = path.rpartition(".")
            value = torch.from_numpy(frozen.get(f"filter/{path}", stylegan_weights(path, shape)).copy())
            if name in ("weight", "bias", "const", "noise_strength"):
                modules[above].register_parameter(name, nn.Parameter(value, requires_grad=False))
            else:
                modules[above].register_buffer(name, value)
        return modules[""]

    def stylegan_snapshot(self, generator: Any, **more: Any) -> dict[str, Any]:
        """The contents of a snapshot of StyleGAN."""
        data = EasyDict(class_name="training.dataset.ImageFolderDataset", path="x.zip", use_labels=False, max_size=100)
        return {
            "training_set_kwargs": data,
            "G": None,
            "D": None,
            "G_ema": generator,
            "augment_pipe": None,
            **more,
        }

    def pickle(self, contents: Any, protocol: int = 4) -> bytes:
        """The bytes of a snapshot."""
        with stand_ins():
            return pickle.dumps(contents, protocol)

    def save(self, contents: Any, path: Path, zipped: bool = True) -> None:
        """``torch.save``, of today or of before 1.6."""
        with stand_ins():
            torch.save(contents, path, _use_new_zipfile_serialization=zipped)


class stand_ins:
    """While inside, the modules that NVIDIA's pickles name can be imported: empty but for the names."""

    def __enter__(self) -> None:
        contents = {
            "torch_utils": {},
            "torch_utils.persistence": {"_reconstruct_persistent_obj": _reconstruct_persistent_obj},
            "dnnlib": {},
            "dnnlib.util": {"EasyDict": EasyDict},
        }
        for name, values in contents.items():
            module = types.ModuleType(name)
            vars(module).update(values)
            sys.modules[name] = module
        self.names = list(contents)

    def __exit__(self, *_: object) -> None:
        for name in self.names:
            del sys.modules[name]


TINY = {
    "ddpmpp": NetworkConfig("ddpmpp", 8, 3, 16, (1, 2), 1, (4,), augment_dim=9),
    "ncsnpp": NetworkConfig("ncsnpp", 8, 3, 16, (1, 2), 1, (4,)),
    "adm": NetworkConfig("adm", 8, 3, 64, (1, 1), 1, (4,)),
    "edm2": NetworkConfig("edm2", 8, 3, 16, (1, 2), 1, (4,), channels_per_head=16, channel_mult_embedding=2),
}
_SONG = {"model_type": "SongUNet", "model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "ddpmpp": {**_SONG, "embedding_type": "positional", "augment_dim": 9, "dropout": 0.0},
    "ncsnpp": {
        **_SONG,
        "embedding_type": "fourier",
        "encoder_type": "residual",
        "channel_mult_noise": 2,
        "resample_filter": [1, 3, 3, 1],
        "dropout": 0.0,
    },
    "adm": {
        "model_type": "DhariwalUNet",
        "model_channels": 64,
        "channel_mult": [1, 1],
        "num_blocks": 1,
        "dropout": 0.0,
    },
    "edm2": {"model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "channels_per_head": 16},
}
for _arguments in ARGUMENTS.values():
    _arguments.update(img_resolution=8, img_channels=3, attn_resolutions=[4])


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that exists if something in a file was run."""
    return tmp_path / "canary"


@pytest.fixture
def lookalikes(canary: Path) -> Lookalikes:
    """Writes files of other libraries' layouts, harmless and hostile."""
    return Lookalikes(canary)


@pytest.fixture
def tiny_network() -> Callable[..., tuple[nn.Module, dict[str, Any]]]:
    """Makes a small network of an architecture, and the arguments its original constructor would have had."""

    def make(architecture: str, classes: int = 0, seed: int = 0) -> tuple[nn.Module, dict[str, Any]]:
        network = scrambled(TINY[architecture], classes, seed)
        return network, {**ARGUMENTS[architecture], "label_dim": classes}

    return make


class Watch:
    """Notes what Python's audit hooks tell while it is on."""

    LOUD = frozenset({
        "compile", "ctypes.dlopen", "exec", "import", "marshal.loads", "os.exec", "os.posix_spawn", "os.remove",
        "os.spawn", "os.system", "pickle.find_class", "shutil.rmtree", "socket.connect", "subprocess.Popen",
    })  # fmt: skip

    def __init__(self) -> None:
        self.on = False
        self.events: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and (event in self.LOUD or (event == "open" and arguments[1] not in (None, "r", "rb"))):
            self.events.append(f"{event} {arguments!r}"[:200])


_watch = Watch()


@pytest.fixture
def watch() -> Iterator[Watch]:
    """On within the test: :attr:`Watch.events` must stay empty while a hostile file is read."""
    _watch.events.clear()
    yield _watch
    _watch.on = False


def tiny_text_to_image(folder: Path) -> None:
    """Stable Diffusion's parts with random weights, a few thousand parameters."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    letters = [*map(chr, range(97, 123)), *"0123456789,.'-"]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    place = folder / "words"
    place.mkdir(parents=True)
    (place / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(place / "vocab.json"), str(place / "merges.txt"), model_max_length=77)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )
    diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=diffusers.DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "pipe")


@pytest.fixture(scope="session", name="pipeline")
def _pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny text-to-image pipeline."""
    pytest.importorskip("diffusers", reason="needs the diffusers extra")
    pytest.importorskip("transformers", reason="needs the diffusers extra")
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("text-to-image")
    tiny_text_to_image(folder)
    return folder / "pipe"
