"""The producer program of the fault suite: the product, with failpoints around its commits and its wake-up messages."""

from captioning.queue import celery_app
from captioning.store import files, jobs
from tests.faults.failpoint_wiring import after, before, shorten_timings

shorten_timings()
after(files, "enqueue", "inside_registration")  # inside the transaction
after(jobs, "close_registration", "after_registration")
before(celery_app, "wake_workers", "before_wake_up")
after(celery_app, "wake_workers", "after_wake_up")

if __name__ == "__main__":
    from producer.cli import main

    main()
