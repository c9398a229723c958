"""Files in buckets and on the web: which URLs are taken, which addresses are connected to, and how a file is read."""

from captioning.remote.listing import RemoteFile
from captioning.remote.packages import is_installed
from captioning.remote.store import Download, RemoteStore
from captioning.remote.urls import checked_url, is_prefix, root_of

__all__ = [
    "Download",
    "RemoteFile",
    "RemoteStore",
    "checked_url",
    "is_installed",
    "is_prefix",
    "root_of",
]
