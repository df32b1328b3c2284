"""A terminal that submits one order after the other by docs/protocol.md, but for one flaw: what `dumbwaiter terminal check` has to find.

    faulty_terminal.py json PATH [FLAW]
    faulty_terminal.py http PORT [FLAW]
    faulty_terminal.py mqtt PORT [FLAW]
    faulty_terminal.py frames PATH [FLAW]

In binary frames it is serial_terminal.py with its flaw laid over it.
"""

import http.client
import json
import os
import pathlib
import queue
import sys
import tempfile
import threading
import time
import tty
import uuid

import serial_terminal

# A real terminal waits 5 s.
ANSWER_S = 3
# Which rule of the page each flaw breaks, and on which lines.
FLAWS = {
    "spaces in its id": ("R1", {"http"}),
    "gives up": ("R2", {"json"}),
    "a new id each time": ("R2", {"http"}),
    "busy at once": ("R3", {"http"}),
    "full at once": ("R4", {"json"}),
    "repeats what was rejected": ("R5", {"http"}),
    "repeats what is stored": ("R6", {"json", "mqtt"}),
    "knows all fields": ("R7", {"http"}),
    "stamps each try": ("R8", {"json"}),
    "takes any answer": ("R9", {"json"}),
    "dies of noise": ("R10", {"mqtt"}),
    "gives up after three": ("R11", {"json", "http"}),
    "begins at once": ("L1", {"json"}),
    "retains": ("M1", {"mqtt"}),
    "hopes": ("M2", {"mqtt"}),
    "deaf to the gateway": ("M3", {"mqtt"}),
    "no key": ("H1", {"http"}),
    "no type": ("H2", {"http"}),
    "503 at once": ("H3", {"http"}),
    "hurries its hellos": ("B1", {"frames"}),
    "takes any welcome": ("B2", {"frames"}),
    "large parts": ("B3", {"frames"}),
    "window and flight of its own": ("B4", {"frames"}),
    "hurries its parts": ("B5", {"frames"}),
    "deaf to Missing": ("B6", {"frames"}),
    "impatient": ("B7", {"frames"}),
    "confirms once": ("B8", {"frames"}),
    "sends what is answered": ("B9", {"frames"}),
    "confirms any answer": ("B10", {"frames"}),
    "does not wait after busy": ("B11", {"frames"}),
    "insists": ("B12", {"frames"}),
    "trusts its line": ("B13", {"frames"}),
    "never pings": ("B14", {"frames"}),
    "waits for ever": ("B15", {"frames"}),
    "alters what it keeps": ("B16", {"frames"}),
    "deaf to WhoAreYou": ("B17", {"frames"}),
    "does not wait after a refusal": ("B18", {"frames"}),
    "does not mark": ("B19", {"frames"}),
    "sees once": ("B20", {"frames"}),
}
KNOWN = {"requestId", "result", "duplicate", "orderId", "eventId", "ticket", "seq", "code", "message", "retryAfterMs"}


class Terminal:
    def __init__(self, flaw):
        self.flaw = flaw
        self.answer_s = 6 if flaw == "deaf to the gateway" else ANSWER_S

    def ask(self, request):
        """Submits once. The answer, or None if none came in time; a number: after so many seconds."""
        raise NotImplementedError

    def run(self):
        count = 0
        while True:
            count += 1
            self.order({"requestId": self.new_id(), "userId": f"user-{count}", "data": {"orderDetails": [{"price": 9.5, "foodName": "Pie"}]}})

    def new_id(self):
        return f"no {uuid.uuid4()}" if self.flaw == "spaces in its id" else str(uuid.uuid4())

    def order(self, request):
        tries = 0
        while True:
            tries += 1
            if self.flaw == "stamps each try":
                request["data"]["tries"] = tries
            answer = self.ask(request)
            if isinstance(answer, dict) and self.flaw == "knows all fields" and not answer.keys() <= KNOWN:
                time.sleep(self.answer_s)
                answer = None
            if answer is None:
                if self.flaw == "gives up" or self.flaw == "gives up after three" and tries == 3:
                    return
                if self.flaw == "a new id each time":
                    request["requestId"] = self.new_id()
                continue
            if isinstance(answer, int):
                time.sleep(0 if self.flaw == "503 at once" else answer)
                continue
            code = answer.get("code")
            if code in ("busy", "full"):
                time.sleep(0 if self.flaw == f"{code} at once" else answer["retryAfterMs"] / 1000)
                continue
            if self.flaw == ("repeats what was rejected" if code else "repeats what is stored"):
                time.sleep(0.8)
                self.ask(request)
            return


