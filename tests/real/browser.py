"""A real browser for the tests of the pages."""

import base64
import json
import pathlib
import urllib.request

import parts

# A screen above a counter, a tablet in the kitchen, and a large screen there.
WALL = (1280, 720)
TABLET = (800, 480)
LARGE = (1920, 1080)
PHONE = (360, 740)


class Browser:
    """Headless Chromium by the WebDriver protocol."""

    def __init__(self, folder):
        self._port = parts.free_port()
        self._driver = parts.Part("chromedriver", [parts.tool("chromedriver"), f"--port={self._port}"], folder)
        self._profile = pathlib.Path(folder) / "profile"

    def __enter__(self):
        self._driver.start()
        parts.until("chromedriver is ready", lambda: self._call("GET", "/status")["ready"])
        # Without its sandbox, because tests run as root; it reads nothing but the gateway's own pages.
        options = {
            "binary": parts.tool("chromium"),
            "args": ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--user-data-dir={self._profile}"],
        }
        capabilities = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        self._session = "/session/" + self._call("POST", "/session", capabilities)["sessionId"]
        return self

    def __exit__(self, *failure):
        try:
            self._call("DELETE", self._session)
        finally:
            self._driver.__exit__(*failure)

    def _call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}{path}", method=method, data=data)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def _devtools(self, command, **parameters):
        self._call("POST", f"{self._session}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def size(self, width_and_height):
        width, height = width_and_height
        self._devtools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def open(self, url):
        self._call("POST", f"{self._session}/url", {"url": url})
        self.run("window.openedBy = 'the test'")

    def run(self, script):
        return self._call("POST", f"{self._session}/execute/sync", {"script": script, "args": []})

    def texts(self, selector):
        """The texts of what matches, as a person sees them."""
        return self.run(f"return Array.from(document.querySelectorAll({json.dumps(selector)}), e => e.textContent.trim())")

    def touch(self, x, y):
        """A finger on the glass."""
        self._devtools("Emulation.setTouchEmulationEnabled", enabled=True)
        # As one command: two may come so far apart on a busy machine that the finger presses long, which is no click.
        where = {"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y), "origin": "viewport"}
        steps = [where, {"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        finger = {"type": "pointer", "id": "finger", "parameters": {"pointerType": "touch"}, "actions": steps}
        self._call("POST", f"{self._session}/actions", {"actions": [finger]})

    def press(self, code, text=""):
        """A key, by its code on the keyboards of Windows, which is what a page's keyCode is."""
        self._devtools("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", windowsVirtualKeyCode=code, text=text)
        self._devtools("Input.dispatchKeyEvent", type="keyUp", windowsVirtualKeyCode=code)

    def type(self, key):
        """A key of WebDriver's, which moves the focus and presses buttons as a person's does."""
        steps = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._call("POST", f"{self._session}/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": steps}]})

    def tab(self):
        """The name of the tab that all this goes to."""
        return self._call("GET", f"{self._session}/window")

    def new_tab(self):
        """Opens one more tab, which all this goes to from now on."""
        self.use_tab(self._call("POST", f"{self._session}/window/new", {"type": "tab"})["handle"])

    def use_tab(self, name):
        self._call("POST", f"{self._session}/window", {"handle": name})

    def close_tab(self):
        self._call("DELETE", f"{self._session}/window")

    def was_reloaded(self):
        return self.run("return window.openedBy") != "the test"

    def picture(self, file):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(self._call("GET", f"{self._session}/screenshot")))
