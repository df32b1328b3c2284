#!/usr/bin/env python3
"""docs/protocol.md is enough: a terminal in another language, written from it alone, against the daemon on a bad serial line.

First every test vector of the page is encoded and decoded. Then the terminal submits orders through noise, lost bytes, and kills of either
end; at the end each order is in the house exactly once, and was answered exactly once.
"""

import collections
import contextlib
import fcntl
import json
import os
import pty
import random
import re
import select
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import tty

import parts
import serial_terminal as wire

COUNT = 30
# In each direction at most so many bytes come through between two faults.
BYTES_A_FAULT_MAX = 3000
FAULTS_MIN = 10
READY = 3
TERMINAL_END = 1
SESSION = 0x0123456789ABCDEF
TAG = 0x89ABCDEF
BOOT = 0x1122334455667788

HELLO = dict(version=1, minor=0, nonce=300, name="till-1", resume=None, message_bytes_max=248, statuses=True, board=False)
EVENT = bytes.fromhex("01920e5c7a007000800000000000002a")
# What the page's vectors say in words, in their order.
VECTORS = [
    ("Hello", HELLO),
    ("Hello", HELLO | dict(resume=(SESSION, 7))),
    ("Submit", dict(tag=TAG, number=7, total=31, offset=0, maybe_stored=False, part=b'{"userId":"user-456","data":{}}')),
    ("Submit", dict(tag=TAG, number=300, total=450, offset=448, maybe_stored=True, part=b"}}")),
    ("Confirm", dict(tag=TAG, below=8)),
    ("Ping", dict(token=5)),
    ("Seen", dict(push=0)),
    ("WhoAreYou", dict(boot=BOOT)),
    (
        "Welcome",
        dict(version=1, minor=0, nonce=300, boot=BOOT, session=SESSION, resumed=True, mark=6)
        | dict(message_bytes_max=248, request_bytes_max=16384, window=2, flight=8, ping_ms=5000, dead_ms=15000),
    ),
    ("Refused", dict(nonce=300, refusal=0, version=1, retry_after_ms=0)),
    ("Received", dict(tag=TAG, number=8, offset=0)),
    ("Missing", dict(tag=TAG, number=7, offset=448)),
    ("Stored", dict(tag=TAG, number=7, duplicate=False, order="order-123", event=EVENT, ticket=(42,), seq=90211)),
    ("Stored", dict(tag=TAG, number=7, duplicate=True, order="o", event=b"\xff" * 16, ticket=None, seq=1)),
    ("Rejected", dict(tag=TAG, number=7, code=2, message="too many at once", retry_after_ms=(2000,))),
    ("Pong", dict(token=5)),
    ("Status", dict(push=9, order="order-123", show="42", status=3, payment=1)),
    ("Board", dict(push=10, piece=1, pieces=2, column=1, numbers="41\nA7\n")),
]
TERMINAL_NAMES = {name for name, _ in wire.TERMINALS.values()}


def the_test_vectors_of_the_page():
    page = (parts.ROOT / "docs" / "protocol.md").read_text()
    chapter = page.split("### 2.11 Test vectors", 1)[1].split("```text\n", 1)[1].split("```", 1)[0]
    found = re.findall(r"^(\w+).*\n  ((?:[0-9a-f]{2} ?)+)\n  ((?:[0-9a-f]{2} ?)+)$", chapter, re.MULTILINE)
    assert len(found) * 3 == len(chapter.splitlines()), "a line of the vectors is neither a title, a message nor a frame"
    assert [name for name, *_ in found] == [name for name, _ in VECTORS], "the page has other vectors than this test knows"
    for (name, message, framed), (_, values) in zip(found, VECTORS):
        message, framed = bytes.fromhex(message), bytes.fromhex(framed)
        kinds = wire.TERMINALS if name in TERMINAL_NAMES else wire.GATEWAYS
        equal(f"{name} {values} encoded", wire.encode(kinds, name, values), message)
        equal(f"{name} {message.hex(' ')} decoded", wire.decode(kinds, message), (name, values))
        equal(f"{name} {message.hex(' ')} framed", wire.frame(message), framed)
        equal(f"{name} {framed.hex(' ')} unframed", wire.unframe(framed[:-1]), message)
        equal(f"{name} with a later version's byte", wire.decode(kinds, message + b"\7"), (name, values))


