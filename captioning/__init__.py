"""The shared core of captionmill: values, settings, the queue, the model and the store.

Nothing heavy is imported here, so that a process pays only for the rooms it enters.
"""

__version__ = "0.1.0"
