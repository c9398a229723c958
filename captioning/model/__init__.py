"""Pixels to features to tokens. No database, no queue."""