def the_sizes_of_the_page():
    equal("the CRC's check value", wire.crc32(b"123456789"), 0xCBF43926)
    for number, written in [(5, "05"), (300, "ac 02"), (16384, "80 80 01")]:
        equal(f"varint {number}", wire.write_varint(number).hex(" "), written)
    for fill in (b"\0", b"\1", b"\xff"):
        longest = wire.frame(fill * 248)
        assert len(longest) == 254, f"the longest frame has {len(longest)} bytes"
        equal("the longest message", wire.unframe(longest[:-1]), fill * 248)


def garbled_frames_are_dropped():
    whole = wire.frame(bytes(range(100)))[:-1]
    for at in range(len(whole)):
        garbled(whole[:at] + whole[at + 1 :])
        garbled(whole[:at] + bytes([whole[at] ^ 0x10 or 1]) + whole[at + 1 :])
    garbled(b"\5\1\1\1\1")
    garbled(b"\1" * 300)


def garbled(gathered):
    try:
        message = wire.unframe(gathered)
    except wire.Garbled:
        return
    raise AssertionError(f"{gathered.hex(' ')} was taken for {message.hex(' ')}")


def equal(what, found, wanted):
    assert found == wanted, f"{what} is {found}, not {wanted}"


class Line(threading.Thread):
    """A cable between two pseudo-terminals that are opened by name, and what happens to the bytes on it."""

    def __init__(self):
        super().__init__(daemon=True)
        self._masters, self._slaves = zip(pty.openpty(), pty.openpty())
        for slave in self._slaves:
            # Before anybody else opens it: no echo, and nothing changed on the way.
            tty.setraw(slave)
        for master in self._masters:
            os.set_blocking(master, False)
        self.gateway_path, self.terminal_path = map(os.ttyname, self._slaves)
        self._chance = random.Random(7)
        self._is_over = threading.Event()
        self.is_noisy = False
        # Nothing that the gateway says arrives.
        self.is_deaf = False
        # Faults by direction: what the gateway should have heard, what the terminal should have heard.
        self.faults = [0, 0]
        self._until_fault = [self._chance.randrange(BYTES_A_FAULT_MAX) for _ in self.faults]

    def run(self):
        while not self._is_over.is_set():
            for master in select.select(self._masters, [], [], 0.1)[0]:
                towards = self._masters.index(master) ^ 1
                data = os.read(master, 4096)
                if towards == TERMINAL_END and self.is_deaf:
                    continue
                self._write(self._masters[towards], self._with_faults(data, towards) if self.is_noisy else data)

    def _with_faults(self, data, towards):
        out = bytearray()
        for byte in data:
            self._until_fault[towards] -= 1
            if self._until_fault[towards] >= 0:
                out.append(byte)
                continue
            self.faults[towards] += 1
            self._until_fault[towards] = self._chance.randrange(BYTES_A_FAULT_MAX)
            # One bit turned, a byte lost, or a burst in its place.
            out += self._chance.choice([bytes([byte ^ 1 << self._chance.randrange(8)]), b"", self._chance.randbytes(20)])
        return bytes(out)

    def _write(self, master, data):
        try:
            os.write(master, data)
        except BlockingIOError:
            # Nobody reads at that end, and its buffer is full: the bytes are lost, as on a cable.
            pass

    def plug_in_again(self):
        """Whoever held an end may have been killed: as with a new open of an adapter's device, it is nobody's again."""
        for slave in self._slaves:
            fcntl.ioctl(slave, termios.TIOCNXCL)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        self.join()
        for end in (*self._masters, *self._slaves):
            os.close(end)


