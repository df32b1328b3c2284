#!/usr/bin/env python3
"""What cross/build made for a Raspberry Pi, emulated: orders over HTTP onto disk, killed, started again, and all of them in a real Kafka.

    arm_emulated.py aarch64|armv7

The emulator is QEMU's for one process: the instructions, the libraries and the structures of system calls are the device's, the kernel is this
machine's. Serial lines are left out, because Debian 12's QEMU cannot open a terminal by name.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

import kafka_cluster
import parts
import sarama

TARGETS = {
    "aarch64": ("aarch64-unknown-linux-gnu", "qemu-aarch64-static", "/usr/aarch64-linux-gnu"),
    "armv7": ("armv7-unknown-linux-gnueabihf", "qemu-arm-static", "/usr/arm-linux-gnueabihf"),
}
ORDERS = 60


def emulated(target, folder):
    """A program that runs the device's binary here."""
    triple, emulator, libraries = TARGETS[target]
    binary = parts.ROOT / "target" / "cross" / triple / "release" / "dumbwaiter"
    if not binary.exists():
        raise SystemExit(f"{binary} is not there: cross/build {target}")
    program = pathlib.Path(folder) / f"dumbwaiter-{target}"
    program.write_text(f'#!/bin/sh\nexec {parts.tool(emulator)} -L {libraries} {binary} "$@"\n')
    program.chmod(0o755)
    return program


def store_check(gateway):
    done = subprocess.run([*gateway.command[:1], "store", "check", "--data-dir", gateway.folder / "data"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def main():
    target = sys.argv[1]
    with tempfile.TemporaryDirectory(prefix="arm-") as folder:
        os.environ["DUMBWAITER"] = str(emulated(target, folder))
        with kafka_cluster.Cluster() as kafka:
            for topic in ("order-events", "order-events-dlq", "gateway-status"):
                kafka.create_topic(topic, 3)
            kafka.cut_line()
            with parts.Gateway(f'[kafka]\nbrokers = "{kafka.lines()}"\n') as gateway:
                stored = {f"key-{n}": gateway.order(key=f"key-{n}") for n in range(ORDERS)}
                gateway.kill()
                print(store_check(gateway))
                gateway.start()
                for key, first in stored.items():
                    again = gateway.order(key=key)
                    assert again["duplicate"] and again["eventId"] == first["eventId"], f"{again} after {first}"
                kafka.mend_line()
                parts.until("the backlog is gone", lambda: gateway.ask("GET", "/health")[1]["queued"] == 0, limit_s=60)
                delivered = [record["headers"]["request-id"] for record in sarama.read(kafka.brokers(), "order-events")]
                assert sorted(delivered) == sorted(stored), f"{len(delivered)} of {len(stored)}"
                assert not gateway.errors(), gateway.errors()
                assert gateway.stop() == 0
    print(f"{target}: {ORDERS} orders stored, killed, answered again as duplicates, delivered once")


if __name__ == "__main__":
    main()
