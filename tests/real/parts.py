"""What the tests on real parts share: waiting, ports, packages from PyPI and of Node, and the daemon as a process.

Nothing here sleeps and hopes: `until` waits for a condition, with a deadline.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import venv

ROOT = pathlib.Path(__file__).resolve().parents[2]
PARTS = ROOT / "target" / "test-parts"
STOP_LIMIT_S = 30


def until(what, condition, limit_s=20):
    """Waits until `condition()` is true and returns what it returned; fails with `what` otherwise."""
    end = time.monotonic() + limit_s
    while True:
        with contextlib.suppress(OSError):
            if value := condition():
                return value
        if time.monotonic() > end:
            raise TimeoutError(f"not within {limit_s} s: {what}")
        time.sleep(0.02)


def tool(name):
    """The path of a program that must be installed."""
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if path is None:
        raise SystemExit(f"{name} is not installed: .ci/run says which package has it")
    return path


def packages(name):
    """The programs of the packages in requirements-NAME.txt, installed once into an environment of their own."""
    wanted = pathlib.Path(__file__).with_name(f"requirements-{name}.txt")
    folder = PARTS / f"venv-{name}"
    mark = folder / "installed.txt"
    if not mark.exists() or mark.read_text() != wanted.read_text():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", wanted]
        subprocess.run(pip, check=True, stdin=subprocess.DEVNULL)
        mark.write_text(wanted.read_text())
    return folder / "bin"


def node_file(package, version, file):
    """The text of a file of a package from the Node registry, fetched once. Nothing of it is run here."""
    folder = PARTS / f"{package}-{version}"
    if not (folder / "package" / file).exists():
        folder.mkdir(parents=True, exist_ok=True)
        pack = [tool("npm"), "pack", "--silent", "--pack-destination", folder, f"{package}@{version}"]
        subprocess.run(pack, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        with tarfile.open(folder / f"{package}-{version}.tgz") as packed:
            packed.extract(f"package/{file}", folder, filter="data")
    return (folder / "package" / file).read_text()


def with_packages(name):
    """Runs the calling script again, once, inside the environment of `packages(name)`."""
    python = packages(name) / "python"
    if pathlib.Path(sys.prefix) != python.parents[1]:
        os.execv(python, [str(python), *sys.argv])


def free_port():
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def connects(port):
    """Whether somebody listens on that port."""
    with socket.create_connection(("127.0.0.1", port), 1):
        return True


def daemon():
    """The daemon's binary. DUMBWAITER names another one than the debug build."""
    path = pathlib.Path(os.environ.get("DUMBWAITER", ROOT / "target" / "debug" / "dumbwaiter"))
    if not path.exists():
        raise SystemExit(f"{path} is not there: cargo build")
    return path


