"""A server in front of a bucket: it is slow, and every hundredth request or object fails in one of several ways.

Run as `python -m tests.support.failing_bucket ENDPOINT PORT SECONDS`: each answer takes up to SECONDS.
"""

import asyncio
import random
import sys
import zlib
from typing import Any

from aiohttp import ClientSession, web

PASSING = ("slow down", "error", "cut", "reset")  # ways in which a request fails; the next one may succeed
LASTING = {0: 403, 1: 404, 2: 500}  # answers to every request for some objects, by their numbers below
EVERY = 100


def lasting_status(key: str) -> int | None:
    """Return with which status each request for an object fails; None for most."""
    number = zlib.crc32(key.encode()) % (EVERY * len(LASTING))
    return LASTING.get(number)


class Way:
    """Passes requests on."""

    def __init__(self, upstream: str, seconds: float) -> None:
        self.upstream, self.seconds = upstream, seconds
        self.random = random.Random(0)
        self.session: ClientSession | None = None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(self.random.uniform(0, self.seconds))
        key = request.path.partition("/")[2].partition("/")[2]
        is_object = bool(key) and request.method == "GET"
        if is_object and (status := lasting_status(key)) is not None:
            return web.Response(status=status, text="<Error><Code>Arranged</Code></Error>")
        how = self.random.choice(PASSING) if self.random.random() < 1 / EVERY else ""
        if how == "slow down":
            return web.Response(status=503, text="<Error><Code>SlowDown</Code></Error>")
        if how == "error":
            return web.Response(status=500, text="<Error><Code>InternalError</Code></Error>")
        body, status, headers = await self._ask(request)
        if not how or not is_object:
            return web.Response(body=body, status=status, headers=headers)
        return await self._cut(request, body if how == "cut" else b"")

    async def _ask(self, request: web.Request) -> tuple[bytes, int, dict[str, str]]:
        self.session = self.session or ClientSession(auto_decompress=False)
        kept = ("Range", "Authorization", "x-amz-date", "x-amz-content-sha256", "Content-Type")
        headers = {name: request.headers[name] for name in kept if name in request.headers}
        async with self.session.request(
            request.method, self.upstream + request.raw_path, headers=headers, data=await request.read()
        ) as answer:
            dropped = ("Transfer-Encoding", "Content-Length", "Connection", "Date", "Server")
            passed = {name: value for name, value in answer.headers.items() if name not in dropped}
            return await answer.read(), answer.status, passed

    async def _cut(self, request: web.Request, body: bytes) -> web.StreamResponse:
        """End the connection within the body, or before it."""
        answer = web.StreamResponse(headers={"Content-Length": str(len(body) or 100)})
        await answer.prepare(request)
        if body:
            await answer.write(body[: len(body) // 2])
        transport: Any = request.transport
        transport.abort()
        return answer


def main(upstream: str, port: int, seconds: float) -> None:
    """Serve until killed."""
    app = web.Application(client_max_size=10**9)
    app.router.add_route("*", "/{path:.*}", Way(upstream, seconds).answer)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
