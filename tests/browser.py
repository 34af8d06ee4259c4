"""A headless Chromium, driven over the pipe that it offers for debugging: real clicks and keys.

The protocol is https://chromedevtools.github.io/devtools-protocol/: JSON messages, each ended by a
zero byte.
"""

import base64
import fcntl
import json
import os
import shutil
import subprocess

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
KEYS = {"ArrowRight": 39, "ArrowDown": 40, "Tab": 9, "Escape": 27, " ": 32}  # their codes


def find_chromium():
    """What $CHROMIUM names, or else one of the usual names that is there, or None."""
    if "CHROMIUM" in os.environ:
        return os.environ["CHROMIUM"]
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One page. ``errors`` collects what it says in the console as an error, and its exceptions."""

    def __init__(self, chromium, profile):
        """Starts the browser, with its profile in the folder ``profile``."""
        self.errors = []
        self._last_id = 0
        to_browser, self._writer = os.pipe()
        self._reader, from_browser = os.pipe()
        # It reads from 3 and writes to 4, whatever these are here.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (to_browser, from_browser)]
        arguments = ["--headless", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]
        if os.geteuid() == 0:
            arguments.append("--no-sandbox")  # which root may not have
        self._process = subprocess.Popen(
            [chromium, *arguments, f"--user-data-dir={profile}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=lambda: (os.dup2(ends[0], 3), os.dup2(ends[1], 4)),
        )
        for end in (to_browser, from_browser, *ends):
            os.close(end)
        self._buffer = b""
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self):
        self._process.kill()
        self._process.wait()
        os.close(self._reader)
        os.close(self._writer)

    def call(self, method, **parameters):
        """Calls a method of the protocol and returns its result."""
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._writer, data) :]
        while True:
            answer = self._receive()
            if answer.get("id") == self._last_id:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def open(self, url, *, width=1280, height=900, touch=False, dark=False):
        """Opens a page in a window of this size and waits until it has run."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if touch else 1,
            mobile=touch,
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        self.call("Page.navigate", url=url)
        self.wait_for_load()

    def run(self, expression):
        """The value of a JavaScript expression, after the page has drawn what is waiting."""
        frame = "await new Promise(done => requestAnimationFrame(() => setTimeout(done)))"
        result = self.call(
            "Runtime.evaluate",
            expression=f"(async () => {{ {frame}; return ({expression}); }})()",
            awaitPromise=True,
            returnByValue=True,
        )
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"]["exception"]["description"])
        return result["result"].get("value")

    def move(self, x, y):
        """Moves the mouse there, in CSS pixels of the window."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x, y):
        self.move(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def tap(self, x, y):
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def press(self, key):
        code = {"key": key, "windowsVirtualKeyCode": KEYS[key]}
        if key == " ":
            code["text"] = " "
        self.call("Input.dispatchKeyEvent", type="keyDown", **code)
        self.call("Input.dispatchKeyEvent", type="keyUp", **code)

    def screenshot(self, file, *, whole=False):
        """Writes a PNG of the window, or of the whole page."""
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        with open(file, "wb") as output:
            output.write(base64.b64decode(picture["data"]))

    def wait_for_load(self):
        """Waits until the page that is being opened has run."""
        while self._receive().get("method") != "Page.loadEventFired":
            pass

    def _receive(self):
        while b"\0" not in self._buffer:
            data = os.read(self._reader, 1 << 20)
            if not data:
                raise RuntimeError("the browser has ended")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(message)
        parameters = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif message.get("method") == "Runtime.consoleAPICalled" and parameters["type"] in (
            "error",
            "warning",
            "assert",
        ):
            self.errors.append(str(parameters["args"]))
        elif message.get("method") == "Log.entryAdded":
            self.errors.append(parameters["entry"]["text"])
        return message
