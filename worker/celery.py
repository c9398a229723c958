"""The Celery app as Celery looks for it: the queue of the core with the worker's task and hooks."""

from captioning.errors import CaptioningError
from captioning.queue.celery_app import make_celery
from captioning.settings import read_settings

try:
    settings = read_settings()
except CaptioningError as wrong:  # `celery -A worker worker` would show a traceback
    raise SystemExit(f"worker: {wrong}") from None
app = make_celery(settings)
app.conf.include = ["worker.tasks", "worker.lifecycle"]
app.set_default()
