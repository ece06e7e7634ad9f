"""Networks, augmentation, training and export; the only layer that imports torch."""
