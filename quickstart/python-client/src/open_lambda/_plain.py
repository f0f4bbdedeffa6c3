"""The client for programs that wait for each answer."""

from __future__ import annotations

from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Dict, Optional, TypeVar

from . import _calls
from ._calls import JSON, Answer, Call, Server
from ._errors import Unreachable

T = TypeVar("T")


class OpenLambda:
    """A worker that is called. Each call has a connection of its own, so threads may share this."""

    def __init__(self, address: str = "localhost:5000") -> None:
        self._server = Server.at(address)

    def run(self, fn_name: str, args: JSON, json: bool = True, timeout: Optional[float] = 60) -> JSON:
        """Call a function, and give its result."""
        return self._do(_calls.run(fn_name, args, json), timeout)

    def create(self, args: JSON) -> str:
        """Make a sandbox, and give its id."""
        return self._do(_calls.create(args))

    def destroy(self, sandbox_id: str) -> None:
        """End a sandbox."""
        self._do(_calls.destroy(sandbox_id))

    def pause(self, sandbox_id: str) -> None:
        """Stop a sandbox for a while."""
        self._do(_calls.pause(sandbox_id))

    def unpause(self, sandbox_id: str) -> None:
        """Let a sandbox go on."""
        self._do(_calls.unpause(sandbox_id))

    def get_statistics(self) -> Dict[str, float]:
        """Counts and mean times of what the worker does."""
        return self._do(_calls.get_statistics())

    def check_status(self) -> None:
        """Return if the worker is ready."""
        self._do(_calls.check_status())

    def _do(self, call: Call[T], timeout: Optional[float] = 60) -> T:
        kind = HTTPSConnection if self._server.tls else HTTPConnection
        connection = kind(self._server.host, self._server.port, timeout=timeout)
        try:
            connection.request(call.method, call.path, call.body, call.headers)
            response = connection.getresponse()
            answer = Answer(response.status, response.headers, response.read())
        except (OSError, HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise Unreachable(f'"{call.name}" got no answer from {self._server}: {reason}') from error
        finally:
            connection.close()
        return call.result(answer)
