"""The Celery app as Celery looks for it: the queue of the core with the worker's task and hooks."""

from captioning.queue import make_celery
from captioning.settings import read_settings

settings = read_settings()
app = make_celery(settings)
app.conf.include = ["worker.tasks", "worker.hooks"]
app.set_default()
