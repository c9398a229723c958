"""`worker` as the fault suite starts it: a stub captioner, failpoints, quick timings. Everything else is the product.

Pool processes are spawned and import this module again, so what it arranges holds in them too.
"""

import functools
import os

from tests.faults import stub
from tests.faults.arranged import after, before, quick_timings

stub.install()
quick_timings()

import kombu.transport.redis  # noqa: E402, the stub must be there first

import worker.pipeline  # noqa: E402
import worker.station  # noqa: E402
import worker.tasks  # noqa: E402
from captioning import transport  # noqa: E402
from captioning.store import claims  # noqa: E402
from worker.openers import Openers  # noqa: E402

worker.station.Openers = functools.partial(Openers, module="tests.faults.opener")  # type: ignore[misc,assignment]
worker.station.REST_SECONDS = float(os.environ.get("FAULTS_REST", worker.station.REST_SECONDS))
worker.pipeline.REST_SECONDS = worker.station.REST_SECONDS
worker.tasks.SITTING_SECONDS = float(os.environ.get("FAULTS_SITTING", worker.tasks.SITTING_SECONDS))
worker.pipeline.TURN_SECONDS = float(os.environ.get("FAULTS_TURN", worker.pipeline.TURN_SECONDS))
before(worker.station.Station, "claim", "received")
after(claims, "claim", "claimed")
before(Openers, "open", "opening")
after(claims, "_captions", "recording")  # inside the transaction
after(claims, "record", "recorded")
after(claims, "finish", "finished")
before(kombu.transport.redis.QoS, "ack", "acking")  # in the parent
before(transport.Transport, "_deliver", "popped")  # in the parent: taken from the list, noted down nowhere yet

if __name__ == "__main__":
    from worker.cli import main

    main()
