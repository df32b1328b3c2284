"""A terminal on a serial line in binary frames, written from docs/protocol.md alone, as small as a controller's firmware would be.

    serial_terminal.py PORT STATE GUESTS

It never ends. STATE is the file that stands for the controller's flash memory: what the terminal keeps across its own restart, and the
answers that it noted. GUESTS is the file that stands for its keys: how many guests have ordered so far.
"""

import json
import os
import pathlib
import select
import sys
import termios
import time
import tty

MESSAGE_BYTES_MAX = 248
PART_BYTES_MAX = 224
FRAME_BYTES_MAX = 253  # without the 00 that ends it
REPEAT_S = [1, 2, 4, 5]
# How many orders are under way or wait for it.
KEPT_MAX = 4
KEYS_EACH_S = 0.05
# Orders that are unlike the others.
INVALID = 7
LARGE = 10
TRY_AGAIN_S = {"busy": 2, "full": 30}


class Garbled(Exception):
    """What came is no message."""


# ---- frames (2.1)


def crc32(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def frame(message):
    out, placeholder = bytearray(1), 0
    for byte in message + crc32(message).to_bytes(4, "little"):
        if byte == 0:
            out[placeholder], placeholder = len(out) - placeholder, len(out)
        out.append(byte)
    out[placeholder] = len(out) - placeholder
    return bytes(out) + b"\0"


def unframe(gathered):
    """The message in the bytes before a 00."""
    if len(gathered) > FRAME_BYTES_MAX:
        raise Garbled("too long")
    out, at = bytearray(), 0
    while at < len(gathered):
        end = at + gathered[at]
        if end > len(gathered):
            raise Garbled("COBS")
        out += gathered[at + 1 : end]
        if end < len(gathered):
            out.append(0)
        at = end
    message, crc = bytes(out[:-4]), bytes(out[-4:])
    if not message or crc != crc32(message).to_bytes(4, "little"):
        raise Garbled("CRC")
    return message


# ---- fields (2.2): how each is written, and read by a reader


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, length):
        self.at += length
        if self.at > len(self.data):
            raise Garbled("fields beyond the message")
        return self.data[self.at - length : self.at]


def write_varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])


def read_varint(reader):
    number = 0
    for shift in range(0, 70, 7):
        byte = reader.take(1)[0]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number
    raise Garbled("varint")


def write_option(fields):
    return lambda values: b"\0" if values is None else b"\1" + b"".join(write(v) for (write, _), v in zip(fields, values))


def read_option(fields):
    return lambda reader: tuple(read(reader) for _, read in fields) if reader.take(1)[0] else None


def fixed(length):
    return lambda number: number.to_bytes(length, "little"), lambda reader: int.from_bytes(reader.take(length), "little")


U8, TAG, U64 = fixed(1), fixed(4), fixed(8)
VARINT = write_varint, read_varint
BOOL = lambda value: bytes([value]), lambda reader: reader.take(1)[0] != 0
BYTES = lambda data: write_varint(len(data)) + data, lambda reader: reader.take(read_varint(reader))
TEXT = lambda text: BYTES[0](text.encode()), lambda reader: BYTES[1](reader).decode(errors="replace")
EVENT_ID = bytes, lambda reader: reader.take(16)


def option(*fields):
    return write_option(fields), read_option(fields)


# ---- messages (2.3, 2.4)

