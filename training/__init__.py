"""Captioned images to a bundle: data, loop, metrics, export. Knows the model, not the queue nor the store."""