class Part:
    """A program of the test. What it prints goes into a file, which is shown when the test fails."""

    def __init__(self, name, command, folder):
        self.name = name
        self.command = [str(each) for each in command]
        self.log = pathlib.Path(folder) / f"{name}.log"
        self.process = None

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return self

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        """As a power cut would."""
        if self.is_running():
            self.process.kill()
            self.process.wait()

    def stop(self):
        """As systemd would; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"{self.name} did not stop within {STOP_LIMIT_S} s") from None

    def reload(self):
        """As `systemctl reload` does."""
        self.process.send_signal(signal.SIGHUP)

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            # Nobody else ends it: one that lives on would take the ports of the next test.
            self.kill()
            raise

    def __exit__(self, failure, *_):
        self.kill()
        if failure is not None and self.log.exists():
            print(f"---- {self.name}:\n{self.log.read_text(errors='replace')[-6000:]}", file=sys.stderr)


class Mosquitto(Part):
    """mosquitto as systemd/mosquitto/ configures it, on a free port, with `users` whose passwords are `password(user)`."""

    def __init__(self, users, folder):
        self.folder = pathlib.Path(folder) / "mosquitto"
        self.port = free_port()
        (self.folder / "conf.d").mkdir(parents=True)
        for name, text in self._files(users).items():
            (self.folder / name).write_text(text)
        subprocess.run([tool("mosquitto_passwd"), "-U", self.folder / "dumbwaiter.passwd"], check=True)
        # mosquitto gives up root's rights, and must still reach its files.
        pathlib.Path(folder).chmod(0o755)
        for each in [self.folder, *self.folder.rglob("*")]:
            shutil.chown(each, "mosquitto")
        super().__init__("mosquitto", [tool("mosquitto"), "-c", self.folder / "mosquitto.conf"], folder)

    def _files(self, users):
        shipped = ROOT / "systemd" / "mosquitto"
        config = (shipped / "dumbwaiter.conf").read_text()
        ours = config.replace("listener 1883", f"listener {self.port}").replace("/etc/mosquitto", str(self.folder))
        if f"listener {self.port}" not in ours or ours.count(str(self.folder)) < 2:
            raise AssertionError("the shipped config names neither its port nor its files as it did")
        return {
            # As Debian's own does.
            "mosquitto.conf": f"persistence true\npersistence_location {self.folder}/\ninclude_dir {self.folder}/conf.d\n",
            "conf.d/dumbwaiter.conf": ours,
            "dumbwaiter.acl": (shipped / "dumbwaiter.acl").read_text(),
            "dumbwaiter.passwd": "".join(f"{user}:{password(user)}\n" for user in users),
        }


def password(user):
    return f"secret-of-{user}"


class Gateway(Part):
    """The daemon over a data folder of its own, on a free port. `config` is TOML beside [gateway], [store], [http] and [log]; `data` another folder,
    `store` and `http` more keys of [store] and [http], and `listen` another address than this computer's own."""

    def __init__(self, config="", gateway="store-042", restaurant="restaurant-789", data=None, store="", http="", listen="127.0.0.1"):
        self._scratch = tempfile.TemporaryDirectory(prefix="dumbwaiter-")
        self.folder = pathlib.Path(self._scratch.name)
        self.gateway = gateway
        self.data = pathlib.Path(data or self.folder / "data")
        self.port = free_port()
        self.config = self.folder / "dumbwaiter.toml"
        self.config.write_text(
            f'[gateway]\nid = "{gateway}"\nrestaurant_ids = ["{restaurant}"]\n'
            f'[store]\ndata_dir = "{self.data}"\n{store}\n'
            f'[http]\nlisten = "{listen}:{self.port}"\n{http}\n'
            f'[log]\nformat = "json"\n{config}\n'
        )
        super().__init__("gateway", [daemon(), "run", "--config", self.config], self.folder)

    def start(self):
        super().start()

        def ready():
            if not self.is_running():
                raise RuntimeError(f"the gateway ended with {self.process.returncode}:\n{self.log.read_text()[-3000:]}")
            return self.ask("GET", "/ready")[0] == 200

        until("the gateway is ready", ready)
        return self

    def __exit__(self, *failure):
        super().__exit__(*failure)
        self._scratch.cleanup()

    def url(self, path="/"):
        return f"http://127.0.0.1:{self.port}{path}"

    def ask(self, method, path, body=None, headers=None):
        """(status, JSON or text) of one call."""
        headers = dict(headers or {})
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(self.url(path), data=data, method=method, headers=headers)
        try:
            answer = urllib.request.urlopen(request, timeout=30)
        except urllib.error.HTTPError as refused:
            answer = refused
        with answer:
            text = answer.read().decode()
            is_json = "json" in answer.headers.get("Content-Type", "")
            return answer.status, json.loads(text) if is_json and text else text

    def order(self, food="Pizza Margherita", quantity=1, key=None, terminal="till-1", **fields):
        """Submits an order and returns the answer; fails unless it is stored."""
        line = {"foodId": "food-001", "foodName": food, "price": 12.50, "quantity": quantity, "discount": 0}
        headers = {"X-Terminal": terminal} | ({"Idempotency-Key": key} if key else {})
        return self._stored("/api/v1/orders", {"userId": "user-456", "orderDetails": [line], **fields}, headers)

    def event(self, order, kind, data, terminal="till-1"):
        """Submits an event for an order and returns the answer; fails unless it is stored."""
        return self._stored(f"/api/v1/orders/{order}/events", {"type": kind, "data": data}, {"X-Terminal": terminal})

    def set_status(self, order, status):
        return self.event(order, "order.state_changed", {"status": status})

    def _stored(self, path, body, headers):
        status, answer = self.ask("POST", path, body, headers)
        if status not in (200, 201):
            raise AssertionError(f"not stored: {status} {answer}")
        return answer

    def errors(self):
        """Lines of the log at level ERROR: a run with one has failed, whatever else it shows."""
        return [line for line in self.log.read_text(errors="replace").splitlines() if '"level":"ERROR"' in line]
