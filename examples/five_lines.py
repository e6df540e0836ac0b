"""Two folders of images in, a model of the real ones out.

python examples/five_lines.py photos/ generated/ run/
"""

import sys

import nomadiff as nd

photos, generated, out = sys.argv[1:4]
real = nd.ImageSource.open(photos, name="real", synthetic=False)
made = nd.ImageSource.open(generated, name="made", synthetic=True)
model = nd.CASD("digits", budget=512, batch=64, warmup=128).fit(nd.SourceMix(real, [made]), out)
images = model.sample(16, seed=0)
print(f"{len(images)} images of {tuple(images.shape[1:])}, {images.dtype}")
