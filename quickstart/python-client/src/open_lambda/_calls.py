"""What is asked, and what an answer means. Nothing here talks to anybody."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http.client import HTTPMessage
from typing import Any, Callable, Dict, Generic, Optional, TypeVar
from urllib.parse import quote, urlsplit

from ._errors import BadAnswer, HTTPError, NotSupported

#: What goes to functions and comes from them. Python's types cannot say more without getting in the way.
JSON = Any

#: Left as they are in the name of a function and what stands behind it.
_SAFE = "/?&=%:@!$'()*+,;~"

#: What a worker says of a path that it does not know.
_NOT_KNOWN = "nothing is at "

T = TypeVar("T")


@dataclass(frozen=True)
class Server:
    host: str
    port: int
    tls: bool

    @classmethod
    def at(cls, address: str) -> Server:
        """`localhost:5000`, `[::1]:5000`, or an address with `http://` or `https://` in front."""
        parts = urlsplit(address if "://" in address else f"http://{address}")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError(f"{address!r} is not the address of a worker: it looks like 'localhost:5000'")
        tls = parts.scheme == "https"
        return cls(parts.hostname, parts.port or (443 if tls else 80), tls)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and how its answer is read."""

    name: str
    method: str
    path: str
    body: Optional[bytes]
    read: Callable[[Answer], T]

    @property
    def headers(self) -> Dict[str, str]:
        return {} if self.body is None else {"Content-Type": "application/json"}

    def result(self, answer: Answer) -> T:
        if 200 <= answer.status < 300:
            return self.read(answer)
        by_hand = self.path.split("/")[1] in ("create", "destroy", "pause", "unpause")
        if by_hand and answer.status == 404 and answer.text.startswith(_NOT_KNOWN):
            raise NotSupported(self.name, answer.status, answer.text)
        raise HTTPError(self.name, answer.status, answer.text, _seconds(answer.headers.get("Retry-After")))


def _seconds(value: Optional[str]) -> Optional[float]:
    # The other form, a date, is not used by workers.
    return float(value) if value is not None and value.isdigit() else None


def _post(name: str, path: str, args: JSON, read: Callable[[Answer], T]) -> Call[T]:
    return Call(name, "POST", path, json.dumps(args).encode(), read)


def _nothing(_answer: Answer) -> None:
    return None


def run(fn_name: str, args: JSON, as_json: bool) -> Call[JSON]:
    def read(answer: Answer) -> JSON:
        if not as_json:
            return answer.text
        try:
            return json.loads(answer.body)
        except ValueError as error:
            raise BadAnswer(f"{fn_name} answered with something that is not JSON ({error}); json=False gives it as text") from None

    return _post("run", f"/run/{quote(fn_name, safe=_SAFE)}", args, read)


def create(args: JSON) -> Call[str]:
    return _post("create", "/create", args, lambda answer: answer.text.strip())


def destroy(sandbox_id: str) -> Call[None]:
    return _post("destroy", f"/destroy/{quote(sandbox_id, safe='')}", {}, _nothing)


def pause(sandbox_id: str) -> Call[None]:
    return _post("pause", f"/pause/{quote(sandbox_id, safe='')}", None, _nothing)


def unpause(sandbox_id: str) -> Call[None]:
    return _post("unpause", f"/unpause/{quote(sandbox_id, safe='')}", None, _nothing)


def get_statistics() -> Call[Dict[str, float]]:
    def read(answer: Answer) -> Dict[str, float]:
        try:
            statistics = json.loads(answer.body)
        except ValueError:
            statistics = None
        if not isinstance(statistics, dict):
            raise BadAnswer("the worker's statistics are not a JSON object")
        return statistics

    return Call("get_statistics", "GET", "/stats", None, read)


def check_status() -> Call[None]:
    return Call("check_status", "GET", "/status", None, _nothing)
