"""What can go wrong with a call."""

from __future__ import annotations

from typing import Optional


class OpenLambdaError(Exception):
    """A call that did not come to its result."""


class Unreachable(OpenLambdaError):
    """Nobody listens there, the connection broke, or it took too long."""


class BadAnswer(OpenLambdaError):
    """An answer of success that is not what was asked for."""


class HTTPError(OpenLambdaError):
    """An answer that is not one of success."""

    def __init__(self, call: str, status: int, text: str, retry_after: Optional[float] = None) -> None:
        super().__init__(f'"{call}" failed with status code {status}: {text}')
        self.call = call
        self.status = status
        self.text = text
        #: After how many seconds the worker may be asked again, if it says so.
        self.retry_after = retry_after


class NotSupported(HTTPError):
    """The worker does not know this kind of call."""

    def __init__(self, call: str, status: int, text: str) -> None:
        super().__init__(call, status, text)
        self.args = (f'this worker does not serve "{call}": sandboxes by hand are for a worker with server_mode sock ({text.strip()})',)
