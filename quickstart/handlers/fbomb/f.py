"""Start processes until there are enough, or the limit is reached: `procs` of ol.yaml counts them all.

$ curl -s -X POST localhost:5000/run/fbomb -d '{"times": 3}'
3

A hundred are not to be had; the answer says how many were, and at most 10:

$ curl -s -X POST localhost:5000/run/fbomb -d '{"times": 100}'
…
"""

import os


def f(event):
    # The children wait for the end of this pipe, so that they are there at the same time.
    reader, writer = os.pipe()
    children = []
    for _ in range(event["times"]):
        try:
            child = os.fork()
        except OSError:
            break
        if child == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        children.append(child)
    os.close(writer)
    os.close(reader)
    for child in children:
        os.waitpid(child, 0)
    return len(children)