TERMINALS = {
    0: ("Hello", {"version": U8, "minor": U8, "nonce": VARINT, "name": TEXT, "resume": option(U64, VARINT),
                  "message_bytes_max": VARINT, "statuses": BOOL, "board": BOOL}),
    1: ("Submit", {"tag": TAG, "number": VARINT, "total": VARINT, "offset": VARINT, "maybe_stored": BOOL, "part": BYTES}),
    2: ("Confirm", {"tag": TAG, "below": VARINT}),
    3: ("Ping", {"token": VARINT}),
    4: ("Seen", {"push": VARINT}),
}  # fmt: skip
GATEWAYS = {
    0: ("WhoAreYou", {"boot": U64}),
    1: ("Welcome", {"version": U8, "minor": U8, "nonce": VARINT, "boot": U64, "session": U64, "resumed": BOOL, "mark": VARINT,
                    "message_bytes_max": VARINT, "request_bytes_max": VARINT, "window": U8, "flight": U8,
                    "ping_ms": VARINT, "dead_ms": VARINT}),
    2: ("Refused", {"nonce": VARINT, "refusal": U8, "version": U8, "retry_after_ms": VARINT}),
    3: ("Received", {"tag": TAG, "number": VARINT, "offset": VARINT}),
    4: ("Missing", {"tag": TAG, "number": VARINT, "offset": VARINT}),
    5: ("Stored", {"tag": TAG, "number": VARINT, "duplicate": BOOL, "order": TEXT, "event": EVENT_ID, "ticket": option(VARINT),
                   "seq": VARINT}),
    6: ("Rejected", {"tag": TAG, "number": VARINT, "code": U8, "message": TEXT, "retry_after_ms": option(VARINT)}),
    7: ("Pong", {"token": VARINT}),
    8: ("Status", {"push": VARINT, "order": TEXT, "show": TEXT, "status": U8, "payment": U8}),
    9: ("Board", {"push": VARINT, "piece": U8, "pieces": U8, "column": U8, "numbers": TEXT}),
}  # fmt: skip
CODES = ["invalid", "conflict", "busy", "full", "too_large", "expired", "unknown_order", "final", "unauthorized"]
UNKNOWN_SESSION = 0


def encode(kinds, name, values):
    kind, fields = next((kind, fields) for kind, (known, fields) in kinds.items() if known == name)
    return bytes([kind]) + b"".join(write(values[field]) for field, (write, _) in fields.items())


def decode(kinds, message):
    """(name, values), or None for a kind that is not known. Bytes after the known fields are ignored."""
    if message[0] not in kinds:
        return None
    name, fields = kinds[message[0]]
    reader = Reader(message[1:])
    return name, {field: read(reader) for field, (_, read) in fields.items()}


# ---- what is kept (2.8)


