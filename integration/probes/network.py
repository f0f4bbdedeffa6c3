"""Tries to reach somebody."""

import errno
import os
import socket
import threading


def f(event):
    return {
        "tcp": {f"{host} {port}": tcp(host, port) for host, port in event["tcp"]},
        "unix": {path: unix(path) for path in event["unix"]},
        "interfaces": sorted(os.listdir("/proc/sys/net/ipv4/conf")),
        "listening": listeners(),
        "inside": inside(),
    }


def ends(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error) or type(error).__name__)
    return "ok"


def tcp(host, port):
    return ends(lambda: socket.create_connection((host, port), timeout=3).close())


def unix(path):
    def connect():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect("\0" + path[1:] if path.startswith("@") else path)

    return ends(connect)


def listeners():
    found = []
    for table in ("tcp", "tcp6"):
        with open(f"/proc/net/{table}") as file:
            found += [line.split()[1] for line in file.read().splitlines()[1:] if line.split()[3] == "0A"]
    return found


def inside():
    """A server and a client of one's own: that is allowed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: server.accept()[0].close()).start()
        return tcp(*server.getsockname())
