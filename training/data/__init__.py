"""Captioned images on disk, to batches of features and word ids. Knows nothing of training or of scores."""
