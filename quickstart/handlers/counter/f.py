"""Remember something between two calls, as long as they meet the same sandbox.

$ curl -s -X POST localhost:5000/run/counter
1
$ curl -s -X POST localhost:5000/run/counter
2
"""

n_calls = 0


def f(event):
    global n_calls
    n_calls += 1
    return n_calls
