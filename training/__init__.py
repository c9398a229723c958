"""Captioned images to a bundle: data, training, evaluation, export. Knows the model, but neither queue nor store."""
