"""Record the results of other implementations for seeded weights and images, for the tests to compare with.

    python tests/metrics/record_golden.py

Run it where torch-fidelity 0.4, lpips 0.1.4 and torchvision import; the numbers go to ``tests/fixtures/metrics``.
nomadiff is used only to name and shape the weights, which are then loaded into the other implementation strictly.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from conftest import FIXTURES, seeded_images, seeded_tensors

from nomadiff.metrics.detectors.inception import InceptionV3
from nomadiff.metrics.lpips import LPIPSNetwork

# torchvision's own operators are missing beside a CPU build of torch; declaring two of them is enough to import it
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def inception() -> dict:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seeded.pth"
        torch.save(seeded_tensors(InceptionV3()), path)
        network = FeatureExtractorInceptionV3("seeded", ["2048"], feature_extractor_weights_path=str(path))
    images = seeded_images(2, 3, 32)
    resized = interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=(299, 299), align_corners=False)
    with torch.no_grad():
        features = network(images)[0]
    return {
        "features": features[:, ::64].tolist(),
        "mean": float(features.double().mean()),
        "resized": resized[1, 2, 150, ::13].tolist(),
    }


def lpips_distances() -> dict:
    import lpips

    result = {}
    for net in ("alex", "squeeze", "vgg"):
        ours = LPIPSNetwork(net)
        tensors = seeded_tensors(ours)
        theirs = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
        state = theirs.state_dict()
        for name in state:
            if name.startswith("net."):  # net.slice2.4.squeeze.weight is features.4.squeeze.weight
                state[name] = tensors["trunk." + name.split(".", 2)[2]]
            elif name.startswith("lin"):  # lin0.model.1.weight, listed a second time as lins.0.model.1.weight
                number = name.split(".")[1] if name.startswith("lins.") else name[3]
                state[name] = tensors[f"heads.{number}"].reshape(state[name].shape)
        theirs.load_state_dict(state)
        x, y = seeded_images(4, 3, 64, seed=1), seeded_images(4, 3, 64, seed=2)
        with torch.no_grad():
            result[net] = theirs(x.float() / 127.5 - 1, y.float() / 127.5 - 1).flatten().tolist()
    return result


def main() -> None:
    torch.set_num_threads(1)
    packages = ("torch", "torchvision", "torch-fidelity", "lpips")
    content = {
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "inception": inception(),
        "lpips": lpips_distances(),
    }
    FIXTURES.mkdir(parents=True, exist_ok=True)
    (FIXTURES / "golden.json").write_text(json.dumps(content, indent=1) + "\n")
    print(f"wrote {FIXTURES / 'golden.json'}")


if __name__ == "__main__":
    main()
