"""Say which Python it is.

$ curl -s localhost:5000/run/version
"3.…"
"""

import sys


def f(event):
    return ".".join(map(str, sys.version_info[:3]))
