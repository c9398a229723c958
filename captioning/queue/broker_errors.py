"""What an error of the broker means: one line with the cause and a remedy."""

import re

from redis import exceptions

from captioning.errors import BrokerRefused, BrokerUnavailable

_SETTING = "CAPTIONING_BROKER_URL"
SHARDS = (
    "the broker is a Redis cluster of several shards, which Celery cannot use: name a Redis without cluster mode, or a"
    f" cluster of one shard, in {_SETTING}."
)
_CLUSTER = (exceptions.MovedError, exceptions.AskError, exceptions.ClusterCrossSlotError)
_CAUSES: tuple[tuple[type[Exception] | None, str, str, str], ...] = (  # class, or words of the message; what; remedy
    (exceptions.AuthenticationError, "WRONGPASS|NOAUTH|invalid username-password|invalid password|without any password",
     "refuses the login", f"check the user and the password in {_SETTING} or CAPTIONING_BROKER_PASSWORD_FILE"),
    (exceptions.NoPermissionError, "NOPERM|no permissions",
     "does not allow this user to do that", "give it the rights that docs/security.md lists"),
    (exceptions.ReadOnlyError, "READONLY|read only replica",
     "is a read-only replica", f"name the primary in {_SETTING}"),
    (exceptions.OutOfMemoryError, "OOM|maxmemory", "has no memory left", "raise its maxmemory"),
    (exceptions.BusyLoadingError, "LOADING", "is still loading its data", "wait until it has started"),
    (exceptions.ClusterDownError, "CLUSTERDOWN", "is a Redis cluster that is down", "look at its `cluster info`"),
    (exceptions.MasterDownError, "MASTERDOWN", "is a replica without its primary", f"name the primary in {_SETTING}"),
    (None, "unknown command", "is no server that keeps messages (a Redis Sentinel, for example)",
     f"name the Redis primary in {_SETTING}"),
    (None, "MISCONF|unable to persist", "cannot save its data", "free its disk, or look at its log"),
    (None, "max number of clients", "has no connection left", "raise its maxclients"),
    (None, "DB index is out of range|SELECT is not allowed", "does not have this database", f"write /0 in {_SETTING}"),
)  # fmt: skip


def explain(error: BaseException) -> BrokerUnavailable:
    """Return the exception for an error: BrokerRefused when nobody can use the broker as it is set up."""
    chain = _chain(error)
    message = " ".join(str(error).split()) or type(error).__name__
    if any(isinstance(link, _CLUSTER) for link in chain):
        return BrokerRefused(SHARDS)
    for error_type, words, what, remedy in _CAUSES:
        if any(error_type is not None and isinstance(link, error_type) for link in chain) or re.search(words, message):
            return BrokerUnavailable(f"the broker {what}: {message.rstrip('.')}. {remedy[0].upper()}{remedy[1:]}.")
    return BrokerUnavailable(
        f"the broker does not answer: {message.rstrip('.')}. Check that it runs and that {_SETTING} is right."
    )


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return an error and what caused it; kombu wraps the errors of its client."""
    links: list[BaseException] = []
    while error is not None and error not in links:
        links.append(error)
        error = error.__cause__ or error.__context__
    return links
