"""Read the variables that ol.yaml sets.

$ curl -s localhost:5000/run/env-test
{"MY_ENV_VAR": "Hello from environment", "DATABASE_URL": "postgresql://user:pass@localhost/db", "DEBUG_MODE": "true", "API_KEY": "secret-key-123", "CUSTOM_PATH": "/usr/local/bin"}
"""

import os

NAMES = ("MY_ENV_VAR", "DATABASE_URL", "DEBUG_MODE", "API_KEY", "CUSTOM_PATH")


def f(event):
    return {name: os.environ.get(name) for name in NAMES}