class Waiting(Terminal):
    """Answers come by themselves."""

    def __init__(self, flaw):
        super().__init__(flaw)
        self.answers = queue.Queue()
        self.again = threading.Event()

    def heard(self, text):
        try:
            answer = json.loads(text)
            if answer["result"] in ("stored", "rejected"):
                self.answers.put(answer)
        except (ValueError, KeyError, TypeError):
            if self.flaw == "dies of noise":
                os._exit(1)

    def ask(self, request):
        if self.flaw != "takes any answer":
            while not self.answers.empty():
                self.answers.get()
        self.send(request)
        end = time.monotonic() + self.answer_s
        while time.monotonic() < end and not self.again.is_set():
            try:
                answer = self.answers.get(timeout=0.05)
            except queue.Empty:
                continue
            if answer["requestId"] == request["requestId"] or self.flaw == "takes any answer":
                return answer
        self.again.clear()
        return None


class Json(Waiting):
    def __init__(self, path, flaw):
        super().__init__(flaw)
        self.port = os.open(path, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self.port)
        if flaw != "begins at once":
            os.write(self.port, b"\n")
        threading.Thread(target=self.listen, daemon=True).start()

    def send(self, request):
        os.write(self.port, json.dumps(request).encode() + b"\n")

    def listen(self):
        half = b""
        while data := os.read(self.port, 4096):
            *lines, half = (half + data).split(b"\n")
            for line in lines:
                self.heard(line)


class Mqtt(Waiting):
    def __init__(self, port, flaw):
        import paho.mqtt.client as mqtt

        super().__init__(flaw)
        self.topic = "ord/v1/store-042/t/kiosk-1"
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="kiosk-1")
        self.client.username_pw_set("kiosk-1", "secret-of-kiosk-1")
        is_there = threading.Event()
        self.client.on_connect = lambda client, *_: client.subscribe([(f"{self.topic}/answer", 1), ("ord/v1/store-042/gateway", 1)])
        self.client.on_subscribe = lambda *_: is_there.set()
        self.client.on_message = self.on_message
        self.client.connect("127.0.0.1", int(port))
        self.client.loop_start()
        is_there.wait(10)

    def on_message(self, client, _, message):
        if message.topic.endswith("/answer"):
            self.heard(message.payload)
        elif not message.retain and json.loads(message.payload)["online"] and self.flaw != "deaf to the gateway":
            self.again.set()

    def send(self, request):
        self.client.publish(f"{self.topic}/submit", json.dumps(request), qos=0 if self.flaw == "hopes" else 1, retain=self.flaw == "retains")


class Http(Terminal):
    def __init__(self, port, flaw):
        super().__init__(flaw)
        self.port = int(port)

    def ask(self, request):
        headers = {"Idempotency-Key": request["requestId"], "Content-Type": "application/json", "X-Terminal": "kiosk-1"}
        if self.flaw == "no key":
            del headers["Idempotency-Key"]
        if self.flaw == "no type":
            del headers["Content-Type"]
        body = {"userId": request["userId"], **request["data"]}
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        try:
            line.request("POST", "/api/v1/orders", json.dumps(body), headers)
            answer = line.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            time.sleep(self.answer_s)
            return None
        finally:
            line.close()
        try:
            return json.loads(text)
        except ValueError:
            return int(answer.headers["Retry-After"])


