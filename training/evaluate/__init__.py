"""Scores, diversity, bias and calibration of captions. Knows nothing of how the model was trained."""
