#!/usr/bin/env python3
"""Disks that are full, fail, go read-only or stall, under the running daemon.

    disks.py [TEST]...

Each is a file system of its own on a loop device, so this needs root; what a device does not do on demand (an error of one system call that
passes) is injected into the live process by strace. In each the terminals go on submitting; at the end the store is opened from the disk
alone, and compared with what they heard: nothing stored is lost, nothing is doubled.
"""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import house as houses
import kafka_cluster
import parts
import terminals

MIB = 1 << 20
# As low as the config goes, so that the disks may be small.
MIN_FREE = 16 * MIB
# More than a stalled sync may take before systemd's watchdog would end the daemon (systemd/dumbwaiter.service).
STALL_S = 32
WATCHDOG_S = 30


def run(*command, check=True, **more):
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, stdin=subprocess.DEVNULL, **more)
    if check and done.returncode != 0:
        raise AssertionError(f"{command}: {done.stdout}{done.stderr}")
    return done


class Disk:
    """An ext4 file system on a loop device, mounted at `path`. A thin one gives its free blocks back to what lies below, `below`, a file system in
    memory that can be filled: from then on writes to new blocks fail, as on a card whose spare cells are used up."""

    def __init__(self, size_mib, inodes=None, thin=False):
        self.size, self.inodes, self.thin = size_mib * MIB, inodes, thin
        self.device = None

    def __enter__(self):
        self._scratch = tempfile.TemporaryDirectory(prefix="disk-")
        self._undo = contextlib.ExitStack()
        self._undo.callback(self._scratch.cleanup)
        folder = pathlib.Path(self._scratch.name)
        self.path, self.below = folder / "mounted", folder / "below"
        self.path.mkdir()
        self.below.mkdir()
        try:
            if self.thin:
                run("mount", "-t", "tmpfs", "-o", f"size={self.size + 4 * MIB}", "tmpfs", self.below)
                self._undo.callback(run, "umount", self.below)
            image = self.below / "image"
            image.touch()
            os.truncate(image, self.size)
            inodes = ["-N", self.inodes] if self.inodes else []
            # No blocks for root alone: to a full disk everybody is the same.
            run(parts.tool("mkfs.ext4"), "-q", "-F", "-m", 0, "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", *inodes, image)
            # Written in full: the journal must not lie in blocks that are yet to be found.
            image.write_bytes(image.read_bytes())
            self.device = run(parts.tool("losetup"), "--find", "--show", image).stdout.strip()
            self._undo.callback(run, parts.tool("losetup"), "--detach", self.device)
            self.mount()
            self._undo.callback(self.unmount)
        except BaseException:
            self._undo.close()
            raise
        return self

    def __exit__(self, *_):
        self._undo.close()

    def mount(self):
        # As Debian mounts its disks.
        run("mount", "-o", "errors=remount-ro", self.device, self.path)

    def unmount(self):
        """Also empties what the system holds of it in memory."""
        if os.path.ismount(self.path):
            parts.until("the file system can be unmounted", lambda: run("umount", self.path, check=False).returncode == 0)

    def repair(self):
        """As an operator would, with the daemon stopped."""
        self.unmount()
        done = run(parts.tool("e2fsck"), "-p", "-f", self.device, check=False)
        assert done.returncode in (0, 1), f"{done.stdout}{done.stderr}"
        self.mount()

    def go_read_only(self):
        """As ext4 does on an error of its own."""
        pathlib.Path(f"/sys/fs/ext4/{pathlib.Path(self.device).name}/trigger_fs_error").write_text("1")

    def freeze(self):
        run(parts.tool("fsfreeze"), "--freeze", self.path)

    def thaw(self):
        run(parts.tool("fsfreeze"), "--unfreeze", self.path, check=False)

    def fill(self, leave=0):
        """Somebody else takes all but so many bytes."""
        return fill(self.path / "others", leave)

    def take_inodes(self):
        """Somebody else makes files until no more can be made."""
        folder = self.path / "others"
        folder.mkdir()
        with contextlib.suppress(OSError):
            for number in range(1 << 20):
                (folder / str(number)).touch()
        assert os.statvfs(self.path).f_favail == 0

    def wear_out(self):
        """Writes to blocks that were never used fail from now on. Gives the file that is in the way."""
        assert self.thin
        run(parts.tool("fstrim"), self.path)
        return fill(self.below / "others", 0)


