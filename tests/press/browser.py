"""A headless Chromium, steered by Playwright.

It tells what a page asks for, says on its console and shows, and what axe-core finds wrong with it.
"""

import shutil
import tempfile
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import ConsoleMessage, Request, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# As root, and in a container, Chromium has no sandbox.
FLAGS = ("--no-sandbox", "--disable-background-networking", "--disable-component-update")


def find() -> str | None:
    """The browser on this machine, if there is one: Playwright's own is not downloaded."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One tab.

    `requests` and `complaints` gather what each visited page asked for and what went wrong on it.

    Args:
        program: path of a Chromium.
    """

    def __init__(self, program: str) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(
            executable_path=program, args=FLAGS, env={"HOME": self._home.name}
        )
        self.page = self._browser.new_page()
        self._protocol = self.page.context.new_cdp_session(self.page)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", self._note_failure)
        self.page.on("console", self._note_console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _note_failure(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # the page was left before it was there
            self.complaints.append(f"failed to load {request.url}: {request.failure}")

    def _note_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            self.complaints.append(f"console.{message.type}: {message.text}")

    def show(self, width: int, height: int = 900, dark: bool = False) -> None:
        """The size of the window, and whether the reader prefers dark pages."""
        self._protocol.send(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        self.page.emulate_media(color_scheme="dark" if dark else "light")

    def visit(self, url: str) -> None:
        """Load a page, its scripts, mathematics and fonts."""
        self.requests.clear()
        self.complaints.clear()
        self.page.goto(url)
        self.run(
            "(window.MathJax?.startup?.promise ?? Promise.resolve())"
            ".then(() => document.fonts.ready).then(() => true)"
        )

    def run(self, expression: str) -> object:
        """The value of a JavaScript expression, promises awaited."""
        return self.page.evaluate(expression)

    def wait_until(self, expression: str) -> None:
        """Wait for a JavaScript expression to be true, at most ten seconds, on the next page too.

        Raises:
            playwright.sync_api.TimeoutError: it stayed false.
        """
        self.page.wait_for_function(expression, timeout=10_000)

    def press(self, key: str) -> None:
        """One key, as `ArrowRight`."""
        self.page.keyboard.press(key)

    def violations(self, tags: list[str], outside: str) -> list[str]:
        """What axe-core finds wrong with the page, one line a rule.

        Args:
            tags: rules, and sets of them.
            outside: selector of what is left out.
        """
        # It would ask for the style sheets again, which a page from a file may not.
        options = {"runOnly": tags, "resultTypes": ["violations"], "preload": False}
        found = Axe().run(self.page, context={"exclude": [[outside]]}, options=options)
        return [
            f"{rule['id']}: "
            + " | ".join(
                f"{' '.join(map(str, node['target']))} {node['failureSummary'].splitlines()[1]}"
                for node in rule["nodes"][:3]
            )
            for rule in found.response["violations"]
        ]

    def picture(self, path: Path, whole: bool = True) -> None:
        """Save what the page looks like, its whole length or the window."""
        self.page.screenshot(path=path, full_page=whole)

    def close(self) -> None:
        """End the browser."""
        self._browser.close()
        self._playwright.stop()
        self._home.cleanup()
