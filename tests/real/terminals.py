"""Terminals that never give an order up: over HTTP, MQTT and a serial line, written from docs/protocol.md.

Each submits a request again, under the same id, until it is answered. Threads, for a broken line of one must not hold up another.
"""

import json
import os
import select
import threading
import time
import tty
import urllib.error
import urllib.request
import uuid

import paho.mqtt.client as mqtt
import parts

# A real terminal waits 5 s; a test has less time.
ANSWER_LIMIT_S = 2
LINE = {"foodId": "food-001", "foodName": "Pizza Margherita", "price": 12.50, "quantity": 1, "discount": 0}


def new_order(order):
    return {"type": "order.created", "orderId": order, "userId": "user-456", "data": {"orderDetails": [LINE]}}


class Terminal(threading.Thread):
    """Orders, one after the other, from creation to delivery. `answered` holds (request, answer) of all that was stored; `pause_s` is
    between each answer and the next request."""

    def __init__(self, name):
        super().__init__(daemon=True)
        self.name = name
        self.pause_s = 0
        self.answered = []
        self.broken = None
        self._enough = threading.Event()

    def ask(self, request):
        """Submits once. The answer, or None if none came in time."""
        raise NotImplementedError

    def run(self):
        try:
            while not self._enough.is_set():
                self._one_order()
        except Exception as broken:
            self.broken = broken

    def _one_order(self):
        order = f"{self.name}/{uuid.uuid4()}"  # a slash, because it must survive topics and paths
        self.submit(new_order(order))
        for status in ("PREPARING", "READY"):
            self.submit({"type": "order.state_changed", "orderId": order, "data": {"status": status}})
        self.submit({"type": "order.delivered", "orderId": order, "data": {}})

    def submit(self, request):
        """Returns once the request is stored."""
        request = {"requestId": str(uuid.uuid4()), **request}
        while True:
            answer = self.ask(request)
            if answer is not None and answer["result"] == "stored":
                self.answered.append((request, answer))
                self._enough.wait(self.pause_s)
                return answer
            if answer is not None:
                if answer["code"] not in ("busy", "full"):
                    raise AssertionError(f"{self.name}: {request} was rejected: {answer}")
                time.sleep(min(answer.get("retryAfterMs", 500) / 1000, 1))

    def stop(self):
        """Lets it finish its order."""
        self._enough.set()
        self.join(60)
        if self.is_alive() or self.broken:
            raise AssertionError(f"{self.name} did not finish: {self.broken}")


class HttpTerminal(Terminal):
    def __init__(self, name, gateway):
        super().__init__(name)
        self._gateway = gateway

    def ask(self, request):
        headers = {"Idempotency-Key": request["requestId"], "X-Terminal": self.name}
        if request["type"] == "order.created":
            path, body = "/api/v1/orders", {"orderId": request["orderId"], "userId": request["userId"], **request["data"]}
        else:
            order = urllib.request.quote(request["orderId"], safe="")
            path, body = f"/api/v1/orders/{order}/events", {"type": request["type"], "data": request["data"]}
        try:
            return self._gateway.ask("POST", path, body, headers)[1]
        except (OSError, urllib.error.URLError):
            # The gateway is gone for a moment: nothing says when it is back.
            time.sleep(0.05)
            return None


class WaitingTerminal(Terminal):
    """A terminal whose answers come by themselves."""

    def __init__(self, name):
        super().__init__(name)
        self._news = threading.Condition()
        self._answers = {}

    def send(self, request):
        raise NotImplementedError

    def heard(self, answer):
        with self._news:
            self._answers[answer["requestId"]] = answer
            self._news.notify_all()

    def ask(self, request):
        self.send(request)
        with self._news:
            self._news.wait_for(lambda: request["requestId"] in self._answers, ANSWER_LIMIT_S)
            return self._answers.pop(request["requestId"], None)


class MqttTerminal(WaitingTerminal):
    def __init__(self, name, gateway, port):
        super().__init__(name)
        self._topic = f"ord/v1/{gateway.gateway}/t/{name}"
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv311)
        self._client.username_pw_set(name, parts.password(name))
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe(f"{self._topic}/answer", 1)
        self._client.on_message = lambda client, _, message: self.heard(json.loads(message.payload))
        self._client.connect_async("127.0.0.1", port)
        self._client.loop_start()

    def send(self, request):
        if self._client.is_connected():
            self._client.publish(f"{self._topic}/submit", json.dumps(request), qos=1)

    def stop(self):
        super().stop()
        self._client.disconnect()
        self._client.loop_stop()


class SerialTerminal(WaitingTerminal):
    """JSON lines on a pseudo-terminal: `path` is the gateway's end."""

    def __init__(self, name):
        super().__init__(name)
        self._line, self._far = os.openpty()
        tty.setraw(self._far)
        self.path = os.ttyname(self._far)
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, request):
        # A line feed first: it ends what a reset may have left half said.
        os.write(self._line, b"\n" + json.dumps(request).encode() + b"\n")

    def _listen(self):
        half = b""
        while True:
            select.select([self._line], [], [])
            half += os.read(self._line, 65536)
            *lines, half = half.split(b"\n")
            for line in filter(None, lines):
                self.heard(json.loads(line))
