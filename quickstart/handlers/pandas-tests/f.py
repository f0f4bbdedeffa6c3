"""Let pandas test itself, in a sandbox: with its own tests, which it brings along, run by pytest.

$ curl -s localhost:5000/run/pandas-tests -d '{"tests": "series/test_api.py"}'
{"passed": 1…, "failed": 0, "skipped": …, "expected_to_fail": …, "failures": []}
$ curl -s localhost:5000/run/pandas-tests -d '{"tests": "series/test_api.py::TestSeriesMisc::test_ndarray_compat"}'
{"passed": 1, "failed": 0, "skipped": 0, "expected_to_fail": 0, "failures": []}
$ curl -s localhost:5000/run/pandas-tests -d '{"tests": "../testing.py"}'
{"error": "no tests at ../testing.py: it is a path below pandas/tests"}

Without `tests` all are run, for half an hour or so. Tracebacks are in `ol admin logs pandas-tests`. Left out are those that pandas marks as
slow, and those that want the network, a database or a clipboard.
"""

import os

import pandas
import pytest

TESTS = os.path.join(os.path.dirname(pandas.__file__), "tests")
OPTIONS = [
    # No report of pytest's own, a character for each test.
    "-p", "no:terminal",
    # No notes for its next run: they would go beside the tests, where nothing can be written.
    "-p", "no:cacheprovider",
    # What wants a file that pandas' archive at PyPI leaves out is skipped.
    "--no-strict-data-files",
    # Not pandas' own options, by which tests print what they like.
    "-o", "addopts=",
    # pytest minds, and pandas takes it for an error, when a plugin is imported before; the zygote may have done that.
    "-W", "ignore::pytest.PytestAssertRewriteWarning",
    "-m", "not slow and not network and not db and not clipboard",
]
# How many failures are named; all are counted.
N_NAMED = 100
REASON_CHARACTERS = 300


class Tally:
    """Hears from pytest how each test ended."""

    def __init__(self):
        self.counts = {"passed": 0, "failed": 0, "skipped": 0, "expected_to_fail": 0}
        self.failures = []

    def pytest_runtest_logreport(self, report):
        # A test has a report of its set-up, its call and its end. One that passes does so in its call; it may fail in each.
        if report.failed:
            self.fail(report)
        elif report.skipped:
            self.counts["expected_to_fail" if hasattr(report, "wasxfail") else "skipped"] += 1
        elif report.when == "call":
            self.counts["passed"] += 1

    def pytest_collectreport(self, report):
        if report.failed:
            self.fail(report)
        elif report.skipped:
            self.counts["skipped"] += 1

    def fail(self, report):
        self.counts["failed"] += 1
        if len(self.failures) < N_NAMED:
            print(f"{report.nodeid}\n{report.longreprtext}", flush=True)
            crash = getattr(report.longrepr, "reprcrash", None)
            reason = crash.message if crash else report.longreprtext
            self.failures.append({"test": report.nodeid, "reason": reason.strip()[:REASON_CHARACTERS]})


def f(event):
    part = event.get("tests", "")
    place, separator, name = part.partition("::")
    path = os.path.normpath(os.path.join(TESTS, place))
    if not (path + "/").startswith(TESTS + "/") or not os.path.exists(path):
        return {"error": f"no tests at {part}: it is a path below pandas/tests"}
    # The one place that can be written to: tests and hypothesis leave files where they are.
    os.chdir("/tmp")
    tally = Tally()
    code = pytest.main([*OPTIONS, path + separator + name], plugins=[tally])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return {"error": f"pytest ended with {pytest.ExitCode(code).name}; see the log", **tally.counts, "failures": tally.failures}
    return {**tally.counts, "failures": tally.failures}
