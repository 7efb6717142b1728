"""A headless Chromium, driven over its own pipe: open a page, click on it, see what it logs and looks like."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)


_EXEC = """
import os, sys
os.dup2(int(sys.argv[1]), 3)  # it reads from this one
os.dup2(int(sys.argv[2]), 4)  # and writes to this
os.execv(sys.argv[3], sys.argv[3:])
"""


def _pipe() -> tuple[int, int]:
    """Return a pipe whose ends are neither 3 nor 4, which are the browser's."""
    ends = os.pipe()
    high = fcntl.fcntl(ends[0], fcntl.F_DUPFD_CLOEXEC, 10), fcntl.fcntl(ends[1], fcntl.F_DUPFD_CLOEXEC, 10)
    for end in ends:
        os.close(end)
    return high


class Browser:
    """One page in a browser of its own. A context manager."""

    def __init__(self, folder: Path, width: int = 1280, height: int = 900) -> None:
        assert CHROMIUM is not None
        (to_browser, self._out), (self._in, from_browser) = _pipe(), _pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        size = [f"--window-size={width},{height}", f"--user-data-dir={folder}", "--remote-debugging-pipe", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _EXEC, str(to_browser), str(from_browser), CHROMIUM, *options, *size],
            pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self._number = 0
        self._rest = b""
        self._session: str | None = None
        self.complaints: list[str] = []
        """What the page logged as an error, or raised."""
        try:
            self._begin(width, height)
        except BaseException:
            self.__exit__()
            raise

    def _begin(self, width: int, height: int) -> None:
        target = next(one for one in self._call("Target.getTargets")["targetInfos"] if one["type"] == "page")
        self._session = self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def open(self, page: Path) -> None:
        """Load a page, and wait until it says that it is ready."""
        self._call("Page.navigate", url=page.resolve().as_uri())
        until = time.monotonic() + 30.0
        while self.value("document.documentElement?.dataset.ready || ''") != "yes":
            assert time.monotonic() < until, self.complaints
            time.sleep(0.1)

    def value(self, expression: str) -> Any:
        """Return what a JavaScript expression is."""
        found = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def place(self, selector: str) -> tuple[float, float, float, float]:
        """Scroll to an element; return its left, top, width and height."""
        box = f"(()=>{{const e=document.querySelector({json.dumps(selector)});e.scrollIntoView({{block:'center'}});"
        found = self.value(f"{box}const b=e.getBoundingClientRect();return [b.left,b.top,b.width,b.height]}})()")
        left, top, width, height = found
        return left, top, width, height

    def click(self, selector: str) -> None:
        """Click on the middle of an element."""
        left, top, width, height = self.place(selector)
        self._mouse("mousePressed", left + width / 2, top + height / 2)
        self._mouse("mouseReleased", left + width / 2, top + height / 2)

    def drag(self, selector: str, first: float, last: float) -> None:
        """Drag over an element, from a share of its width to another."""
        left, top, width, height = self.place(selector)
        self._mouse("mouseMoved", left + first * width, top + height / 2)
        self._mouse("mousePressed", left + first * width, top + height / 2)
        for share in (0.5 * (first + last), last):
            self._mouse("mouseMoved", left + share * width, top + height / 2, held=1)
        self._mouse("mouseReleased", left + last * width, top + height / 2)

    def move(self, selector: str, x: float, y: float) -> None:
        """Move the mouse over an element, to shares of its width and height."""
        left, top, width, height = self.place(selector)
        self._mouse("mouseMoved", left + x * width, top + y * height)

    def dark(self, wanted: bool) -> None:
        """Prefer a dark or a light page."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if wanted else "light"}]
        self._call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, file: Path, *, whole: bool = True) -> None:
        """Write what the page looks like, as PNG."""
        self.value("window.scrollTo(0, 0)")
        found = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(found["data"]))

    def _mouse(self, kind: str, x: float, y: float, held: int = 0) -> None:
        pressed = kind != "mouseMoved"
        button = "left" if pressed or held else "none"
        self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, buttons=held, clickCount=int(pressed))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        about = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(about["exceptionDetails"])[:600])
        elif event.get("method") == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(about["args"])[:600])
        elif event.get("method") == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.complaints.append(about["entry"]["text"])
        elif event.get("method") == "Network.requestWillBeSent" and not about["request"]["url"].startswith(("file:", "data:")):
            self.complaints.append(f"asked the network for {about['request']['url']}")

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            read = os.read(self._in, 1 << 20)
            assert read, "the browser has ended"
            self._rest += read
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message


@pytest.fixture
def browser(tmp_path_factory) -> Iterator[Callable[..., Browser]]:
    """Open pages, each in a browser of its own: ``browser(file, width)``."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH")
    with ExitStack() as stack:

        def load(page: Path, width: int = 1280, *, dark: bool = False) -> Browser:
            one = stack.enter_context(Browser(tmp_path_factory.mktemp("browser"), width))
            one.dark(dark)
            one.open(page)
            return one

        yield load
