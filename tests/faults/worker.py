"""`worker` as the fault suite starts it: a stub captioner, failpoints, quick timings. Everything else is the product.

Pool processes are spawned and import this module again, so what it arranges holds in them too.
"""

import functools
import os

from tests.faults import stub
from tests.faults.failpoint_wiring import after, before, quick_timings

stub.install()
quick_timings()

import kombu.transport.redis  # noqa: E402, the stub must be there first

import worker.pipeline  # noqa: E402
import worker.runner  # noqa: E402
import worker.tasks  # noqa: E402
from captioning import transport  # noqa: E402
from captioning.decoding.pool import DecodePool  # noqa: E402

worker.runner.DecodePool = functools.partial(DecodePool, module="tests.faults.decode_child")  # type: ignore[misc,assignment]
worker.runner.BACKOFF_SECONDS = float(os.environ.get("FAULTS_BACKOFF", worker.runner.BACKOFF_SECONDS))
worker.pipeline.BACKOFF_SECONDS = worker.runner.BACKOFF_SECONDS
worker.tasks.TASK_SECONDS = float(os.environ.get("FAULTS_TASK", worker.tasks.TASK_SECONDS))
worker.pipeline.TURN_SECONDS = float(os.environ.get("FAULTS_TURN", worker.pipeline.TURN_SECONDS))
before(worker.runner.Runner, "claim", "received")
after(claims, "claim", "claimed")
before(DecodePool, "open", "opening")
after(claims, "_captions", "recording")  # inside the transaction
after(claims, "record", "recorded")
after(claims, "finish", "finished")
before(kombu.transport.redis.QoS, "ack", "acking")  # in the parent
before(transport.Transport, "_deliver", "popped")  # in the parent: taken from the list, noted down nowhere yet

if __name__ == "__main__":
    from worker.cli import main

    main()