class Frames(serial_terminal.Terminal):
    def __init__(self, path, flaw):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="faulty-"))
        guests = folder / "guests"
        guests.write_text("100000")
        self.flaw = flaw
        if flaw == "large parts":
            serial_terminal.PART_BYTES_MAX = 230
        if flaw == "trusts its line":
            serial_terminal.crc32 = self.trusting(serial_terminal.crc32)
        super().__init__(serial_terminal.open_port(path), serial_terminal.Memory(folder / "state"), guests)

    def trusting(self, crc32):
        unframe = serial_terminal.unframe

        def without_crc(gathered):
            out, at = bytearray(), 0
            while at < len(gathered):
                end = at + gathered[at]
                if end > len(gathered):
                    raise serial_terminal.Garbled("COBS")
                out += gathered[at + 1 : end]
                if end < len(gathered):
                    out.append(0)
                at = end
            if len(out) < 5:
                raise serial_terminal.Garbled("short")
            return bytes(out[:-4])

        serial_terminal.unframe = without_crc
        assert unframe
        return crc32

    def say_hello(self):
        super().say_hello()
        if self.flaw == "hurries its hellos":
            self.hello_at = time.monotonic() + 0.05

    def on_hello_message(self, name, m):
        if self.flaw == "takes any welcome" and name == "Welcome":
            m["nonce"] = self.nonce
        super().on_hello_message(name, m)
        if self.flaw == "does not wait after a refusal" and name == "Refused":
            self.hello_at = time.monotonic() + 0.3

    def forget_session(self):
        super().forget_session()
        if self.flaw == "does not mark":
            for request in self.memory.unfinished:
                request["maybe_stored"] = False

    def to_open(self, welcome):
        super().to_open(welcome)
        if self.flaw == "window and flight of its own":
            self.window, self.flight = 4, 8
        if self.flaw == "never pings":
            self.ping_at = time.monotonic() + 1000
        if self.flaw == "waits for ever":
            self.dead_s = 1000
        if self.flaw == "alters what it keeps" and welcome["resumed"]:
            kept = self.memory.unfinished[0]
            kept["request"] = kept["request"].replace("user", "guest")

    def on_time(self, now):
        if self.flaw == "impatient" and self.is_open and not self.flying and self.receipt[0] > self.memory.first and now > self.receipt_at + 1:
            self.cursor, self.receipt_at = (self.memory.first, 0), now
        super().on_time(now)

    def send_parts(self, now):
        super().send_parts(now)
        if self.flaw == "hurries its parts" and self.flying:
            self.receipt_at = min(self.receipt_at, now + 0.3)

    def go_back(self):
        if self.flaw == "impatient":
            self.flying = []
            self.cursor = self.receipt
        super().go_back()

    def on_message(self, name, m):
        if self.is_open:
            if self.flaw == "deaf to WhoAreYou" and name == "WhoAreYou":
                return
            if self.flaw == "deaf to Missing" and name == "Missing":
                return
            if self.flaw == "confirms any answer" and name in ("Stored", "Rejected"):
                m["tag"], m["number"] = self.tag(), self.memory.first
            if self.flaw == "confirms once" and m.get("number", self.memory.first) < self.memory.first:
                return
        super().on_message(name, m)

    def is_new_push(self, push):
        if self.flaw == "sees once" and push == self.push:
            return False
        return super().is_new_push(push)

    def finish(self, name, m):
        kept = self.memory.unfinished[0]
        super().finish(name, m)
        code = m.get("code")
        if self.flaw == "does not wait after busy" and code in (2, 3):
            self.not_before = 0
        if self.flaw == "insists" and code == 0:
            self.memory.unfinished.append(kept)
        if self.flaw == "sends what is answered" and name == "Stored":
            request = kept["request"].encode()
            self.say("Submit", tag=self.tag(), number=self.memory.first - 1, total=len(request), offset=0, maybe_stored=False, part=request[:224])


if __name__ == "__main__":
    {"json": Json, "http": Http, "mqtt": Mqtt, "frames": Frames}[sys.argv[1]](sys.argv[2], (sys.argv[3:] or [None])[0]).run()
