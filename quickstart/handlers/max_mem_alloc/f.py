"""Take as much memory as is asked for. What is more than `mem_mb` of ol.yaml ends the sandbox, and nothing else.

$ curl -s -X POST localhost:5000/run/max_mem_alloc -d '{"mb": 20}'
20
$ curl -s -X POST localhost:5000/run/max_mem_alloc -d '{"mb": 200}' -w '%{http_code}'
the function's sandbox died: …out of memory…50 MB…
502

How far it came is in its log:

    ol admin logs -n 1 max_mem_alloc
"""


def f(event):
    taken = []
    for mb in range(1, event["mb"] + 1):
        # Ones, for the kernel gives no memory for zeros that nobody has written.
        taken.append(b"\x01" * (1 << 20))
        print(mb, "MB", flush=True)
    return len(taken)
