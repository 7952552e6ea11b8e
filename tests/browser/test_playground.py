"""The page in Chromium."""

from __future__ import annotations

from tests.browser.case import BrowserTestCase
from tests.browser.flows.editor import EditorFlows
from tests.browser.flows.layout import LayoutFlows
from tests.browser.flows.profile import ProfileFlows
from tests.browser.flows.state import RoleFlows, StateFlows


class ChromiumPageTests(ProfileFlows, EditorFlows, LayoutFlows, BrowserTestCase):
    """The page of a service in one process."""


class ChromiumStateTests(StateFlows, BrowserTestCase):
    """The page of a service that is slow or unreachable."""


class ChromiumRoleTests(RoleFlows, BrowserTestCase):
    """The page of a service of several processes."""
