"""Entries: the ways a function can be called. One class per kind.

    kind            what READY calls it
    wants_head      whether the worker has to send the request's method, path and headers
    is_awaited      whether it runs on an event loop (awaited.py). If not:
    call(i)         does the invocation `i` and answers it; raises nothing but `Cancelled`
"""

from time import monotonic

from . import jsontext
from .frames import FAILED, request_head, response_head

_TEXT = [("content-type", "text/plain; charset=utf-8")]
JSON_200 = response_head(200, [("content-type", "application/json")])
TEXT_400 = response_head(400, _TEXT)
TEXT_500 = response_head(500, _TEXT)


class Event:
    """`def f(event)`, or `def f(event, context)`: from JSON to JSON."""

    kind = "event"
    is_awaited = False

    def __init__(self, function, wants_head):
        self._function = function
        self.wants_head = wants_head

    def call(self, invocation):
        body = invocation.whole_body()
        try:
            event = jsontext.decode(body) if body else {}
        except (RecursionError, ValueError) as error:
            refuse(invocation, body, error)
            return
        try:
            if self.wants_head:
                result = self._function(event, Context(invocation.head))
            else:
                result = self._function(event)
        # All of them: sys.exit() in a function must not take a warm sandbox with it.
        except BaseException as error:
            invocation.fail(TEXT_500, error)
            return
        answer(invocation, result)


# As much of a body as helps to see what was sent.
_SHOWN_MAX = 80


def refuse(invocation, body, error):
    """The body is no JSON. What is said begins as OpenLambda has it."""
    shown = body[:_SHOWN_MAX].decode("utf-8", "backslashreplace")
    if len(body) > _SHOWN_MAX:
        shown += "…"
    if isinstance(error, RecursionError):
        why = "the request body is not JSON that can be read: it is nested too deep"
    else:
        why = f"the request body is not JSON: {error}"
    said = f'bad POST data: "{shown}": {why}\n'
    invocation.answer(TEXT_400, said.encode("utf-8", "backslashreplace"))


def answer(invocation, result):
    """Answers with what the function returned."""
    try:
        body = jsontext.encode(result)
    except (TypeError, ValueError, RecursionError):
        said = f"the function returned an object that is not JSON: {jsontext.fault(result)}\n"
        invocation.answer(TEXT_500, said.encode("utf-8", "backslashreplace"), FAILED)
        return
    # The result may be an object of a class of the function's own, and raise what it likes.
    except BaseException as error:
        invocation.fail(TEXT_500, error)
        return
    invocation.answer(JSON_200, body)


class Context:
    """What a function may know of its call besides the event.

    method      "POST"
    path        below the function, decoded: "/items/é"
    target      path and query as they were sent: "/items/%C3%A9?x=%20"
    query       "x=%20", as it was sent; "" if there is none
    headers     {"content-type": "application/json"}; names in lower case
    request_id  the client's X-Request-Id; without one, the id in the log and in the answer's X-Ol-Invocation
    deadline    when the worker stops waiting, on the clock of time.monotonic()
    """

    __slots__ = ("method", "path", "target", "query", "headers", "request_id", "deadline")

    def __init__(self, head):
        now = monotonic()
        self.method, self.target, left_ms, _, self.request_id, headers = request_head(head)
        self.deadline = now + left_ms / 1000
        path, _, self.query = self.target.partition("?")
        self.path = path if "%" not in path else unquote(path)
        self.headers = joined(headers)

    def remaining_ms(self):
        """Milliseconds until the deadline, never less than 0."""
        return max(0, int((self.deadline - monotonic()) * 1000))


def joined(headers):
    """Headers as a dict. What came several times becomes one (RFC 9110, 5.3; cookies: RFC 9113, 8.2.3)."""
    values = dict(headers)
    if len(values) != len(headers):
        values = {}
        for name, value in headers:
            if name in values:
                value = values[name] + ("; " if name == "cookie" else ", ") + value
            values[name] = value
    return values


def unquote(path):
    from urllib.parse import unquote

    return unquote(path)
