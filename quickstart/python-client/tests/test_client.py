"""Both clients against a worker that runs at OL_ADDRESS, with the functions that integration/client.rs installs."""

from __future__ import annotations

import asyncio
import json
import os
import time
import unittest
import urllib.request
from typing import Any, Awaitable, Callable, Dict, Type

from open_lambda import AsyncOpenLambda, BadAnswer, HTTPError, NotSupported, OpenLambda, OpenLambdaError, Unreachable

ADDRESS = os.environ["OL_ADDRESS"]
#: How long a condition may take.
PATIENCE_S = float(os.environ["OL_PATIENCE_S"])


class Waiting:
    """The client with `async`, driven as if it were the other one."""

    def __init__(self, address: str) -> None:
        self._client = AsyncOpenLambda(address)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method: Callable[..., Awaitable[Any]] = getattr(self._client, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await method(*args, **kwargs)

        return lambda *args, **kwargs: asyncio.run(call(*args, **kwargs))


class Both:
    """What is true of both."""

    kind: Any
    ol: Any

    def setUp(self) -> None:
        self.ol = self.kind(ADDRESS)

    def raises(self, error: Type[OpenLambdaError], call: str, *args: Any, **kwargs: Any) -> Any:
        try:
            result = getattr(self.ol, call)(*args, **kwargs)
        except error as caught:
            return caught
        raise AssertionError(f"{call} gave {result!r}")

    def test_a_function_gives_its_result(self) -> None:
        for event in [{"hello": "wörld"}, [1, 2.5, None], "text", 0, None]:
            assert self.ol.run("echo", event) == event
        large = ["x" * 1000] * 1000
        assert self.ol.run("echo", large) == large

    def test_an_answer_may_be_taken_as_text(self) -> None:
        assert self.ol.run("echo", {"a": 1}, json=False) == '{"a": 1}'
        assert self.ol.run("text", None, json=False) == "no JSON\n"
        assert "json=False" in str(self.raises(BadAnswer, "run", "text", None))

    def test_a_path_and_a_query_may_stand_behind_the_name(self) -> None:
        assert self.ol.run("target/a b/ü?x=1&y=%20", None) == "/a%20b/%C3%BC?x=1&y=%20"
        # A line break is no way to another header: it is a name that no function has.
        assert self.raises(HTTPError, "run", "target\r\nX: y", None).status == 400

    def test_a_failure_of_the_function_is_told_with_its_traceback(self) -> None:
        error = self.raises(HTTPError, "run", "fails", None)
        assert (error.call, error.status, error.retry_after) == ("run", 500, None)
        assert "ZeroDivisionError" in error.text and '"run" failed with status code 500' in str(error)
        assert not isinstance(error, NotSupported)

    def test_a_function_that_is_not_there_is_an_error_of_its_own_status(self) -> None:
        assert self.raises(HTTPError, "run", "nobody", None).status == 404

    def test_a_worker_tells_its_status_and_statistics(self) -> None:
        assert self.ol.check_status() is None
        self.ol.run("echo", 1)
        assert self.ol.get_statistics()["web-request.cnt"] >= 1

    def test_a_worker_that_is_not_there_is_unreachable(self) -> None:
        # The port of discard, which nobody serves any more.
        self.ol = self.kind("127.0.0.1:9")
        assert "127.0.0.1:9" in str(self.raises(Unreachable, "check_status"))

    def test_a_call_that_takes_too_long_is_given_up(self) -> None:
        self.raises(Unreachable, "run", "sleeps", None, timeout=0.2)

    def test_sandboxes_by_hand_are_refused_in_clear_words(self) -> None:
        for call, argument in [("create", {"code": "/x"}), ("destroy", "1"), ("pause", "1"), ("unpause", "1")]:
            error = self.raises(NotSupported, call, argument)
            assert f'this worker does not serve "{call}"' in str(error) and "server_mode sock" in str(error)

    def test_an_address_is_checked(self) -> None:
        for address in ["", "http://", "ftp://x", "localhost:5000/run", "localhost:port"]:
            try:
                self.kind(address)
            except ValueError:
                continue
            raise AssertionError(address)


class PlainTest(Both, unittest.TestCase):
    kind = OpenLambda


class AsyncTest(Both, unittest.TestCase):
    kind = Waiting

    def test_many_calls_at_once(self) -> None:
        async def all_of_them() -> Any:
            ol = AsyncOpenLambda(ADDRESS)
            return await asyncio.gather(*(ol.run("echo", n) for n in range(20)))

        self.assertEqual(asyncio.run(all_of_them()), list(range(20)))

    def test_a_call_that_is_cancelled_ends_the_function(self) -> None:
        async def cancelled() -> None:
            call = asyncio.ensure_future(AsyncOpenLambda(ADDRESS).run("sleeps-alone", None, timeout=None))
            await until_busy(1)
            call.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await call
            await until_busy(0)

        async def until_busy(n: int) -> None:
            deadline = time.monotonic() + PATIENCE_S
            while described("sleeps-alone").get("busy", 0) != n:
                self.assertLess(time.monotonic(), deadline)
                await asyncio.sleep(0.01)

        asyncio.run(cancelled())


def described(name: str) -> Dict[str, Any]:
    """What the worker says of a lambda."""
    with urllib.request.urlopen(f"http://{ADDRESS}/lambdas") as answer:
        lambdas = json.load(answer)["lambdas"]
    return next((one for one in lambdas if one["name"] == name), {})


if __name__ == "__main__":
    unittest.main()
