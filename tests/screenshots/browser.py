"""A headless Chromium, told over its DevTools protocol to open a page, wait for a text, and take a picture."""

from __future__ import annotations

import base64
import itertools
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

WIDTH, HEIGHT = 1120, 700
WAIT_S_MAX = 120.0
SETTLE_S = 1.5
"""Pages move for a moment after their data is there."""

TIMELINE_S = 6.0
"""A run's timeline is drawn after everything else, and has no text to wait for."""

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-port=0",
    f"--window-size={WIDTH},{HEIGHT}",
)


class Page:
    """One tab."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    def prepare(self) -> None:
        """The size of the window is that of the picture, whatever the browser shows around it."""
        self._call("Page.enable")
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=WIDTH,
            height=HEIGHT,
            deviceScaleFactor=1,
            mobile=False,
        )

    def open(self, url: str, text: str) -> None:
        """Go to a page and wait until it shows a text; raises TimeoutError with what it shows instead."""
        self._call("Page.navigate", url=url)
        self.wait_for(text)

    def wait_for(self, text: str) -> None:
        """Wait until the page shows a text."""
        deadline_s = time.monotonic() + WAIT_S_MAX
        while time.monotonic() < deadline_s:
            if text in self.text():
                time.sleep(SETTLE_S)
                return
            time.sleep(0.3)
        raise TimeoutError(f"no {text!r} on the page: {self.text()[:800]}")

    def text(self) -> str:
        """What the page shows, as text."""
        return str(self.evaluate("document.body ? document.body.innerText : ''") or "")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    def click(self, text: str) -> None:
        """Click the innermost element that shows exactly this text."""
        self._to_innermost(text, "click()")

    def scroll_to(self, text: str) -> None:
        """Bring the innermost element that shows exactly this text to the top of the window."""
        self._to_innermost(text, "scrollIntoView({block: 'start'})")

    def _to_innermost(self, text: str, call: str) -> None:
        found = self.evaluate(
            "(() => { const all = [...document.querySelectorAll('body *')]"
            f".filter(each => each.innerText?.trim() === {json.dumps(text)});"
            f" const last = all[all.length - 1]; last?.{call}; return !!last; }})()"
        )
        if not found:
            raise LookupError(f"nothing on the page says {text!r}: {self.text()[:800]}")
        time.sleep(SETTLE_S)

    def picture(self, path: Path, *, height: int = HEIGHT) -> None:
        """Save what the window shows as a PNG, `height` pixels of it."""
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
        answer = self._call("Page.captureScreenshot", format="png", clip=clip)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=WAIT_S_MAX))
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])


@contextmanager
def browser(program: str) -> Iterator[Page]:
    """A tab of a browser of its own, with a profile that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="ahvault-browser-") as profile:
        child = subprocess.Popen(
            [program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            with connect(_tab_url(child), max_size=None) as socket:
                page = Page(socket)
                page.prepare()
                yield page
        finally:
            child.terminate()
            child.wait(20)


def _tab_url(child: subprocess.Popen[str]) -> str:
    assert child.stderr is not None
    for line in child.stderr:
        found = re.search(r"DevTools listening on ws://([^/]+)/", line)
        if found:
            tabs = httpx.get(f"http://{found.group(1)}/json/list").json()
            return next(str(tab["webSocketDebuggerUrl"]) for tab in tabs if tab["type"] == "page")
    raise RuntimeError("the browser ended before it was ready")