class Till(parts.Part):
    """The terminal as a process; its memory outlives it."""

    def __init__(self, line, folder):
        self.memory, self._keys = folder / "till.json", folder / "guests.txt"
        self.guests = 0
        script = parts.ROOT / "tests" / "real" / "serial_terminal.py"
        super().__init__("till", [sys.executable, script, line.terminal_path, self.memory, self._keys], folder)

    def guests_come(self, count):
        self.guests += count
        new = self._keys.with_suffix(".new")
        new.write_text(str(self.guests))
        new.replace(self._keys)

    def kept(self):
        return json.loads(self.memory.read_text())

    def answers(self):
        if not self.is_running():
            raise RuntimeError(f"the terminal ended by itself:\n{self.log.read_text()[-3000:]}")
        return self.kept()["answers"]

    def stored(self):
        return [answer for answer in self.kept()["answers"] if answer["result"] == "stored"]

    def shown(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()]


class House:
    def __init__(self, line, gateway, till):
        self.line, self.gateway, self.till = line, gateway, till

    def all_are_answered(self):
        guests = self.till.guests
        parts.until(f"{guests} orders of the terminal are answered", lambda: len(self.till.answers()) >= guests)

    def an_answer_is_lost(self):
        """From here to the restart the house has an order that the terminal must submit again."""
        self.line.is_deaf = True
        self.till.guests_come(1)
        parts.until("the house has an order whose answer is lost", lambda: len(self.orders()) > len(self.till.stored()))

    def restart(self, *everyone):
        """Kills them, in the middle of whatever they do; then all goes on."""
        for part in everyone:
            part.kill()
        self.line.is_deaf = False
        self.line.plug_in_again()
        for part in everyone:
            part.start()
        self.till.guests_come(5)
        self.all_are_answered()

    def orders(self):
        status, orders = self.gateway.ask("GET", "/api/v1/orders")
        assert status == 200, f"{status} {orders}"
        return orders if isinstance(orders, list) else orders["orders"]


def orders_come_through_noise(house):
    house.line.is_noisy = True
    house.till.guests_come(0)
    house.till.start()
    house.till.guests_come(12)
    house.all_are_answered()


def the_terminal_is_killed(house):
    house.an_answer_is_lost()
    house.restart(house.till)


def the_gateway_is_killed(house):
    house.an_answer_is_lost()
    house.restart(house.gateway)


def both_are_killed(house):
    house.an_answer_is_lost()
    house.restart(house.till, house.gateway)


def the_noise_ends(house):
    house.line.is_noisy = False
    equal("the number of guests so far", house.till.guests, COUNT)
    assert min(house.line.faults) > 0 and sum(house.line.faults) >= FAULTS_MIN, f"the line was too good: {house.line.faults}"


def each_order_is_there_once_and_was_answered_once(house):
    kept = house.till.kept()
    assert not kept["unfinished"], f"still unfinished: {kept['unfinished']}"
    labels = [f"guest-{count:03}" for count in range(1, COUNT + 1)]
    equal("the list of noted answers", sorted(answer["label"] for answer in kept["answers"]), labels)
    for answer in kept["answers"]:
        is_invalid = answer["label"] == f"guest-{wire.INVALID:03}"
        assert (answer["result"] == "rejected") == is_invalid, f"answered otherwise than expected: {answer}"
        assert not is_invalid or answer["code"] == "invalid", f"rejected for another reason: {answer}"
    stored = {answer["label"]: answer["orderId"] for answer in house.till.stored()}
    counts = collections.Counter(order["customerName"] for order in house.orders())
    equal("how often each order is in the house", dict(counts), {label: 1 for label in stored})
    equal("the ids of the orders", {order["customerName"]: order["orderId"] for order in house.orders()}, stored)
    assert len({answer["session"] for answer in kept["answers"]}) == 1, "the session was lost on the way"


