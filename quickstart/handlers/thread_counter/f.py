"""Leave a thread behind that counts: it goes on until the sandbox is frozen, about a second after the last call.

$ curl -s -X POST localhost:5000/run/thread_counter
{"started": true, "counted": …}
$ curl -s -X POST localhost:5000/run/thread_counter
{"started": false, "counted": …}

Call it after a minute: the count says how long the sandbox was awake, not how long ago the first call was.
"""

import threading
import time

counted = 0
thread = None


def count():
    global counted
    while True:
        counted += 1
        time.sleep(0.001)


def f(event):
    global thread
    started = thread is None
    if started:
        thread = threading.Thread(target=count, daemon=True)
        thread.start()
    return {"started": started, "counted": counted}
