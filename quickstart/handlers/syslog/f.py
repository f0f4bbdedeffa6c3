"""Try a system call that no sandbox is allowed: syslog, by which a program reads the kernel's messages.

$ curl -s -X POST localhost:5000/run/syslog
{"returned": -1, "error": "EPERM"}
"""

import ctypes
import errno
import platform

NUMBER = {"x86_64": 103, "aarch64": 116}[platform.machine()]
SYSLOG_ACTION_SIZE_BUFFER = 10


def f(event):
    libc = ctypes.CDLL(None, use_errno=True)
    returned = libc.syscall(NUMBER, SYSLOG_ACTION_SIZE_BUFFER, None, 0)
    error = errno.errorcode[ctypes.get_errno()] if returned == -1 else None
    return {"returned": returned, "error": error}
