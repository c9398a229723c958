"""`producer` as the fault suite starts it: failpoints around its commits and its bell."""

from captioning import queue
from captioning.store import files, jobs
from tests.faults.failpoint_wiring import after, before, quick_timings

quick_timings()
after(files, "_queue", "registering")  # inside the transaction
after(jobs, "close_registration", "registered")
before(queue, "ring", "ringing")
after(queue, "ring", "rang")

if __name__ == "__main__":
    from producer.cli import main

    main()