def fill(path, leave):
    with open(path, "wb", buffering=0) as file:
        room = os.statvfs(path.parent)
        with contextlib.suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, max(room.f_bavail * room.f_frsize - leave, 1))
        if leave == 0:
            with contextlib.suppress(OSError):
                while file.write(bytes(4096)):
                    pass
    return path


class Restaurant:
    """A daemon on a disk, and terminals that never give up. Without Kafka, so that all is still there at the end."""

    def __init__(self, disk, config="", **more):
        self.disk = disk
        self.gateway = parts.Gateway(config, data=disk.path / "data", store=f"min_free = {MIN_FREE}", **more)
        self.till = terminals.SerialTerminal("till-1")
        with open(self.gateway.config, "a") as config:
            config.write(f'[[serial]]\nterminal = "till-1"\npath = "{self.till.path}"\nframing = "json"\n')
        self.terminals = [self.till, *(terminals.HttpTerminal(f"app-{n}", self.gateway) for n in (1, 2))]
        self.started = False

    def __enter__(self):
        self.gateway.__enter__()
        return self

    def __exit__(self, *failure):
        self.gateway.__exit__(*failure)

    def opens(self):
        for each in self.terminals:
            each.start()
        self.serves()
        return self

    def answered(self):
        return [len(each.answered) for each in self.terminals]

    def serves(self, count=5, limit_s=60):
        """Every terminal hears *stored* so many times more."""
        aims = [(each, len(each.answered) + count) for each in self.terminals]
        for terminal, aim in aims:
            parts.until(f"{terminal.name} is served", lambda: len(terminal.answered) >= aim or terminal.broken, limit_s)
            if terminal.broken:
                raise terminal.broken

    def health(self):
        return self.gateway.ask("GET", "/health")[1]

    def says(self, **wanted):
        """What /health says within a while."""
        parts.until(f"/health says {wanted}", lambda: wanted.items() <= self.health().items(), limit_s=40)

    def metric(self, name):
        text = self.gateway.ask("GET", "/metrics")[1]
        return float(re.search(rf"^dumbwaiter_{name} (\S+)$", text, re.MULTILINE)[1])

    def refuses(self, code, status, limit_s=30):
        """A new order is refused with this code, and a time."""
        line = {"foodId": "f", "foodName": "Tea", "price": 1, "quantity": 1, "discount": 0}

        def refused():
            got, answer = self.gateway.ask("POST", "/api/v1/orders", {"userId": "u", "orderDetails": [line]}, {"X-Terminal": "tester"})
            if got in (200, 201):
                # It belongs to the ledger as much as any other.
                self.extra = getattr(self, "extra", []) + [answer]
                return False
            return (got, answer["code"], answer["retryAfterMs"] > 0) == (status, code, True)

        parts.until(f"a new order is refused with {status} {code}", refused, limit_s)

    def logged(self, text):
        parts.until(f"the log says {text!r}", lambda: text in self.gateway.log.read_text(errors="replace"), limit_s=40)

    def closes(self):
        """Ends all, empties the system's memory of the disk, and compares what is on it with what the terminals heard."""
        for each in self.terminals:
            each.stop()
        assert self.gateway.stop() == 0
        self.compare()

    def compare(self):
        self.disk.unmount()
        self.disk.mount()
        check = run(parts.daemon(), "store", "check", "--data-dir", self.gateway.data, check=False)
        assert check.returncode == 0, check.stdout + check.stderr
        lines = run(parts.daemon(), "store", "export", "--data-dir", self.gateway.data).stdout.splitlines()
        found = houses.ledger([record(json.loads(line)) for line in lines], self.terminals)
        print(f"   {found}", flush=True)
        # What another than these terminals submitted is nobody's here; an order that was refused half way stays half.
        assert not any(found[what] for what in ("lost", "doubled", "outOfOrder", "missingSeqs", "unlike")), found