def the_display_shows_what_happens(house):
    answer = house.till.stored()[0]
    house.gateway.set_status(answer["orderId"], "READY")
    number = str(answer["ticket"])

    def status_is_shown():
        return any(each.get("order") == answer["orderId"] and each["status"] == READY for each in house.till.shown())

    def board_is_shown():
        boards = [each["board"] for each in house.till.shown() if "board" in each]
        return boards and any(column == 1 and number in numbers for column, numbers in boards[-1])

    parts.until("the terminal shows the order's status", status_is_shown)
    parts.until("the terminal shows the order's number as ready", board_is_shown)


def a_lost_session_is_told(house):
    """The gateway gets a new disk while an order waits in the terminal, which cannot know whether it was stored."""
    house.till.kill()
    equal("the gateway's exit code", house.gateway.stop(), 0)
    (house.gateway.folder / "data").rename(house.gateway.folder / "old-data")
    house.line.plug_in_again()
    house.till.guests_come(1)
    house.till.start()
    parts.until("the order waits", lambda: len(house.till.kept()["unfinished"]) == 1)
    house.gateway.start()
    house.all_are_answered()
    # An order of after that is not marked.
    house.till.guests_come(1)
    house.all_are_answered()
    marks = [(order["customerName"], order.get("maybeStored", False)) for order in house.orders()]
    equal("what the new disk has", sorted(marks), [(f"guest-{COUNT + 1:03}", True), (f"guest-{COUNT + 2:03}", False)])


def the_queue_for_kafka_has_each_order_once(house):
    house.till.kill()
    equal("the gateway's exit code", house.gateway.stop(), 0)
    queued = []
    for data in ("old-data", "data"):
        export = [parts.daemon(), "store", "export", "--data-dir", house.gateway.folder / data]
        done = subprocess.run(export, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=20)
        assert done.returncode == 0, f"store export ended with {done.returncode}: {done.stderr}"
        queued += [json.loads(line) for line in done.stdout.splitlines()]
    # By the rule of 2.6.
    wanted = sorted((f"s{answer['session']:016x}-{answer['number']}", answer["seq"]) for answer in house.till.stored())
    found = sorted((each["requestId"], each["seq"]) for each in queued if each["requestId"].startswith("s"))
    equal("the list of queued requests", found, wanted)


OF_THE_PAGE = [the_test_vectors_of_the_page, the_sizes_of_the_page, garbled_frames_are_dropped]
ON_THE_LINE = [
    orders_come_through_noise,
    the_terminal_is_killed,
    the_gateway_is_killed,
    both_are_killed,
    the_noise_ends,
    each_order_is_there_once_and_was_answered_once,
    the_display_shows_what_happens,
    a_lost_session_is_told,
    the_queue_for_kafka_has_each_order_once,
]


def passed(test, *arguments):
    test(*arguments)
    print(f"ok {test.__name__}", flush=True)


def main():
    # A run that is cut short ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))
    for test in OF_THE_PAGE:
        passed(test)
    parts.PARTS.mkdir(parents=True, exist_ok=True)
    # A kill must leave what a disk leaves: /tmp may be memory.
    tempfile.tempdir = str(parts.PARTS)
    with Line() as line:
        config = f'[[serial]]\nterminal = "till-1"\npath = "{line.gateway_path}"\nframing = "binary"\n'
        with parts.Gateway(config) as gateway, contextlib.ExitStack() as ends:
            till = Till(line, gateway.folder)
            # Started by the first test that needs it, ended here whatever happens.
            ends.push(till)
            for test in ON_THE_LINE:
                passed(test, House(line, gateway, till))
            assert not gateway.errors(), gateway.errors()
    print(f"{len(OF_THE_PAGE) + len(ON_THE_LINE)} passed, 0 failed")


if __name__ == "__main__":
    main()
