"""Plugins of pytest for tests/bench/mutation.py: which test reaches which line, and a choice of
tests in a given order.
"""

import sys
import threading
import time

import pytest


class Reach:
    """Notes for every test its seconds and the lines of the mutated modules that it reaches.

    What a fixture of a module or a session reaches counts for every test that uses it. What is
    reached while tests are collected (imports) is in `at_import`.
    """

    def __init__(self, root, modules):
        self.files = {str(root / module): module for module in modules}
        self.tests, self.failed, self.fixtures = {}, set(), {}
        self.at_import = self.lines = set()

    def _trace(self, frame, event, _):
        module = self.files.get(frame.f_code.co_filename)
        if module is None:
            return None
        lines = self.lines

        def local(frame, event, _):
            if event == "line":
                lines.add((module, frame.f_lineno))
            return local

        lines.add((module, frame.f_lineno))
        return local

    def start(self):
        threading.settrace(self._trace)
        sys.settrace(self._trace)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        outer, self.lines = self.lines, set()
        try:
            return (yield)
        finally:
            if fixturedef.scope != "function":
                self.fixtures.setdefault(fixturedef.argname, set()).update(self.lines)
            outer |= self.lines
            self.lines = outer

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        self.lines, began = set(), time.time()
        sys.settrace(self._trace)
        try:
            return (yield)
        finally:
            for name in item.fixturenames:
                self.lines |= self.fixtures.get(name, set())
            seconds = time.time() - began
            self.tests[item.nodeid] = {"seconds": seconds, "lines": sorted(self.lines)}
            self.lines = self.at_import

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.add(report.nodeid)


class Choice:
    """Runs the tests `wanted` alone, in their order, and notes the first that fails."""

    def __init__(self, wanted):
        self.place = {nodeid: number for number, nodeid in enumerate(wanted)}
        self.killer = None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        items[:] = sorted(
            (item for item in items if item.nodeid in self.place),
            key=lambda item: self.place[item.nodeid],
        )

    def pytest_runtest_logreport(self, report):
        if report.failed and self.killer is None:
            self.killer = report.nodeid

    def pytest_collectreport(self, report):
        if report.failed and self.killer is None:
            self.killer = f"{report.nodeid} (import)"
