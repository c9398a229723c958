"""The shared core of captionmill: values, settings, the queue, the model and the store.

Nothing heavy is imported here, so that a process loads only what it uses.
"""

__version__ = "0.1.0"
