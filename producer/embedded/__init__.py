"""Embedded mode: without a configured broker, `producer` runs a private broker and worker for one data folder."""
