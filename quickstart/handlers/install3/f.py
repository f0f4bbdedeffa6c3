"""Import one package more than others have had installed: that one is installed.

$ curl -s -X POST localhost:5000/run/install3
"imported"
"""

import requests  # noqa: F401
import six  # noqa: F401


def f(event):
    return "imported"
