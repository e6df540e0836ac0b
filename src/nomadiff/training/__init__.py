"""Loss, augmentation, EMA, run folders, presets and the training loop."""
