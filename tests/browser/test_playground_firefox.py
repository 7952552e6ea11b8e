"""The page in Firefox."""

from __future__ import annotations

from tests.browser import firefox
from tests.browser.case import BrowserTestCase
from tests.browser.flows.editor import EditorFlows
from tests.browser.flows.layout import LayoutFlows
from tests.browser.flows.profile import ProfileFlows
from tests.browser.flows.state import StateFlows


class FirefoxTestCase(BrowserTestCase):
    """The page in Firefox."""

    engine = firefox
    skip = firefox.missing()


class FirefoxPageTests(ProfileFlows, EditorFlows, LayoutFlows, FirefoxTestCase):
    """The page of a service in one process."""


class FirefoxStateTests(StateFlows, FirefoxTestCase):
    """The page of a service that is slow or unreachable."""
