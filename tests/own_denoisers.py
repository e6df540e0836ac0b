"""Denoisers of a user's own, at the top of a module that ``--plugin`` finds again."""

import torch
from torch import nn


class Small(nn.Module):
    """Preconditioned and conditioned in its own way; of classes, if it has any."""

    def __init__(self, width=8, classes=0):
        super().__init__()
        self.first = nn.Conv2d(2, width, 3, padding=1)
        self.last = nn.Conv2d(width, 1, 3, padding=1)
        self.told = nn.Embedding(classes, width) if classes else None

    def forward(self, x, sigma, class_label=None):
        level = sigma.reshape(-1, 1, 1, 1)
        h = self.first(torch.cat([x / (1 + level), (level / (1 + level)).expand(-1, 1, *x.shape[2:])], 1))
        if self.told is not None:
            h = h + self.told(class_label)[:, :, None, None]
        return x / (1 + level**2) + level / (1 + level) * self.last(torch.relu(h))


class OfSources(Small):
    """Trained by any method: it takes a source label where it is told of sources."""

    def __init__(self, width=8):
        super().__init__(width, classes=3)

    def forward(self, x, sigma, source=None):
        return super().forward(x, sigma, torch.zeros_like(sigma, dtype=torch.int64) if source is None else source)


class Deaf(Small):
    """Takes a source label and does nothing with it."""

    def forward(self, x, sigma, source=None):
        return super().forward(x, sigma)


class Scaled(Small):
    """Keeps a number outside its weights, that its constructor does not get."""

    scale = 1.0

    def forward(self, x, sigma, class_label=None):
        return self.scale * super().forward(x, sigma, class_label)


class Detached(Small):
    """Nothing can be learned through it."""

    def forward(self, x, sigma, class_label=None):
        return super().forward(x, sigma, class_label).detach()


class NeedsWidth(Small):
    """Its constructor has a keyword without a default."""

    def __init__(self, width):
        super().__init__(width)
