"""The wake-up message: its name, its queue, and how to recognise one.

It carries no paths, no pixels and no ids. It only means that there is work; what the work is and how far it has come
are rows in the database. A lost message costs a moment, a duplicate costs nothing.
"""

import base64
import json
from typing import Any

QUEUE = "captions"
TASK_NAME = "captioning.process_chunks"
TASK_TIME_LIMIT_SECONDS = 3600  # that Celery gives a task; far beyond any lease
_MAX_BODY_CHARACTERS = 10_000  # a wake-up message has about a hundred


def is_wake_message(message: Any) -> bool:
    """Return whether a message, parsed from JSON, is one that `wake_workers` could have sent.

    It must name our task, run at once, and have no arguments, callbacks or other follow-ups.
    """
    try:
        headers, properties = message["headers"], message["properties"]
        body = message["body"]
        if len(body) > _MAX_BODY_CHARACTERS:
            return False
        args, kwargs, follow_ups = json.loads(base64.b64decode(body, validate=True))
        return (
            headers["task"] == TASK_NAME
            and isinstance(headers["id"], str)
            and not (headers.get("eta") or headers.get("expires"))
            and headers.get("timelimit", [None, None]) in ([None, None], [TASK_TIME_LIMIT_SECONDS, None])
            and (message["content-type"], message["content-encoding"]) == ("application/json", "utf-8")
            and properties["body_encoding"] == "base64"
            and isinstance(properties["delivery_tag"], str)
            and isinstance(properties["delivery_info"]["exchange"], str)
            and isinstance(properties["delivery_info"]["routing_key"], str)
            and args == []
            and kwargs == {}
            and not any(follow_ups.values())
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return False
