r"""Settle what a list of requirements means: the event is the text of a requirements.in, the answer that of the requirements.txt.

$ curl -s localhost:5000/run/pip-compile -d '"flask<4"'
"blinker==…\n    # via flask\n…flask==3.…\n    # via -r requirements.in\n…"
$ curl -s localhost:5000/run/pip-compile -d '{"requirements": "itsdangerous"}'
"itsdangerous==…\n    # via -r requirements.in\n"
$ curl -s localhost:5000/run/pip-compile -d '"no-such-package-anywhere"'
{"error": "…no-such-package-anywhere…"}

It runs pip-compile of pip-tools, a program like any other, in a directory below /tmp. `network: outbound` in ol.yaml lets it ask PyPI, or the
index that PIP_INDEX_URL names, on any machine but the worker's own.
"""

import itertools
import os
import subprocess
import sys
import tempfile

# What pip-compile may take. Below the function's own time (ol.yaml), so that there is still time to say so.
SECONDS = 50
# An index can say at length what versions it has.
ERROR_CHARACTERS = 4000
TRACEBACK = "Traceback (most recent call last):"

COMMAND = [sys.executable, "-m", "piptools", "compile", "--quiet", "--no-header", "--strip-extras", "--allow-unsafe",
           "--no-emit-index-url", "--no-emit-trusted-host", "--cache-dir", "cache", "--output-file", "requirements.txt", "requirements.in"]


def reason(said):
    """What stands before Python's tracebacks, and what the last of them ends with."""
    before, *tracebacks = said.split(TRACEBACK)
    lines = tracebacks[-1].lstrip("\n").splitlines() if tracebacks else []
    end = itertools.dropwhile(lambda line: line.startswith(" "), lines)
    return (before + "\n".join(end)).strip()[:ERROR_CHARACTERS]


def f(event):
    if isinstance(event, dict):
        event = event.get("requirements", event.get("body"))
    if not isinstance(event, str):
        return {"error": 'the event is the text of a requirements.in, or {"requirements": "…"}'}
    with tempfile.TemporaryDirectory() as scratch:
        with open(os.path.join(scratch, "requirements.in"), "w") as file:
            file.write(event)
        # With the PYTHONPATH that is in it, another Python finds the packages of this function.
        environment = {**os.environ, "HOME": scratch, "TMPDIR": scratch}
        try:
            ended = subprocess.run(COMMAND, cwd=scratch, env=environment, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return {"error": f"pip-compile was not done within {SECONDS} s"}
        if ended.returncode != 0:
            return {"error": reason(ended.stderr) or f"pip-compile ended with {ended.returncode}"}
        with open(os.path.join(scratch, "requirements.txt")) as file:
            return file.read()
