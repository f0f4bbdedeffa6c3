"""The client for programs with an event loop."""

from __future__ import annotations

import asyncio
import io
from http.client import HTTPException, HTTPResponse
from typing import Any, Dict, Optional, TypeVar

from . import _calls
from ._calls import JSON, Answer, Call, Server
from ._errors import Unreachable

T = TypeVar("T")


class AsyncOpenLambda:
    """A worker that is called. A call that is cancelled closes its connection, and the worker ends the function."""

    def __init__(self, address: str = "localhost:5000") -> None:
        self._server = Server.at(address)

    async def run(self, fn_name: str, args: JSON, json: bool = True, timeout: Optional[float] = 60) -> JSON:
        """Call a function, and give its result."""
        return await self._do(_calls.run(fn_name, args, json), timeout)

    async def create(self, args: JSON) -> str:
        """Make a sandbox, and give its id."""
        return await self._do(_calls.create(args))

    async def destroy(self, sandbox_id: str) -> None:
        """End a sandbox."""
        await self._do(_calls.destroy(sandbox_id))

    async def pause(self, sandbox_id: str) -> None:
        """Stop a sandbox for a while."""
        await self._do(_calls.pause(sandbox_id))

    async def unpause(self, sandbox_id: str) -> None:
        """Let a sandbox go on."""
        await self._do(_calls.unpause(sandbox_id))

    async def get_statistics(self) -> Dict[str, float]:
        """Counts and mean times of what the worker does."""
        return await self._do(_calls.get_statistics())

    async def check_status(self) -> None:
        """Return if the worker is ready."""
        await self._do(_calls.check_status())

    async def _do(self, call: Call[T], timeout: Optional[float] = 60) -> T:
        try:
            answer = await asyncio.wait_for(self._exchange(call), timeout)
        except asyncio.TimeoutError as error:
            raise Unreachable(f'"{call.name}" got no answer from {self._server} within {timeout} s') from error
        except (OSError, HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise Unreachable(f'"{call.name}" got no answer from {self._server}: {reason}') from error
        return call.result(answer)

    async def _exchange(self, call: Call[Any]) -> Answer:
        server = self._server
        reader, writer = await asyncio.open_connection(server.host, server.port, ssl=server.tls or None)
        try:
            writer.write(self._request(call))
            await writer.drain()
            # The worker ends the connection after its answer, because it was asked to.
            return _parsed(await reader.read(), call.method)
        finally:
            writer.close()

    def _request(self, call: Call[Any]) -> bytes:
        # No line break in a path: it would be another header. The name of a function is quoted already.
        body = call.body or b""
        headers = {"Host": str(self._server), "Connection": "close", "Content-Length": str(len(body)), **call.headers}
        lines = [f"{call.method} {call.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + body


class _Received:
    """What the parser of the standard library takes for a socket."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_args: object) -> io.BytesIO:
        return io.BytesIO(self._data)


def _parsed(data: bytes, method: str) -> Answer:
    response = HTTPResponse(_Received(data), method=method)  # type: ignore[arg-type]
    response.begin()
    return Answer(response.status, response.headers, response.read())
