"""A real browser for the tests of pages: headless Chromium, driven by its DevTools protocol over one WebSocket."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tornado.websocket import WebSocketClientConnection, websocket_connect

_PATIENCE_S = 30


class Page:
    """An open page.

    Attributes:
        complaints: What the page wrote to its console as an error, exceptions and failed requests included.
    """

    def __init__(self, runner: asyncio.Runner, socket: WebSocketClientConnection) -> None:
        self._runner, self._socket, self._number = runner, socket, 0
        self.complaints: list[str] = []
        for domain in ("Runtime", "Log", "Page"):
            self._call(f"{domain}.enable")

    def show(self, url: str) -> None:
        """Go to an address."""
        self._call("Page.navigate", url=url)

    def resize(self, width: int, height: int, ratio: float = 1) -> None:
        """Give the page a size in CSS pixels, and device pixels per CSS pixel."""
        size = {"width": width, "height": height, "deviceScaleFactor": ratio, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression holds."""
        give_up = time.monotonic() + _PATIENCE_S
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < give_up, f"{condition} never held; {self.complaints}"
            time.sleep(0.02)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """A mouse event: mousePressed, mouseMoved, mouseReleased, mouseWheel."""
        self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def wheel(self, x: float, y: float, delta: float) -> None:
        """Turn the wheel at a place."""
        self.mouse("mouseWheel", x, y, deltaX=0, deltaY=delta)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag with the left button."""
        held = {"button": "left", "buttons": 1, "clickCount": 1}
        self.mouse("mousePressed", *start, **held)
        self.mouse("mouseMoved", *((a + b) / 2 for a, b in zip(start, end, strict=True)), **held)  # type: ignore[misc]
        self.mouse("mouseMoved", *end, **held)
        self.mouse("mouseReleased", *end, **{**held, "buttons": 0})

    def key(self, key: str) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key)

    def screenshot(self) -> NDArray[np.uint8]:
        """What is to be seen, (h, w, 3)."""
        png = base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._runner.run(asyncio.wait_for(self._answer(method, parameters), _PATIENCE_S))

    async def _answer(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        await self._socket.write_message(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            text = await self._socket.read_message()
            assert text is not None, "the browser has gone"
            said = json.loads(text)
            if said.get("id") == self._number:
                assert "error" not in said, said["error"]
                answer: dict[str, Any] = said["result"]
                return answer
            self._listen(said)

    def _listen(self, said: dict[str, Any]) -> None:
        told = said.get("params", {})
        is_error = (told.get("type") or told.get("entry", {}).get("level")) in {"error", "assert"}
        if said.get("method") == "Runtime.exceptionThrown" or is_error:
            self.complaints.append(json.dumps(told)[:500])


@contextmanager
def chromium() -> Iterator[Page]:
    """A fresh headless Chromium with one empty page; skips where there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no chromium: install Debian's package of that name to test pages")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, asyncio.Runner() as runner:
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0")
        command = [found, *options, f"--user-data-dir={profile}", "--window-size=1280,800", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            socket = runner.run(_connected(_address(Path(profile), process)))
            yield Page(runner, socket)
        finally:
            process.terminate()
            process.wait(_PATIENCE_S)
        runner.run(_ended(socket))


async def _ended(socket: WebSocketClientConnection) -> None:
    """Read what was still said, up to the end."""
    while await socket.read_message() is not None:
        pass
    socket.close()


async def _connected(address: str) -> WebSocketClientConnection:
    return await websocket_connect(address, max_message_size=2**28)


def _address(profile: Path, process: subprocess.Popen[bytes]) -> str:
    """Where the first page listens."""
    port, give_up = profile / "DevToolsActivePort", time.monotonic() + _PATIENCE_S
    while not (port.exists() and port.read_text().count("\n")):
        assert process.poll() is None and time.monotonic() < give_up, "chromium did not start"
        time.sleep(0.05)
    with urllib.request.urlopen(f"http://127.0.0.1:{port.read_text().split()[0]}/json") as answer:
        pages = [page for page in json.load(answer) if page["type"] == "page"]
    return str(pages[0]["webSocketDebuggerUrl"])
