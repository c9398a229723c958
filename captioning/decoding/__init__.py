"""Confined processes that decode untrusted images.

This is a package of its own because more than one program may use it: the worker does, and the producer can, without
loading torch or Celery.
"""