def record(line):
    """A line of `store export` as a reader of Kafka would have got it."""
    headers = {"gateway-epoch": line["epoch"], "gateway-seq": line["seq"], "terminal": line["terminal"], "request-id": line["requestId"]}
    return {"headers": headers, "key": line["event"]["orderId"], "partition": 0, "offset": line["seq"], "value": json.dumps(line["event"])}


@contextlib.contextmanager
def injected(gateway, *faults):
    """strace puts these errors into the live daemon: "fdatasync:error=EIO"."""
    names = ",".join(sorted({name for fault in faults for name in fault.split(":")[0].split(",")}))
    injections = [word for fault in faults for word in ("-e", f"inject={fault}")]
    command = [parts.tool("strace"), "-f", "-qq", "-o", "/dev/null", "-e", f"trace={names}", *injections, "-p", str(gateway.process.pid)]
    tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        parts.until("strace holds the daemon", lambda: f"TracerPid:\t{tracer.pid}" in status(gateway.process.pid))
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(30)


def status(pid):
    return pathlib.Path(f"/proc/{pid}/status").read_text()


class Watchdog:
    """systemd's end of the notifications: how long the daemon was silent."""

    def __init__(self, folder):
        self.path = pathlib.Path(folder) / "notify"
        self.longest_s = 0.0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._last = None
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        while True:
            if "WATCHDOG=1" in self._socket.recv(4096).decode().splitlines():
                now = time.monotonic()
                self.longest_s = max(self.longest_s, now - (self._last or now))
                self._last = now


def full_refuses_drains_and_accepts_again():
    """The disk fills under the daemon while Kafka is away: `full`. Kafka comes: it drains. Room comes: it accepts, all by itself."""
    with Disk(96) as disk, kafka_cluster.Cluster() as kafka:
        kafka.create_topic(houses.TOPIC)
        kafka.cut_line()
        with Restaurant(disk, f'[kafka]\nbrokers = "{kafka.lines()}"\n[board]\nhours = 12\n') as shop:
            shop.opens()
            others = disk.fill(leave=MIN_FREE - MIB)
            shop.refuses("full", 503)
            shop.says(status="degraded", disk="well")
            assert shop.metric("accepting") == 0
            shop.logged("no room on the disk: free some")
            queued = shop.health()["queued"]
            assert queued > 0
            kafka.mend_line()
            parts.until("it drains though it is full", lambda: shop.health()["queued"] == 0, limit_s=60)
            others.unlink()
            shop.serves()
            shop.says(status="healthy")
            for each in shop.terminals:
                each.stop()
            parts.until("the backlog is gone", lambda: shop.health()["queued"] == 0, limit_s=60)
            assert not shop.gateway.errors(), shop.gateway.errors()
            found = houses.ledger(houses.sarama.read(kafka.brokers(), houses.TOPIC), shop.terminals)
            assert not any(found[what] for what in ("lost", "doubled", "outOfOrder", "unlike")), found
            print(f"   {found}", flush=True)


def it_starts_on_a_full_disk():
    with Disk(96) as disk, Restaurant(disk) as shop:
        shop.opens()
        shop.gateway.kill()
        others = disk.fill()
        parts.Part.start(shop.gateway)
        shop.refuses("full", 503)
        assert not (shop.gateway.data / "ballast").exists(), "the ballast is what it starts on"
        others.unlink()
        shop.serves()
        shop.closes()


def it_runs_and_starts_without_inodes():
    with Disk(96, inodes=64) as disk, Restaurant(disk) as shop:
        shop.opens()
        disk.take_inodes()
        shop.refuses("full", 503)
        shop.logged("inodes")
        shop.gateway.kill()
        parts.Part.start(shop.gateway)
        shop.refuses("full", 503)
        run("rm", "-r", disk.path / "others")
        shop.serves()
        shop.closes()


