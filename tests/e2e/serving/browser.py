"""Just enough WebDriver to drive a headless Chromium: https://www.w3.org/TR/webdriver2/."""

from __future__ import annotations

import base64
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
KEYS = {"Enter": "\ue007", "Tab": "\ue004", "ArrowRight": "\ue014", "Escape": "\ue00c", "Shift": "\ue008", "Space": " "}


def available() -> bool:
    """Whether there is a browser to drive."""
    return shutil.which("chromedriver") is not None and shutil.which("chromium") is not None


class Browser:
    """One headless browser window."""

    def __init__(self, width: int = 1280, height: int = 900) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},{height}"]
        wanted = {"browserName": "chrome", "goog:chromeOptions": {"args": arguments}}
        self.session = ""
        answer = self._retry("session", {"capabilities": {"alwaysMatch": wanted}})
        self.session = f"session/{answer['sessionId']}/"

    def close(self) -> None:
        """End the browser."""
        self.http.delete(f"/{self.session}".rstrip("/"))
        self.driver.terminate()
        self.driver.wait(10)

    def open(self, url: str) -> None:
        """Load a page."""
        self._post("url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of a JavaScript function body."""
        return self._post("execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, script: str, seconds: float = 15) -> Any:
        """Poll until the function body returns something true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self.run(script):
                return value
            time.sleep(0.05)
        raise AssertionError(f"never became true: {script}")

    def find(self, css: str) -> str:
        """An element's reference."""
        return str(self._post("element", {"using": "css selector", "value": css})[ELEMENT])

    def click(self, css: str) -> None:
        """Click as a user would: the element must be visible."""
        self._post(f"element/{self.find(css)}/click", {})

    def type(self, css: str, text: str) -> None:
        """Type into an element."""
        self._post(f"element/{self.find(css)}/value", {"text": text})

    def press(self, *keys: str) -> None:
        """Press keys, wherever the focus is; "Shift+Tab" holds the first one down."""
        actions = []
        for key in keys:
            held = [KEYS.get(part, part) for part in key.split("+")]
            actions += [{"type": "keyDown", "value": part} for part in held]
            actions += [{"type": "keyUp", "value": part} for part in reversed(held)]
        self._post("actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def hover(self, css: str) -> None:
        """Move the mouse over an element."""
        move = {"type": "pointerMove", "duration": 0, "x": 0, "y": 0, "origin": {ELEMENT: self.find(css)}}
        self._post("actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": [move]}]})

    def resize(self, width: int, height: int) -> None:
        """Change the window's size."""
        self._post("window/rect", {"width": width, "height": height})

    def screenshot(self, path: Path) -> None:
        """Write what is visible as a PNG."""
        answer = self.http.get(f"/{self.session}screenshot").json()["value"]
        path.write_bytes(base64.b64decode(answer))

    def _retry(self, path: str, data: dict[str, Any]) -> Any:
        for _ in range(100):
            try:
                return self._post(path, data)
            except httpx.ConnectError:
                time.sleep(0.05)
        raise AssertionError("chromedriver does not answer")

    def _post(self, path: str, data: dict[str, Any]) -> Any:
        answer = self.http.post(f"/{self.session}{path}", json=data).json()["value"]
        assert not (isinstance(answer, dict) and "error" in answer), answer
        return answer
