"""Tell of events as they happen (server-sent events), from an ASGI app without a framework.

$ curl -sN localhost:5000/run/sse-test
data: 3
data: 2
data: 1
data: lift-off
"""

import asyncio

HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    for event in ("3", "2", "1"):
        await send({"type": "http.response.body", "body": f"data: {event}\n".encode(), "more_body": True})
        await asyncio.sleep(0.1)
    await send({"type": "http.response.body", "body": b"data: lift-off\n"})
