"""
Selenium's commands to Firefox without geckodriver, which Debian does not package.

Firefox itself implements WebDriver, as Marionette; geckodriver translates HTTP to it, and so
does this, in process: https://firefox-source-docs.mozilla.org/testing/marionette/Protocol.html.
"""

from __future__ import annotations

import json
import socket
from typing import Any, Final

from selenium.webdriver.remote.command import Command

#: The names that Marionette has for Selenium's commands, and for their parameters.
_NAMES: Final = {
    Command.NEW_SESSION: "WebDriver:NewSession",
    Command.QUIT: "WebDriver:DeleteSession",
    Command.GET: "WebDriver:Navigate",
    Command.REFRESH: "WebDriver:Refresh",
    Command.GET_CURRENT_URL: "WebDriver:GetCurrentURL",
    Command.GET_TITLE: "WebDriver:GetTitle",
    Command.FIND_ELEMENT: "WebDriver:FindElement",
    Command.FIND_ELEMENTS: "WebDriver:FindElements",
    Command.FIND_CHILD_ELEMENT: "WebDriver:FindElement",
    Command.FIND_CHILD_ELEMENTS: "WebDriver:FindElements",
    Command.CLICK_ELEMENT: "WebDriver:ElementClick",
    Command.CLEAR_ELEMENT: "WebDriver:ElementClear",
    Command.SEND_KEYS_TO_ELEMENT: "WebDriver:ElementSendKeys",
    Command.GET_ELEMENT_TEXT: "WebDriver:GetElementText",
    Command.GET_ELEMENT_PROPERTY: "WebDriver:GetElementProperty",
    Command.GET_ELEMENT_RECT: "WebDriver:GetElementRect",
    Command.IS_ELEMENT_ENABLED: "WebDriver:IsElementEnabled",
    Command.W3C_GET_ACTIVE_ELEMENT: "WebDriver:GetActiveElement",
    Command.W3C_EXECUTE_SCRIPT: "WebDriver:ExecuteScript",
    Command.W3C_EXECUTE_SCRIPT_ASYNC: "WebDriver:ExecuteAsyncScript",
    Command.W3C_ACTIONS: "WebDriver:PerformActions",
    Command.W3C_CLEAR_ACTIONS: "WebDriver:ReleaseActions",
    Command.W3C_GET_CURRENT_WINDOW_HANDLE: "WebDriver:GetWindowHandle",
    Command.W3C_GET_WINDOW_HANDLES: "WebDriver:GetWindowHandles",
    Command.SWITCH_TO_WINDOW: "WebDriver:SwitchToWindow",
    Command.NEW_WINDOW: "WebDriver:NewWindow",
    Command.CLOSE: "WebDriver:CloseWindow",
    Command.SET_WINDOW_RECT: "WebDriver:SetWindowRect",
    Command.SET_TIMEOUTS: "WebDriver:SetTimeouts",
    Command.SCREENSHOT: "WebDriver:TakeScreenshot",
}

_TIMEOUT: Final = 90


class MarionetteError(Exception):
    """Firefox closed the connection."""


class Marionette:
    """
    A connection to Firefox that Selenium can use as its command executor.

    :param port: of Firefox on this machine.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), _TIMEOUT)
        self._reader = self._socket.makefile("rb")
        self._number = 0
        self._read()

    def execute(self, command: str, params: dict[str, Any]) -> dict[str, Any]:
        """Execute a command of Selenium."""
        return self.send(_NAMES[command], _parameters(command, params))

    def send(self, name: str, params: dict[str, Any]) -> dict[str, Any]:
        """
        Execute a command of Marionette.

        :returns: a response as Selenium expects it, which may be an error.
        """
        self._number += 1
        message = json.dumps([0, self._number, name, params]).encode()
        self._socket.sendall(b"%d:%b" % (len(message), message))
        _, _, error, result = self._read()
        if error is not None:
            return {"status": 500, "value": json.dumps({"value": error})}
        if isinstance(result, dict) and set(result) == {"value"}:
            return result
        return {"value": result}

    def close(self) -> None:
        """Close the connection."""
        self._reader.close()
        self._socket.close()

    def _read(self) -> Any:
        length = b""
        while not length.endswith(b":"):
            byte = self._reader.read(1)
            if not byte:
                raise MarionetteError("Firefox has closed its Marionette connection")
            length += byte
        return json.loads(self._reader.read(int(length[:-1])))


def _parameters(command: str, params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters as Marionette names them."""
    named = {key: value for key, value in params.items() if key != "sessionId"}
    if command == Command.NEW_SESSION:
        return dict(named["capabilities"]["alwaysMatch"])
    if command in (Command.FIND_CHILD_ELEMENT, Command.FIND_CHILD_ELEMENTS):
        named["element"] = named.pop("id")
    if command == Command.SCREENSHOT:
        return {"full": False, "hash": False}
    return named
