"""Give back what came: any JSON.

$ curl -s -X POST localhost:5000/run/echo -d '{"hello": ["world", 1.5, null]}'
{"hello": ["world", 1.5, null]}

An empty body is an empty object:

$ curl -s -X POST localhost:5000/run/echo
{}
"""


def f(event):
    return event