class Memory:
    """Written whole and renamed: a power cut leaves the old or the new."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        kept = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.starts = kept.get("starts", 0)
        self.session = kept.get("session")
        self.first = kept.get("first", 1)
        # Requests from number `first` on: {"label", "request", "maybe_stored"}.
        self.unfinished = kept.get("unfinished", [])
        self.entered = kept.get("entered", 0)
        # {"label", "number", "session", "result", …} of each answer that was noted.
        self.answers = kept.get("answers", [])

    def note(self):
        kept = {key: value for key, value in vars(self).items() if key != "path"}
        new = self.path.with_suffix(".new")
        with open(new, "w") as file:
            file.write(json.dumps(kept))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def next_number(self):
        return self.first + len(self.unfinished)

    def request(self, number):
        return self.unfinished[number - self.first]


# ---- the terminal's states (2.5)


class Terminal:
    def __init__(self, port, memory, guests):
        self.port, self.memory, self.guests = port, memory, guests
        self.gathered = bytearray()
        self.pings = 0
        self.not_before = 0
        memory.starts += 1
        memory.note()
        # Room for 65,536 series of hellos within one start.
        self.nonce = memory.starts << 16 & 0xFFFFFFFF
        self.to_hello()

    def run(self):
        while True:
            self.enter_orders()
            self.on_time(time.monotonic())
            rest = min(max(0, self.wakes_at() - time.monotonic()), KEYS_EACH_S)
            if select.select([self.port], [], [], rest)[0]:
                self.hear(os.read(self.port, 4096))

    def enter_orders(self):
        guests = int(self.guests.read_text())
        while self.memory.entered < guests and len(self.memory.unfinished) < KEPT_MAX:
            self.memory.entered += 1
            self.memory.unfinished.append(order(self.memory.entered))
            self.memory.note()

    def hear(self, data):
        for byte in data:
            if byte:
                # One more than fits is enough to know that it is too long.
                if len(self.gathered) <= FRAME_BYTES_MAX:
                    self.gathered.append(byte)
                continue
            gathered, self.gathered = bytes(self.gathered), bytearray()
            try:
                message = decode(GATEWAYS, unframe(gathered)) if gathered else None
            except Garbled:
                continue
            if message:
                self.heard_at = time.monotonic()
                self.on_message(*message)

    def say(self, message, /, **values):
        # The 00 ends whatever noise the line put into the receiver.
        os.write(self.port, b"\0" + frame(encode(TERMINALS, message, values)))

    def tag(self):
        return self.memory.session & 0xFFFFFFFF

    # -- Hello

    def to_hello(self):
        self.is_open = False
        self.nonce += 1
        self.hello_tries = 0
        self.say_hello()

    def say_hello(self):
        memory = self.memory
        resume = None if memory.session is None else (memory.session, memory.first)
        self.say("Hello", version=1, minor=0, nonce=self.nonce, name="till-1", resume=resume,
                 message_bytes_max=MESSAGE_BYTES_MAX, statuses=True, board=True)  # fmt: skip
        self.hello_at = time.monotonic() + repeat_s(self.hello_tries)
        self.hello_tries += 1

    def forget_session(self):
        self.memory.session = None
        for request in self.memory.unfinished:
            request["maybe_stored"] = True
        self.memory.note()
        self.to_hello()

    def on_hello_message(self, name, m):
        memory = self.memory
        if name == "WhoAreYou":
            self.say_hello()
        elif name == "Welcome" and m["nonce"] == self.nonce and m["resumed"] == (memory.session is not None):
            if m["resumed"] and m["mark"] >= memory.next_number():
                self.forget_session()
                return
            if not m["resumed"]:
                memory.session, memory.first = m["session"], 1
                memory.note()
            self.to_open(m)
        elif name == "Refused" and m["nonce"] == self.nonce:
            if m["refusal"] == UNKNOWN_SESSION:
                self.forget_session()
            else:
                self.hello_at = time.monotonic() + max(1, m["retry_after_ms"] / 1000)

    # -- Open

    def to_open(self, welcome):
        self.is_open = True
        self.window, self.flight = welcome["window"], welcome["flight"]
        self.ping_s, self.dead_s = welcome["ping_ms"] / 1000, welcome["dead_ms"] / 1000
        self.cursor = self.receipt = (self.memory.first, 0)
        # Where the parts end that have no receipt.
        self.flying = []
        self.silences = 0
        self.ping_at = time.monotonic() + self.ping_s
        self.push = None
        self.board = []

    def wakes_at(self):
        if not self.is_open:
            return self.hello_at
        times = [self.ping_at, self.heard_at + self.dead_s]
        if self.flying:
            times.append(self.receipt_at)
        if self.not_before > time.monotonic():
            times.append(self.not_before)
        return min(times)

    def on_time(self, now):
        if not self.is_open:
            if now >= self.hello_at:
                self.say_hello()
            return
        if now >= self.heard_at + self.dead_s:
            self.to_hello()
            return
        if now >= self.ping_at:
            self.pings += 1
            self.say("Ping", token=self.pings)
            self.ping_at = now + self.ping_s
        if self.flying and now >= self.receipt_at:
            self.silences += 1
            self.go_back()
        if now >= self.not_before:
            self.send_parts(now)

    def send_parts(self, now):
        memory = self.memory
        while len(self.flying) < self.flight and self.cursor[0] < min(memory.first + self.window, memory.next_number()):
            number, offset = self.cursor
            kept = memory.request(number)
            request = kept["request"].encode()
            part = request[offset : offset + PART_BYTES_MAX]
            self.say("Submit", tag=self.tag(), number=number, total=len(request), offset=offset,
                     maybe_stored=kept["maybe_stored"], part=part)  # fmt: skip
            end = offset + len(part)
            self.cursor = (number, end) if end < len(request) else (number + 1, 0)
            if not self.flying:
                self.receipt_at = now + repeat_s(self.silences)
            self.flying.append(self.cursor)

    def go_back(self):
        self.cursor = self.receipt
        self.flying = []

    def move_receipt(self, position):
        if position > self.receipt:
            self.receipt = position
            self.cursor = max(self.cursor, position)
            self.flying = [end for end in self.flying if end > position]
            self.silences = 0
            self.receipt_at = time.monotonic() + repeat_s(0)

    def on_message(self, name, m):
        if not self.is_open:
            self.on_hello_message(name, m)
        elif name == "WhoAreYou":
            self.to_hello()
        elif name == "Status":
            if self.is_new_push(m["push"]):
                show({"order": m["order"], "show": m["show"], "status": m["status"], "payment": m["payment"]})
        elif name == "Board":
            if self.is_new_push(m["push"]):
                self.on_board(m)
        elif m.get("tag") != self.tag():
            pass
        elif name in ("Received", "Missing"):
            if m["number"] < self.memory.first:
                self.confirm()
            self.move_receipt((m["number"], m["offset"]))
            if name == "Missing":
                self.go_back()
        elif m["number"] == self.memory.first:
            self.finish(name, m)
        elif m["number"] < self.memory.first:
            self.confirm()

    def is_new_push(self, push):
        self.say("Seen", push=push)
        is_new, self.push = push != self.push, push
        return is_new

    def on_board(self, m):
        if m["piece"] == 0:
            self.board = []
        self.board.append((m["column"], m["numbers"].split()))
        if m["piece"] == m["pieces"] - 1:
            show({"board": self.board})

    def finish(self, name, m):
        memory = self.memory
        kept = memory.unfinished.pop(0)
        number, memory.first = memory.first, memory.first + 1
        noted = {"label": kept["label"], "session": memory.session, "number": number, "maybe_stored": kept["maybe_stored"]}
        code = None
        if name == "Stored":
            ticket = m["ticket"] and m["ticket"][0]
            noted |= {"result": "stored", "orderId": m["order"], "eventId": m["event"].hex(), "ticket": ticket, "seq": m["seq"]}
        else:
            code = CODES[m["code"]] if m["code"] < len(CODES) else "invalid"
            noted |= {"result": "rejected", "code": code, "message": m["message"]}
        if code in TRY_AGAIN_S:
            # The same content under the next free number.
            memory.unfinished.append(kept)
            after = m["retry_after_ms"]
            self.not_before = time.monotonic() + (after[0] / 1000 if after else TRY_AGAIN_S[code])
        else:
            memory.answers.append(noted)
        memory.note()
        self.move_receipt((memory.first, 0))
        self.confirm()

    def confirm(self):
        self.say("Confirm", tag=self.tag(), below=self.memory.first)


def repeat_s(tries):
    return REPEAT_S[min(tries, len(REPEAT_S) - 1)]


def show(what):
    print(json.dumps(what), flush=True)


def order(count):
    """What the `count`th guest orders. It has no order id of its own: nothing but the protocol keeps it single."""
    label = f"guest-{count:03}"
    line = {"foodId": "food-001", "foodName": "Pizza Margherita", "price": 12.50, "quantity": 1, "discount": 0}
    # From one part to four; one order has more than may be in flight, another a quantity that is none.
    line["notes"] = "extra cheese, " * (500 if count == LARGE else count % 4 * 14)
    if count == INVALID:
        line["quantity"] = 0
    data = {"orderDetails": [line], "totalPrice": 12.50, "customerName": label}
    return {"label": label, "request": json.dumps({"userId": f"user-{count}", "data": data}), "maybe_stored": False}


def open_port(path):
    port = os.open(path, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(port)
    settings = termios.tcgetattr(port)
    settings[4] = settings[5] = termios.B115200
    termios.tcsetattr(port, termios.TCSANOW, settings)
    return port


if __name__ == "__main__":
    Terminal(open_port(sys.argv[1]), Memory(sys.argv[2]), pathlib.Path(sys.argv[3])).run()
