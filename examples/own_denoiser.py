"""Any callable D(x, sigma) is a denoiser: here the exact one of three images, solved with Heun's method.

    python examples/own_denoiser.py

A model that has memorised its training set is this denoiser. Its samples are training images, and the replication
metric says so.
"""

import torch

import nomadiff as nd
from nomadiff.metrics.replication import replication
from nomadiff.oracles import IdealDenoiser
from nomadiff.sampling.sampler import draw, to_uint8

train = nd.ImageSource.open("digits:pool", name="real", synthetic=False).first(100).images
held_out = nd.ImageSource.open("digits:reference", name="reference", synthetic=False).images

memorised = IdealDenoiser(train.float() / 127.5 - 1)
samples = to_uint8(torch.cat(list(draw(memorised, (1, 8, 8), range(64), seed=0))))
result = replication(samples, train, held_out)
print(f"{result['replication']:.0%} of the samples replicate a training image; of fresh real images 5 % do")
