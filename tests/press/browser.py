"""A headless Chromium over its debugging protocol.

It tells what a page asks for, says on its console and shows.
"""

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from tornado.websocket import WebSocketClientConnection, websocket_connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


def find() -> str | None:
    """The browser on this machine, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One tab.

    `requests` and `complaints` gather what each visited page asked for and what went wrong on it.

    Args:
        program: path of a Chromium.
    """

    def __init__(self, program: str) -> None:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._loop = asyncio.new_event_loop()
        self._count = itertools.count(1)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._socket = self._loop.run_until_complete(self._connect())
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        # A hidden window gets no focus events otherwise.
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)

    async def _connect(self) -> WebSocketClientConnection:
        return await websocket_connect(self._address(), max_message_size=2**28)

    def _address(self) -> str:
        port_file = Path(self._profile.name) / "DevToolsActivePort"
        deadline = time.monotonic() + 30
        while not (port_file.is_file() and port_file.read_text()):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError("Chromium did not start")
            time.sleep(0.05)
        port = port_file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=10) as answer:
            return next(
                tab["webSocketDebuggerUrl"] for tab in json.load(answer) if tab["type"] == "page"
            )

    def call(self, method: str, until: str = "", **parameters: object) -> dict:
        """Send one command; wait for its answer and, where `until` names one, for that event."""
        return self._loop.run_until_complete(
            asyncio.wait_for(self._call(method, until, parameters), 60)
        )

    async def _call(self, method: str, until: str, parameters: dict) -> dict:
        number, answer, awaited = next(self._count), None, not until
        await self._socket.write_message(
            json.dumps({"id": number, "method": method, "params": parameters})
        )
        while answer is None or not awaited:
            message = json.loads(await self._socket.read_message())
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                answer = message["result"]
            awaited = awaited or message.get("method") == until
            self._note(message)
        return answer

    def _note(self, message: dict) -> None:
        event, body = message.get("method"), message.get("params", {})
        if event == "Network.requestWillBeSent":
            self.requests.append(body["request"]["url"])
        elif event == "Network.loadingFailed" and not body.get("canceled"):
            self.complaints.append(f"failed to load: {body['errorText']}")
        elif event == "Runtime.consoleAPICalled" and body["type"] in ("error", "warning", "assert"):
            self.complaints.append(
                f"console.{body['type']}: "
                + " ".join(str(a.get("value", a.get("description"))) for a in body["args"])
            )
        elif event == "Runtime.exceptionThrown":
            details = body["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif event == "Log.entryAdded" and body["entry"]["level"] == "error":
            self.complaints.append(
                f"{body['entry']['text']} {body['entry'].get('url', '')}".strip()
            )

    def show(self, width: int, height: int = 900, dark: bool = False) -> None:
        """The size of the window, and whether the reader prefers dark pages."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )

    def visit(self, url: str) -> None:
        """Load a page, its scripts, mathematics and fonts."""
        self.requests, self.complaints = [], []
        self.call("Page.navigate", until="Page.loadEventFired", url=url)
        self.run(
            "(window.MathJax?.startup?.promise ?? Promise.resolve())"
            ".then(() => document.fonts.ready).then(() => true)"
        )

    def run(self, expression: str) -> object:
        """The value of a JavaScript expression, promises awaited."""
        result = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in result:
            raise RuntimeError(
                result["exceptionDetails"]
                .get("exception", {})
                .get("description", "JavaScript failed")
            )
        return result["result"].get("value")

    def press(self, key: str) -> None:
        """One key, as `ArrowRight`."""
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode={"ArrowLeft": 37, "ArrowRight": 39, "Escape": 27}[key],
            )

    def picture(self, path: Path, whole: bool = True) -> None:
        """Save what the page looks like, its whole length or the window."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """End the browser and remove its profile."""
        self._socket.close()
        self._process.terminate()
        self._process.wait(timeout=20)
        self._loop.close()
        self._profile.cleanup()
