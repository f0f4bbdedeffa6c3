"""Be called by the clock: ol.yaml says when. It may be called over HTTP as well.

$ curl -s localhost:5000/run/cron
{"due": null}

When it was called, and when it will be: `ol worker status`.
"""


def f(event, context):
    due = context.headers.get("x-cron-time")
    print("called for", due)
    return {"due": due}
