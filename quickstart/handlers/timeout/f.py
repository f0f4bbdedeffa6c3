"""Sleep for as many seconds as the event says, and find out what happens when it is too long.

$ curl -s -X POST localhost:5000/run/timeout -d 0
"slept 0 seconds"
$ curl -s -X POST localhost:5000/run/timeout -d 3600 -w '%{http_code}'
the function did not answer within 2 s (its runtime_sec); its sandbox was ended
504
"""

import time


def f(event):
    time.sleep(int(event))
    return f"slept {event} seconds"
