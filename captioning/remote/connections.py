"""The file systems of fsspec, set up by our settings alone: no file, no variable and no metadata service speaks in."""

import json
import os
import ssl
from typing import Any

from captioning.environment import set_for_children
from captioning.errors import AddressRefused, UsageError
from captioning.remote.addresses import AddressGuard
from captioning.remote.packages import require
from captioning.service_urls import secret_in
from captioning.settings import Settings

_REGION = "us-east-1"  # S3 says in its answer where a bucket is


def connect(url: bytes, settings: Settings) -> Any:
    """Return the file system for URLs like this one. Raises UsageError when its packages are missing."""
    require(url)
    import fsspec.config

    fsspec.config.conf.clear()  # read from files of the user and from variables
    make = {b"s3": _s3, b"gs": _gs, b"https": _web}[url.partition(b":")[0]]
    return make(settings, AddressGuard(settings.remote_networks))


def _trust(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if settings.remote_ca is not None:
        try:
            context.load_verify_locations(settings.remote_ca)
        except OSError as error:
            reason = "not a valid PEM file" if isinstance(error, ssl.SSLError) else error.strerror
            raise UsageError(f"CAPTIONING_REMOTE_CA={settings.remote_ca}: {reason}.") from None
    return context


def _s3(settings: Settings, guard: AddressGuard) -> Any:
    from aiobotocore.session import AioSession
    from s3fs import S3FileSystem

    session = AioSession()
    for name in ("config_file", "credentials_file"):
        session.set_config_variable(name, os.devnull)
    secret = secret_in(settings.s3_secret_key_file, "S3_SECRET_KEY_FILE")
    if bool(settings.s3_access_key) != bool(secret):
        raise UsageError("CAPTIONING_S3_ACCESS_KEY and CAPTIONING_S3_SECRET_KEY_FILE belong together: set both.")
    _trust(settings)  # raises now what would be an error of each file
    connector: dict[str, Any] = {}
    if not settings.s3_endpoint:  # an endpoint is named by who runs the worker, whatever its address
        connector["socket_factory"] = guard.new_socket
    file_system = S3FileSystem(
        anon=not settings.s3_access_key,  # without a key nothing is looked for elsewhere
        key=settings.s3_access_key or None,
        secret=secret or None,
        token=secret_in(settings.s3_session_token_file, "S3_SESSION_TOKEN_FILE") or None,
        endpoint_url=settings.s3_endpoint or None,
        session=session,
        client_kwargs={"region_name": settings.s3_region or _REGION, "verify": str(settings.remote_ca or "") or None},
        config_kwargs={
            "connect_timeout": settings.remote_timeout_seconds,
            "read_timeout": settings.remote_timeout_seconds,
            "retries": {"total_max_attempts": 1},  # the attempts are ours
            "max_pool_connections": settings.remote_connections,
            "proxies": {},
            "connector_args": connector,
        },
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    file_system.retries = 1
    return file_system


def _gs(settings: Settings, guard: AddressGuard) -> Any:
    set_for_children("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # another client, which asks what a bucket is
    from fsspec.asyn import sync
    from gcsfs.core import GCSFileSystem

    class OneAttempt(GCSFileSystem):  # type: ignore[misc]
        _request = GCSFileSystem._request.__wrapped__  # the attempts are ours

    file_system = OneAttempt(
        token=_service_account(settings) or "anon",  # without one nothing is looked for elsewhere
        endpoint_url=settings.gs_endpoint or None,
        timeout=settings.remote_timeout_seconds,
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    guarded = None if settings.gs_endpoint else guard
    file_system.session_kwargs = {"connector": sync(file_system.loop, _connector, settings, guarded)}
    return file_system


def _service_account(settings: Settings) -> str:
    """Return the path of the key of a service account; empty without one. Raises UsageError when it is no key."""
    text = secret_in(settings.gs_key_file, "GS_KEY_FILE")
    try:
        is_key = not text or json.loads(text).get("type") == "service_account"
    except (ValueError, AttributeError):
        is_key = False
    if not is_key:
        raise UsageError(f"CAPTIONING_GS_KEY_FILE={settings.gs_key_file}: not the key of a service account (JSON).")
    return str(settings.gs_key_file or "")


def _web(settings: Settings, guard: AddressGuard) -> Any:
    from aiohttp import ClientSession, ClientTimeout, DummyCookieJar
    from fsspec.implementations.http import HTTPFileSystem

    async def new_session(**_: Any) -> ClientSession:
        seconds = settings.remote_timeout_seconds
        return ClientSession(
            connector=await _connector(settings, guard),
            timeout=ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds),
            cookie_jar=DummyCookieJar(),
            middlewares=(_only_https,),
            auto_decompress=False,  # what is unpacked may be endless
            headers={"User-Agent": "captionmill", "Accept-Encoding": "identity"},
        )

    return HTTPFileSystem(get_client=new_session, skip_instance_cache=True)


async def _connector(settings: Settings, guard: AddressGuard | None) -> Any:
    from aiohttp import TCPConnector

    factory = guard.new_socket if guard is not None else None
    return TCPConnector(ssl=_trust(settings), limit=settings.remote_connections, socket_factory=factory)


async def _only_https(request: Any, handler: Any) -> Any:
    """Refuse a redirect to anything but https."""
    if request.url.scheme != "https":
        raise AddressRefused(f"it leads to {request.url.scheme}://, which is not encrypted")
    return await handler(request)
