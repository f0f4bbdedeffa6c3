"""Import a package that requirements.txt asks for. It is installed, with what it needs, when the function is deployed.

$ curl -s -X POST localhost:5000/run/install1
"imported"
"""

import requests  # noqa: F401


def f(event):
    return "imported"
