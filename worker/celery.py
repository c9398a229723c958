"""The Celery app where `celery -A worker` looks for it: the queue's app with the worker's task and signal handlers."""

from captioning.errors import CaptioningError
from captioning.queue.celery_app import make_celery
from captioning.settings import read_settings

try:
    settings = read_settings()
except CaptioningError as error:  # `celery -A worker worker` would show a traceback
    raise SystemExit(f"worker: {error}") from None
app = make_celery(settings)
app.conf.worker_consumer = "worker.consumer:PatientConsumer"
app.conf.include = ["worker.tasks", "worker.lifecycle"]
app.set_default()
