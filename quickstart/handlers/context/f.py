"""See the whole request: a second argument has its method, path, query, headers and more.

$ curl -s -X PUT 'localhost:5000/run/context/items/7?colour=red' -d '{"n": 1}'
{"method": "PUT", "path": "/items/7", "query": "colour=red", "event": {"n": 1}}
"""


def f(event, context):
    return {"method": context.method, "path": context.path, "query": context.query, "event": event}
