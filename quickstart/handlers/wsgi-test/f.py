"""Answer as a WSGI app does: with a status, headers and a body of its own.

$ curl -si localhost:5000/run/wsgi-test
HTTP/1.1 418 I'm a teapot
…
a: B
…
hi
"""


def app(environ, start_response):
    start_response("418 I'm a teapot", [("Content-Type", "text/plain"), ("A", "B")])
    return [b"hi\n"]
