"""The worker program of the fault suite: the product with a stub captioner, failpoints and short timings.

Pool processes are spawned and import this module again, so all of this applies to them too.
"""

import os

from tests.faults import stub_captioner
from tests.faults.failpoint_wiring import after, before, shorten_timings

stub_captioner.install()
shorten_timings()

import worker.runner  # noqa: E402, the stub must be installed and the timings set first
import worker.tasks  # noqa: E402
from captioning.decoding.process import DecodeProcess  # noqa: E402
from captioning.queue import transport  # noqa: E402
from captioning.store import claims, leases, results  # noqa: E402

worker.runner.DECODE_MODULE = "tests.faults.decode_child"
worker.runner.BACKOFF_SECONDS = float(os.environ.get("FAULTS_BACKOFF_SECONDS", worker.runner.BACKOFF_SECONDS))
worker.tasks.TASK_SECONDS = float(os.environ.get("FAULTS_TASK_SECONDS", worker.tasks.TASK_SECONDS))
worker.runner.TURN_SECONDS = float(os.environ.get("FAULTS_TURN_SECONDS", worker.runner.TURN_SECONDS))

before(worker.runner.Runner, "claim", "before_claim")
after(claims, "claim", "after_claim", when=lambda claim, *_: claim is not None)
before(DecodeProcess, "give", "before_decode")
before(results, "commit_batch", "before_commit")
after(results, "insert_captions", "inside_commit")
after(results, "commit_batch", "after_commit")
after(leases, "complete", "after_complete")
# These two run in the parent process. `_deliver` is kombu's name: the product overrides it, and it is called after a
# message was taken off the queue and before it is recorded as unacknowledged.
before(transport.QoS, "ack", "before_ack")
before(transport.Transport, "_deliver", "after_pop")

if __name__ == "__main__":
    from worker.cli import main

    main()
