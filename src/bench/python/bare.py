"""The floor's interpreter: the runtime's own loop and imports in a plain process, without a sandbox.

    python3 -S -E -s -B -X utf8 bare.py FD          one interpreter, at the socket FD
    python3 -S -E -s -B -X utf8 bare.py FD fork     a fork of it for each socket that comes over FD

The runtime's files lie beside this one.
"""

import os
import sys
from importlib import import_module

import zygote

zygote.open_package(sys.path.pop(0))
for name in zygote.MODULES:
    import_module(name)

from _ol_runtime import runtime, warm

warm.warm()
fd = int(sys.argv[1])
if sys.argv[2:] == ["fork"]:
    import signal
    import socket

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    control = socket.socket(fileno=fd)
    zygote.prepare_zygote()
    control.send(b"!")
    while True:
        data, fds, _, _ = socket.recv_fds(control, 1, 1)
        if not data:
            os._exit(0)
        fd = fds[0]
        if os.fork() == 0:
            control.close()
            break
        os.close(fd)
runtime.main(fd, fd)
os._exit(0)
