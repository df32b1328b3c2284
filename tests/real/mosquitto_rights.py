#!/usr/bin/env python3
"""The broker's config that systemd/mosquitto/ ships ties each terminal to its own topics, and `dumbwaiter terminal` makes its users.

Nothing is learnt from what a broker answers: some acknowledge what they throw away. The gateway's side listens to everything, and what
arrives there counts.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import tempfile

import parts

parts.with_packages("mqtt")
import paho.mqtt.client as mqtt  # noqa: E402

HOUSE = "ord/v1/store-042"
# The terminals that `dumbwaiter terminal add` made, with their passwords.
PASSWORDS = {}


class Client:
    """A client that keeps what it hears."""

    def __init__(self, port, user, password=None, topics=()):
        self.heard = []
        self.refused = None
        self.granted = None
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5, reconnect_on_failure=False)
        self._client.username_pw_set(user, password or PASSWORDS.get(user) or parts.password(user))
        self._client.on_connect = lambda client, _, flags, reason, __: setattr(self, "refused", reason.is_failure)
        self._client.on_message = lambda client, _, message: self.heard.append((message.topic, message.payload.decode()))
        self._client.on_subscribe = lambda client, _, mid, reasons, __: setattr(self, "granted", [not r.is_failure for r in reasons])
        parts.until("the broker listens", lambda: self._client.connect("127.0.0.1", port) == mqtt.MQTT_ERR_SUCCESS)
        self._client.loop_start()
        parts.until(f"{user} hears from the broker", lambda: self.refused is not None)
        if topics and not self.refused:
            self._client.subscribe([(topic, 1) for topic in topics])
            parts.until(f"{user} has subscribed", lambda: self.granted is not None)

    def say(self, topic, payload, retain=False):
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(10)

    def close(self):
        self._client.disconnect()
        self._client.loop_stop()


def try_to_say(port, user, topic, payload, retain=False):
    """Returns once the broker has dealt with it: some versions acknowledge what they deny, Debian's 2.0.11 hangs up."""
    client = Client(port, user)
    with contextlib.suppress(RuntimeError):
        client.say(topic, payload, retain)
    client.close()


def terminal(broker, command, name, *more):
    """What `dumbwaiter terminal` says to programs."""
    config = pathlib.Path(broker.folder) / "dumbwaiter.toml"
    config.write_text(f'[gateway]\nid = "store-042"\n[mqtt]\nurl = "mqtt://127.0.0.1:{broker.port}"\nusername = "dumbwaiter"\n')
    where = ["--json", "--config", config, "--passwords", broker.folder / "dumbwaiter.passwd"]
    # Where mosquitto_passwd is not found the hash is our own, which the broker must take as well.
    env = os.environ | ({"PATH": "/nonexistent"} if name == "kiosk-2" else {})
    command = [parts.daemon(), "terminal", command, name, *more, *where]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=env)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["then"] == ["systemctl reload mosquitto"], told
    return told.get("mqtt")


def is_let_in(port, user, password):
    client = Client(port, user, password=password)
    client.close()
    return not client.refused


def a_password_counts_from_a_reload_on(broker):
    old = PASSWORDS["till-1"]
    new = terminal(broker, "rotate", "till-1")["password"]
    assert is_let_in(broker.port, "till-1", old) and not is_let_in(broker.port, "till-1", new), "nothing was reloaded yet"
    kiosk = Client(broker.port, "kiosk-2", topics=[f"{HOUSE}/board"])
    gateway = Client(broker.port, "dumbwaiter")
    broker.reload()
    parts.until("the new password is taken", lambda: is_let_in(broker.port, "till-1", new))
    assert not is_let_in(broker.port, "till-1", old)
    terminal(broker, "remove", "till-1")
    broker.reload()
    parts.until("the removed terminal is refused", lambda: not is_let_in(broker.port, "till-1", new))
    gateway.say(f"{HOUSE}/board", "still for all")
    parts.until("the other terminal kept its line", lambda: (f"{HOUSE}/board", "still for all") in kiosk.heard)
    gateway.close()
    kiosk.close()


def check(folder):
    broker = parts.Mosquitto(["dumbwaiter"], folder)
    for name in ("till-1", "kiosk-2"):
        told = terminal(broker, "add", name, "--mqtt")
        assert told["topics"]["submit"] == f"{HOUSE}/t/{name}/submit" and told["user"] == name
        PASSWORDS[name] = told["password"]
    with broker:
        port = broker.port
        gateway = Client(port, "dumbwaiter", topics=[f"{HOUSE}/#"])
        till = Client(port, "till-1", topics=[f"{HOUSE}/t/till-1/answer", f"{HOUSE}/t/till-1/status/+", f"{HOUSE}/board"])
        spy = Client(port, "kiosk-2", topics=[f"{HOUSE}/t/till-1/answer", f"{HOUSE}/t/+/answer", f"{HOUSE}/#", "#"])
        stranger = Client(port, "till-1", password="guessed")
        assert stranger.refused, "a wrong password is let in"

        # What a terminal may not say, and then its own word: once that is heard, the rest will never be.
        try_to_say(port, "kiosk-2", f"{HOUSE}/t/till-1/submit", "in another's name")
        try_to_say(port, "kiosk-2", f"{HOUSE}/t/till-1/answer", "a forged answer")
        try_to_say(port, "kiosk-2", f"{HOUSE}/t/kiosk-2/answer", "an answer to itself")
        try_to_say(port, "kiosk-2", f"{HOUSE}/gateway", "a forged gateway")
        try_to_say(port, "kiosk-2", f"{HOUSE}/board", "a forged board", retain=True)
        spy.say(f"{HOUSE}/t/kiosk-2/submit", "own")
        till.say(f"{HOUSE}/t/till-1/submit", "own")
        parts.until("both terminals' own words arrive", lambda: len(gateway.heard) >= 2)
        assert sorted(gateway.heard) == [(f"{HOUSE}/t/kiosk-2/submit", "own"), (f"{HOUSE}/t/till-1/submit", "own")], gateway.heard

        # What a terminal may not hear.
        gateway.say(f"{HOUSE}/t/till-1/answer", "for the till")
        gateway.say(f"{HOUSE}/t/till-1/status/order%2F1", "of its order")
        gateway.say(f"{HOUSE}/board", "for all")
        parts.until("the till hears its three", lambda: len(till.heard) >= 3)
        gateway.say(f"{HOUSE}/t/kiosk-2/answer", "for the kiosk")
        parts.until("the kiosk hears what is its own", lambda: (f"{HOUSE}/t/kiosk-2/answer", "for the kiosk") in spy.heard)
        spied = [payload for _, payload in spy.heard if payload not in ("for all", "for the kiosk", "own")]
        assert not spied, f"kiosk-2 heard {spied}"
        for client in (gateway, till, spy, stranger):
            client.close()
        a_password_counts_from_a_reload_on(broker)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="mosquitto-") as scratch:
        check(scratch)
    print("1 passed, 0 failed")
