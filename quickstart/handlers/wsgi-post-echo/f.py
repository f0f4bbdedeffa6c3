"""Give back the bytes that came, whatever they are, with their type.

$ curl -s localhost:5000/run/wsgi-post-echo -H 'Content-Type: text/plain' -d 'not JSON' -w ' (%{content_type})'
not JSON (text/plain)
$ curl -s localhost:5000/run/wsgi-post-echo -H 'Content-Type: application/json' -d '{"a": 1}' -w ' (%{content_type})'
{"a": 1} (application/json)
"""


def app(environ, start_response):
    kind = environ.get("CONTENT_TYPE") or "application/octet-stream"
    start_response("200 OK", [("Content-Type", kind)])
    return [environ["wsgi.input"].read()]
