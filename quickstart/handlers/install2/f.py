"""Import what another function has had installed: nothing is installed twice.

$ curl -s -X POST localhost:5000/run/install2
"imported"
"""

import requests  # noqa: F401


def f(event):
    return "imported"
