#!/usr/bin/env python3
"""The Debian package on a machine of its own: a container with Debian 12 and systemd as its first process.

    package.py                       needs systemd/package, mmdebstrap, systemd-nspawn and root

Installed, configured, started, reloaded, hung, upgraded while orders wait, removed, installed again, purged; with a till on a serial port and a
real Kafka behind a line that is dead most of the time. The container shares this machine's network and nothing else. What it cannot show are the
kernel's limits on devices and memory: a container has not got them to give.
"""

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time

import debian
import kafka_cluster
import parts

parts.with_packages("mqtt")
import sarama  # noqa: E402
import terminals  # noqa: E402

GATEWAY = "store-042"
EXPOSURE_MAX = 1.5
WATCHDOG_S = 3


class Machine(parts.Part):
    """A Debian that is switched on."""

    def __init__(self, folder, devices):
        self.root = pathlib.Path(folder) / "root"
        subprocess.run(["cp", "-a", debian.root(), self.root], check=True)
        binds = [f"--bind={ours}:{theirs}" for ours, theirs in devices.items()]
        options = ["--quiet", "--register=no", "--keep-unit", "--console=pipe", "-D", self.root, *binds, "--boot"]
        super().__init__("machine", [parts.tool("systemd-nspawn"), *options], folder)

    def start(self):
        super().start()
        parts.until("the machine has started", self._is_up, limit_s=60)
        return self

    def _first_process(self):
        pid = self.process.pid
        return pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]

    def _is_up(self):
        with contextlib.suppress(IndexError):
            return self.run("systemctl", "is-system-running", check=False) in ("running", "degraded")

    def run(self, *command, check=True):
        """What a command prints there, both streams."""
        inside = ["nsenter", "--all", "--target", self._first_process(), "--", *map(str, command)]
        done = subprocess.run(inside, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
        if check and done.returncode:
            raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout.strip()

    def copy(self, file):
        """Copies a file into it, and gives its path there."""
        shutil.copy(file, self.root / debian.HANDED)
        return f"/{debian.HANDED}/{pathlib.Path(file).name}"

    def unit(self, name):
        """A property of the unit."""
        return self.run("systemctl", "show", "--value", "-p", name, "dumbwaiter")

    def journal(self):
        return self.run("journalctl", "-u", "dumbwaiter", "-o", "cat", "--no-pager")

    def kill(self):
        if self.is_running():
            with contextlib.suppress(OSError, IndexError, AssertionError):
                self.run("systemctl", "poweroff", check=False)
            try:
                self.process.wait(parts.STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                super().kill()


class Daemon(parts.Gateway):
    """The daemon in the machine, spoken to from outside."""

    def __init__(self, port):
        self.port = port


def story(machine, kafka, till, folder):
    old, new = debian.package("0.1.0-1~old", folder), debian.package("0.1.0-1", folder)
    lintian = [parts.tool("lintian"), "--allow-root", "--fail-on", "error", new]
    shown = subprocess.run(lintian, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert shown.returncode == 0, shown.stdout
    step("lintian finds no error")

    said = machine.run("dpkg", "-i", machine.copy(old))
    assert "has no config yet" in said, said
    assert machine.run("systemctl", "is-enabled", "dumbwaiter") == "enabled"
    assert machine.unit("ActiveState") == "inactive", "without a config it does not start"
    assert "dumbwaiter terminal" in machine.run("bash", "-c", "zcat /usr/share/man/man1/dumbwaiter.1.gz | tr -d '\\\\'").replace("-", " ")
    step("installed, and waits for a config")

    gateway = Daemon(parts.free_port())
    folder_there = machine.root / "etc" / "dumbwaiter"
    secret = folder_there / "mqtt.password"
    secret.write_text("known to the daemon alone")
    secret.chmod(0o600)
    configure(machine, gateway, kafka)
    machine.run("systemd-tmpfiles", "--create", "dumbwaiter.conf")
    machine.run("systemctl", "start", "dumbwaiter")
    # Started means that it answers: nothing is waited for here. A new store takes no orders until it has looked for its own in Kafka.
    assert gateway.ask("GET", "/health")[0] == 200
    parts.until("it takes orders, Kafka or not", lambda: gateway.ask("GET", "/ready")[0] == 200, limit_s=30)
    main_pid = machine.unit("MainPID")
    status = machine.run("cat", f"/proc/{main_pid}/status")
    user = machine.run("id", "-u", "dumbwaiter")
    assert re.search(rf"^Uid:\s+{user}\s", status, re.M) and user != "0", status
    assert machine.run("stat", "-c", "%U %a", "/var/lib/private/dumbwaiter") == "dumbwaiter 700"
    assert "known to" not in machine.journal()
    assert not any("mqtt.password" in line for line in machine.journal().splitlines()), machine.journal()
    exposure = float(re.search(r"exposure level for \S+: ([\d.]+)", machine.run("systemd-analyze", "security", "--no-pager", "dumbwaiter"))[1])
    assert exposure <= EXPOSURE_MAX, exposure
    step(f"answers when started, as a user of its own, exposed {exposure}")

    stored = {f"waiting-{n}": gateway.order(key=f"waiting-{n}") for n in range(40)}
    till.start()
    parts.until("the till's orders are stored", lambda: len(till.answered) >= 10, limit_s=60)
    till.stop()
    on_the_till = {request["requestId"]: answer for request, answer in till.answered}
    step("takes orders over HTTP and a serial port")

    bundle = machine.root / debian.HANDED / "bundle.txt"
    said = machine.run("dumbwaiter", "doctor", "--bundle", f"/{debian.HANDED}/bundle.txt", check=False)
    for told in ("the config of store-042 is right", "events wait; Kafka: down", "/dev/ttyUSB0 is till-1's", "mqtt.url: 127.0.0.1:1 does not answer"):
        assert told in said, f"{told} is not in\n{said}"
    text = bundle.read_text()
    assert secret.read_text() not in text and "==== /api/v1/state" in text and "dumbwaiter.service" in text, text
    assert not any(key in text for key in stored), "a bundle names no order"
    step("the doctor says what is wrong, and its bundle holds no secret")

    waiting = len(stored) + len(on_the_till)
    all_wait(gateway, waiting)
    configure(machine, gateway, kafka, board="[board]\nready_minutes = 7\n")
    machine.run("systemctl", "reload", "dumbwaiter")
    parts.until("the reload is told of", lambda: "reloaded" in machine.journal())
    configure(machine, gateway, kafka, board="[board]\nready_minute = 7\n")
    machine.run("systemctl", "reload", "dumbwaiter")
    parts.until("the wrong key is told of", lambda: "was not reloaded" in machine.journal() and "ready_minute" in machine.journal())
    assert machine.unit("MainPID") == main_pid
    all_wait(gateway, waiting)
    configure(machine, gateway, kafka)
    step("reloads, and keeps what it has when the new config is wrong")

    drop_in = debian.Drop(machine.root)
    drop_in.write(f"WatchdogSec={WATCHDOG_S}")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "dumbwaiter")
    hung = machine.unit("MainPID")
    machine.run("sh", "-c", f"kill -STOP {hung}")
    parts.until("the watchdog has replaced it", lambda: machine.unit("MainPID") not in (hung, "0"), limit_s=60)
    parts.until("it is ready again", lambda: gateway.ask("GET", "/ready")[0] == 200)
    assert machine.unit("NRestarts") == "1"
    all_wait(gateway, waiting)
    step("is replaced when it hangs")

    machine.run("dpkg", "-i", machine.copy(new))
    assert gateway.ask("GET", "/ready")[0] == 200
    all_wait(gateway, waiting)
    assert again(gateway, stored)
    step(f"upgraded while {waiting} orders wait")

    configure(machine, gateway, kafka, board="[board]\nready_minute = 7\n")
    machine.run("systemctl", "restart", "dumbwaiter", check=False)
    parts.until("it has given up", lambda: machine.unit("ActiveState") == "failed")
    assert machine.unit("Result") == "exit-code" and "ready_minutes" in machine.journal()
    configure(machine, gateway, kafka)
    machine.run("systemctl", "reset-failed", "dumbwaiter")
    step("does not start with a wrong config, again and again")

    said = machine.run("dpkg", "-r", "dumbwaiter")
    assert "a purge deletes it" in said and not (machine.root / "usr" / "bin" / "dumbwaiter").exists()
    machine.run("dpkg", "-i", machine.copy(new))
    all_wait(gateway, waiting)
    assert again(gateway, stored)
    step("removed and installed again: nothing is forgotten")

    kafka.mend_line()
    parts.until("nothing waits any more", lambda: queued(gateway) == 0, limit_s=90)
    delivered = sorted(record["headers"]["request-id"] for record in sarama.read(kafka.brokers(), "order-events"))
    assert delivered == sorted([*stored, *on_the_till]), f"{len(delivered)} of {len(stored) + len(on_the_till)}"
    step(f"delivers {len(delivered)}, each once")

    drop_in.remove()
    machine.run("dpkg", "--purge", "dumbwaiter")
    left = machine.run("find", "/etc", "/var/lib", "-name", "*dumbwaiter*", "-not", "-path", "/var/lib/dpkg/*")
    assert not left, left
    step("purged: nothing is left")


def configure(machine, gateway, kafka, board=""):
    (machine.root / "etc" / "dumbwaiter" / "dumbwaiter.toml").write_text(
        f'[gateway]\nid = "{GATEWAY}"\nrestaurant_ids = ["restaurant-789"]\ntime_zone = "Europe/Berlin"\n'
        f'[http]\nlisten = "127.0.0.1:{gateway.port}"\n'
        f'[[serial]]\nterminal = "till-1"\npath = "/dev/ttyUSB0"\nframing = "json"\n'
        f'[mqtt]\nurl = "mqtt://127.0.0.1:1"\nusername = "dumbwaiter"\npassword_file = "mqtt.password"\n'
        f'[kafka]\nbrokers = "{kafka.lines()}"\n{board}'
    )


def queued(gateway):
    return gateway.ask("GET", "/health")[1]["queued"]


def all_wait(gateway, count):
    """The figure is up to half a second old."""
    parts.until(f"{count} orders wait", lambda: queued(gateway) == count)


def again(gateway, stored):
    """Every order is known, under the seq that it had."""
    answers = {key: gateway.order(key=key) for key in stored}
    return all(answer["duplicate"] and answer["seq"] == stored[key]["seq"] for key, answer in answers.items())


passed = 0


def step(what):
    global passed
    passed += 1
    print(f"{time.monotonic() - BEGAN:6.1f} s  {what}", flush=True)


BEGAN = time.monotonic()


def main():
    till = terminals.SerialTerminal("till-1")
    # Debian's group of those who may use serial ports has this number everywhere.
    os.chown(till.path, 0, 20)
    os.chmod(till.path, 0o660)
    with tempfile.TemporaryDirectory(prefix="package-") as folder, kafka_cluster.Cluster() as kafka:
        for topic in ("order-events", "order-events-dlq", "gateway-status"):
            kafka.create_topic(topic, 3)
        kafka.cut_line()
        with Machine(folder, {till.path: "/dev/ttyUSB0"}) as machine:
            try:
                story(machine, kafka, till, folder)
            except BaseException:
                print(machine.journal()[-4000:])
                raise
    print(f"{passed} passed, 0 failed")


if __name__ == "__main__":
    main()
