"""A finished run, to a bundle with a model card. Knows nothing of the training loop."""
