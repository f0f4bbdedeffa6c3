"""Take some methods only: those that ol.yaml lists. The function is not called for others.

$ curl -s -X POST localhost:5000/run/lambda-config-test -w '%{http_code}'
short and stout
418
$ curl -s -X PUT localhost:5000/run/lambda-config-test -w '%{http_code}'
HTTP method not allowed. Sent: PUT, Allowed: [GET POST]
405
"""


def app(environ, start_response):
    start_response("418 I'm a teapot", [("Content-Type", "text/plain")])
    return [b"short and stout\n"]
