#!/usr/bin/env python3
"""The limits of the unit that only a kernel of its own enforces: devices and memory, in an emulated PC with a real UART.

    limits_in_machine.py             needs systemd/package, mmdebstrap, qemu-system-x86, a kernel for virtual machines, and root

No part of the processor's help is used: it is slow, and runs everywhere.
"""

import contextlib
import json
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import time

import debian
import parts

MEMORY = 512
BOOT_LIMIT_S = 180
COMMAND_LIMIT_S = 120
REPEAT_S = 3
# A shell on the machine's third serial line. Its errors go elsewhere, or it would take itself for a person's and prompt.
SHELL = """[Unit]
Description=a shell for the test
[Service]
ExecStart=/bin/bash
StandardInput=tty-force
StandardOutput=tty
StandardError=journal
TTYPath=/dev/ttyS2
[Install]
WantedBy=multi-user.target
"""
CONFIG = """[gateway]
id = "store-042"
restaurant_ids = ["restaurant-789"]
[[serial]]
terminal = "till-1"
path = "/dev/ttyS1"
framing = "json"
[log]
format = "human"
"""


class Line:
    """The far end of one of the machine's serial lines."""

    def __init__(self, path):
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._half = b""

    def connect(self):
        self._socket.connect(str(self.path))
        return True

    def send(self, text):
        self._socket.sendall(text.encode())

    def line(self, limit_s):
        """The next line that arrives."""
        end = time.monotonic() + limit_s
        while b"\n" not in self._half:
            self._socket.settimeout(max(0.01, end - time.monotonic()))
            heard = self._socket.recv(4096)
            if not heard:
                raise OSError("the machine is off")
            self._half += heard
        line, self._half = self._half.split(b"\n", 1)
        return line.decode(errors="replace").strip("\r")


