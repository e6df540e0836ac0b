"""Any callable D(x, sigma) is a denoiser: here the exact one of a hundred images, sampled, guided and evaluated.

    python examples/own_denoiser.py

A model that has memorised its training set is this denoiser. Its samples are training images, and the replication
metric says so.
"""

import nomadiff as nd
from nomadiff.oracles import IdealDenoiser

train = nd.ImageSource.open("digits:pool", name="real", synthetic=False).first(100)
held_out = nd.ImageSource.open("digits:reference", name="reference", synthetic=False)
ideal = IdealDenoiser(train.images.float() / 127.5 - 1)


def memorised(x, sigma):
    return ideal(x, sigma)


def blurred(x, sigma):
    return 0.9 * ideal(x, sigma)


model = nd.Model.from_denoiser(memorised, shape=(1, 8, 8), name="memorised")
scores = nd.evaluate(model, held_out, train=train, count=64)
print(f"{scores['replication']:.0%} of the samples replicate a training image; of fresh real images 5 % do")

worse = nd.Model.from_denoiser(blurred, shape=(1, 8, 8))
guided = nd.Model.guided(nd.GuidanceConfig("extrapolation", 1.0, "base", "auxiliary"), worse, model)
print(f"guided: NFE {guided.nfe()}, fd_digits {nd.evaluate(guided, held_out, count=64)['fd_digits']:.0f}")

try:
    nd.improve(model, "improved", nd.Improvement(weight=1))
except nd.UsageError as error:
    print(error)