def worn_out_cells_lose_nothing():
    """Writes of the device fail: what the system then counts as written is not on the disk, whatever memory shows. Some writes arrive in part
    and are said to have arrived whole: a loop device does that whose file has room for the beginning only."""
    with Disk(96, thin=True) as disk, Restaurant(disk) as shop:
        shop.opens()
        others = disk.wear_out()
        shop.logged("a commit failed")
        shop.logged("the store cannot be opened again")
        others.unlink()
        shop.serves()
        shop.closes()


def errors_of_the_disk_that_pass():
    """Each call of a commit fails for a while, and so does opening again: `busy` meanwhile, and by itself all is well again."""
    with Disk(96) as disk, Restaurant(disk) as shop:
        shop.opens()
        for calls in ("fdatasync", "pwrite64", "fdatasync,fsync,pwrite64,openat:error=EROFS"):
            fault = calls if ":" in calls else f"{calls}:error=EIO"
            with injected(shop.gateway, fault):
                shop.refuses("busy", 503)
                shop.says(status="degraded", disk="failing")
                assert (shop.metric("store_up"), shop.metric("accepting")) == (0, 0)
                assert shop.gateway.ask("GET", "/ready")[0] == 503
            shop.serves()
            shop.says(status="healthy", disk="well")
            print(f"   ok {fault}", flush=True)
        shop.closes()


def a_read_only_disk_is_mended_and_mounted_again():
    """ext4 goes read-only on an error of its own. A restart would not help: the daemon stays, serves the boards and says what to do."""
    with Disk(96) as disk, Restaurant(disk) as shop:
        shop.opens()
        disk.go_read_only()
        shop.refuses("busy", 503)
        shop.says(status="degraded", disk="failing")
        (sentence,) = shop.health()["attention"]
        assert "if the disk went read-only after errors (see dmesg), stop the daemon, check the file system" in sentence, sentence
        shop.logged(sentence)
        assert shop.gateway.ask("GET", "/api/v1/orders")[0] == 200, "what is in the kitchen is still shown"
        assert shop.gateway.is_running()
        shop.gateway.stop()
        disk.repair()
        shop.gateway.start()
        shop.serves()
        shop.closes()


def a_sync_that_stalls_is_waited_for():
    with tempfile.TemporaryDirectory(prefix="watchdog-") as folder, Disk(96) as disk:
        watchdog = Watchdog(folder)
        os.environ["NOTIFY_SOCKET"] = str(watchdog.path)
        with contextlib.ExitStack() as undo:
            undo.callback(os.environ.pop, "NOTIFY_SOCKET")
            shop = undo.enter_context(Restaurant(disk))
            undo.callback(disk.thaw)
            shop.opens()
            since = time.monotonic()
            disk.freeze()
            shop.says(status="degraded", disk="stalled")
            stored = shop.answered()
            shop.logged("the disk does not answer")
            assert shop.metric("store_up") == 0
            parts.until("the stall is long", lambda: time.monotonic() - since >= STALL_S, limit_s=STALL_S + 5)
            assert shop.metric("store_busy_seconds") > WATCHDOG_S - 2
            assert shop.answered() == stored, "nothing is stored without a sync"
            disk.thaw()
            shop.serves()
            shop.says(status="healthy", disk="well")
            assert watchdog.longest_s < WATCHDOG_S / 2, f"systemd heard nothing for {watchdog.longest_s:.1f} s"
            assert not shop.gateway.errors(), shop.gateway.errors()
            shop.closes()


TESTS = [
    it_starts_on_a_full_disk,
    it_runs_and_starts_without_inodes,
    errors_of_the_disk_that_pass,
    a_read_only_disk_is_mended_and_mounted_again,
    a_sync_that_stalls_is_waited_for,
    full_refuses_drains_and_accepts_again,
    worn_out_cells_lose_nothing,
]


def main():
    wanted = [test for test in TESTS if test.__name__ in (sys.argv[1:] or [each.__name__ for each in TESTS])]
    for test in wanted:
        began = time.monotonic()
        test()
        print(f"ok {test.__name__} in {time.monotonic() - began:.1f} s", flush=True)
    print(f"{len(wanted)} passed, 0 failed")


if __name__ == "__main__":
    main()