class Machine(parts.Part):
    """A PC with Debian, the package, and the test's shell."""

    def __init__(self, folder, package):
        self.folder = pathlib.Path(folder)
        self.till, self._shell = Line(self.folder / "till"), Line(self.folder / "shell")
        super().__init__("machine", self._command(self._disk(package)), folder)

    def _disk(self, package):
        root = self.folder / "root"
        subprocess.run(["cp", "-a", debian.root(), root], check=True)
        shutil.copy(package, root / debian.HANDED)
        inside = [parts.tool("systemd-nspawn"), "--quiet", "--register=no", "--keep-unit", "--console=pipe", "-D", root]
        install = [*inside, "dpkg", "-i", f"/{debian.HANDED}/{package.name}"]
        subprocess.run(install, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        (root / "etc" / "dumbwaiter" / "dumbwaiter.toml").write_text(CONFIG)
        unit = root / "etc" / "systemd" / "system" / "shell.service"
        unit.write_text(SHELL)
        wanted = unit.parent / "multi-user.target.wants"
        wanted.mkdir(exist_ok=True)
        (wanted / unit.name).symlink_to("../shell.service")
        image = self.folder / "disk"
        with open(image, "wb") as file:
            file.truncate(2 << 30)
        subprocess.run([parts.tool("mke2fs"), "-q", "-F", "-t", "ext4", "-d", root, image], check=True)
        shutil.rmtree(root)
        return image

    def _command(self, image):
        kernels = sorted(pathlib.Path("/boot").glob("vmlinuz-*-cloud-*"))
        if not kernels:
            raise SystemExit("no kernel for virtual machines: .ci/run says which package has it")
        version = kernels[-1].name.removeprefix("vmlinuz-")
        serial = [option for line in (self.till, self._shell) for option in ("-serial", f"unix:{line.path},server=on,wait=off")]
        kernel = "console=ttyS0 root=/dev/vda rw panic=-1 no_timer_check"
        return [
            *(parts.tool("qemu-system-x86_64"), "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", 2, "-m", MEMORY),
            *("-nic", "none", "-display", "none", "-monitor", "none", "-no-reboot"),
            *("-serial", f"file:{self.folder / 'console'}", *serial),
            *("-kernel", kernels[-1], "-initrd", f"/boot/initrd.img-{version}", "-append", kernel),
            *("-drive", f"file={image},format=raw,if=virtio,cache=unsafe"),
        ]

    def start(self):
        super().start()
        for line in (self.till, self._shell):
            parts.until("the machine is switched on", line.connect)
        # What is written before somebody reads is lost: a shell that is there answers one of them.
        parts.until("its shell answers", self._answers, limit_s=BOOT_LIMIT_S)
        return self

    def _answers(self):
        if not self.is_running():
            raise RuntimeError((self.folder / "console").read_text(errors="replace")[-3000:])
        self._shell.send("stty -echo -onlcr; echo here\n")
        with contextlib.suppress(TimeoutError):
            while self._shell.line(1) != "here":
                pass
            return True
        return False

    def run(self, command, check=True):
        """What a shell command prints there, both streams."""
        mark = f"end-{time.monotonic_ns()}"
        self._shell.send(f"({command}) </dev/null 2>&1; echo; echo {mark} $?\n")
        lines = []
        while not (line := self._shell.line(COMMAND_LIMIT_S)).startswith(mark):
            lines.append(line)
        if check and line != f"{mark} 0":
            raise AssertionError(f"{command}: {line}\n" + "\n".join(lines))
        return "\n".join(each for each in lines if each != "here").strip()

    def order(self, key):
        """Submits an order at the till, again and again until it is answered, and gives the answer."""
        data = {"orderDetails": [{"foodId": "food-001", "price": 12.50, "quantity": 1, "discount": 0}]}
        request = json.dumps({"requestId": key, "userId": "user-456", "data": data})

        def answer():
            # A line feed first: it ends what may have been left half said.
            self.till.send(f"\n{request}\n")
            while True:
                line = self.till.line(REPEAT_S)
                # A restart may cut a line short.
                with contextlib.suppress(json.JSONDecodeError):
                    said = json.loads(line)
                    if said.get("requestId") == key:
                        return said

        return parts.until(f"{key} is answered", answer, limit_s=COMMAND_LIMIT_S)


def limit(machine, *lines):
    """Starts the unit anew under other limits."""
    text = "\\n".join(["[Service]", *lines, ""])
    machine.run("mkdir -p /run/systemd/system/dumbwaiter.service.d")
    machine.run(f"printf '{text}' > /run/systemd/system/dumbwaiter.service.d/test.conf && systemctl daemon-reload")


def story(machine):
    # It may still be starting: the shell does not wait for it.
    machine.run("systemctl start dumbwaiter")
    first = machine.order("before-1")
    assert first["result"] == "stored", first
    assert re.search(r"^Seccomp:\s+2$", machine.run("cat /proc/$(systemctl show --value -p MainPID dumbwaiter)/status"), re.M)
    print("a till on a real UART, under the unit's limits: stored")

    limit(machine, "DeviceAllow=", "DeviceAllow=char-ttyACM rw")
    machine.run("systemctl restart dumbwaiter")
    journal = "journalctl -u dumbwaiter -o cat --no-pager"
    parts.until("the port is out of reach", lambda: "Operation not permitted" in machine.run(f"{journal} | grep 'serial port not open' || true"), 60)
    print("a port of a kind that the unit does not list: refused by the kernel, and said so")

    limit(machine, "MemoryMax=6M", "MemorySwapMax=0", "Restart=no")
    machine.run("systemctl restart dumbwaiter", check=False)
    parts.until("memory has ended it", lambda: machine.run("systemctl show --value -p Result dumbwaiter") == "oom-kill", 60)
    print("more memory than the unit allows: ended by the kernel")

    machine.run("rm -r /run/systemd/system/dumbwaiter.service.d && systemctl daemon-reload && systemctl restart dumbwaiter")
    again = machine.order("before-1")
    assert again["duplicate"] and again["seq"] == first["seq"], f"{again} after {first}"
    assert machine.order("after-1")["result"] == "stored"
    print("and after all that nothing is forgotten")


def main():
    with tempfile.TemporaryDirectory(prefix="machine-") as folder:
        with Machine(folder, debian.package("0.1.0-1", folder)) as machine:
            try:
                story(machine)
            except BaseException:
                print(machine.run("journalctl -u dumbwaiter -o cat --no-pager; ls -l /dev/ttyS*", check=False))
                raise
    print("4 passed, 0 failed")


if __name__ == "__main__":
    main()
