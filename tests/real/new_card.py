#!/usr/bin/env python3
"""A card dies, a gateway is replaced: the steps of docs/operations.md, each tried on a real Kafka and a real broker.

The data folder is removed, as a new card would be without it. What Kafka has of this gateway's events makes it what it was; what only the old
card had comes by `store export` and `store import`.
"""

import contextlib
import json
import pathlib
import re
import shutil
import subprocess
import tempfile

import kafka_cluster
import parts

parts.with_packages("mqtt")
import sarama  # noqa: E402
import terminals  # noqa: E402

TOPIC = "order-events"
# Answers that a terminal did not hear: what it repeats after the card was replaced.
REPEATED = 5


class House:
    """A gateway that can lose its card, with a till on HTTP and a kiosk on MQTT."""

    def __init__(self, kafka, gateway, kiosk):
        self.kafka, self.gateway, self.kiosk = kafka, gateway, kiosk
        self.till = terminals.HttpTerminal("till-1", gateway)

    def set_store(self, **keys):
        """Other keys of [store] from the next start on."""
        text = self.gateway.config.read_text()
        for key, value in keys.items():
            text = re.sub(rf"^{key} = .*$", f"{key} = {json.dumps(value)}", text, flags=re.MULTILINE)
        self.gateway.config.write_text(text)

    def begin(self):
        """Starts the gateway, which need not be ready."""
        parts.Part.start(self.gateway)
        parts.until("it answers", lambda: self.health()["status"], limit_s=20)

    def ready(self, limit_s=30):
        parts.until("it is ready", lambda: self.gateway.ask("GET", "/ready")[0] == 200, limit_s=limit_s)

    def health(self):
        return self.gateway.ask("GET", "/health")[1]

    def attention(self, word):
        return [sentence for sentence in self.health()["attention"] if word in sentence]

    def metric(self, name):
        text = self.gateway.ask("GET", "/metrics")[1]
        return int(re.search(rf"^dumbwaiter_{name} (\d+)", text, re.MULTILINE)[1])

    def delivered(self, answered):
        """Waits until Kafka has these, which /health may say too early. All events that it has, by their ids."""

        def all_there():
            found = {event["id"]: event for event in (json.loads(record["value"]) for record in self.records())}
            return found if all(answer["eventId"] in found for *_, answer in answered) else None

        return parts.until("all is delivered", all_there, limit_s=60)

    def orders(self):
        """What stands on the board, without what another start dates anew."""
        shown = self.gateway.ask("GET", "/api/v1/orders")[1]
        shown = shown["orders"] if isinstance(shown, dict) else shown
        return {each["orderId"]: (each.get("ticket"), each["status"], each["payment"], len(each["lines"])) for each in shown}

    def records(self):
        return sarama.read(self.kafka.brokers(), TOPIC, committed=True)

    def new_card(self):
        self.gateway.kill()
        shutil.rmtree(self.gateway.data)

    def store(self, what, **options):
        command = [str(parts.daemon()), "store", what, "--data-dir", str(self.gateway.data)]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, **options).stdout

    def repeat(self, answered):
        """Each of these is answered again as it was, and marked."""
        for terminal, request, answer in answered:
            again = terminal.ask(request)
            assert again == {**answer, "duplicate": True}, f"{again} is not {answer}"


def submit(terminal, request):
    """Stores it; what a terminal may repeat."""
    answer = terminal.submit(request)
    return terminal, terminal.answered[-1][0], answer


def fill(house):
    """A morning: orders over HTTP and MQTT, in all states."""
    answered = []
    for n in range(24):
        terminal = house.kiosk if n % 3 == 0 else house.till
        order = f"order-{n}"
        answered.append(submit(terminal, terminals.new_order(order)))
        for status in ["PREPARING", "READY", "DELIVERED"][: n % 4]:
            change = {"type": "order.state_changed", "orderId": order, "data": {"status": status}}
            answered.append(submit(terminal, change))
    house.delivered(answered)
    # What the centre says of one of them, and nobody in the house.
    paid = {"type": "order.payment_processed", "orderId": "order-0", "data": {"status": "PAID"}, "version": "1.0"}
    sarama.produce(house.kafka.brokers(), "order-status", [f"store-042\t{json.dumps(paid)}"])
    parts.until("the payment is shown", lambda: house.orders()["order-0"][2] == "PAID")
    return answered


def card_dead(house, answered):
    before, records = house.orders(), len(house.records())
    tickets = [answer["ticket"] for *_, answer in answered if "ticket" in answer]
    house.new_card()
    house.kafka.cut_line()
    house.begin()
    status, refused = house.gateway.ask("POST", "/api/v1/orders", {"orderDetails": [terminals.LINE]}, {"X-Terminal": "till-1"})
    assert (status, refused["code"]) == (503, "busy") and "new" in refused["message"], refused
    assert house.gateway.ask("GET", "/ready")[0] == 503
    parts.until("the terminals are told", lambda: house.kiosk.state.get("accepting") is False)
    refused = house.kiosk.ask({"requestId": "early", **terminals.new_order("early")})
    assert refused["code"] == "busy", refused
    assert house.attention("the store is new"), house.health()
    assert house.metric("rebuilding") == 1
    print("ok a new card takes nothing while nobody knows what it should remember")

    house.kafka.mend_line()
    house.ready()
    assert house.metric("recalled_total") == len(answered) and house.metric("rebuilding") == 0
    house.repeat(answered[-REPEATED:] + answered[:REPEATED])
    parts.until("the centre's word is shown again", lambda: house.orders() == before)
    following = submit(house.till, terminals.new_order("after-the-card"))
    assert following[2]["ticket"] == max(tickets) + 1, following
    events = house.delivered([following])
    assert len(house.records()) == records + 1, "something was sent again"
    assert "maybeStored" not in events[following[2]["eventId"]]["data"]
    assert not house.health()["attention"], house.health()
    assert house.metric("another_gateway") == 0
    print("ok then it answers repeats as the old one did, and shows and counts what that one did")


def restart(house):
    before = house.orders()
    house.gateway.kill()
    house.gateway.start()
    assert house.metric("rebuilding") == 0 and house.metric("recalled_total") == 0 and house.orders() == before
    print("ok it is rebuilt once")


def unsent(house, names):
    """What only the card has: orders that the line did not carry."""
    house.kafka.cut_line()
    answered = [submit(house.till, terminals.new_order(name)) for name in names]
    change = {"type": "order.state_changed", "orderId": "order-4", "data": {"status": "PREPARING"}}
    answered.append(submit(house.till, change))
    house.gateway.kill()
    return answered, house.store("export")


def exactly_once_in_kafka(house, answered):
    house.delivered(answered)
    found = [json.loads(record["value"])["id"] for record in house.records()]
    for *_, answer in answered:
        assert found.count(answer["eventId"]) == 1, answer


def exported_then_rebuilt(house):
    answered, lines = unsent(house, ["left-1", "left-2"])
    shutil.rmtree(house.gateway.data)
    house.gateway.data.mkdir()
    house.store("import", input=lines)
    house.kafka.mend_line()
    house.begin()
    house.ready()
    house.repeat(answered)
    orders = house.orders()
    assert orders["left-1"][0] and orders["order-4"][1] == "PREPARING", orders
    exactly_once_in_kafka(house, answered)
    print("ok what the old card had alone is imported into the new one before its first start")


def rebuilt_then_exported(house):
    answered, lines = unsent(house, ["late-1", "late-2"])
    shutil.rmtree(house.gateway.data)
    house.kafka.mend_line()
    house.begin()
    house.ready()
    assert "late-1" not in house.orders()
    meanwhile = submit(house.till, terminals.new_order("meanwhile"))
    house.delivered([meanwhile])
    assert house.gateway.stop() == 0
    house.store("import", input=lines)
    house.begin()
    house.ready()
    house.repeat([*answered, meanwhile])
    assert house.orders()["late-1"][0], house.orders()
    exactly_once_in_kafka(house, [*answered, meanwhile])
    print("ok or into one that has been at work meanwhile")


def kafka_away(house):
    """Neither the card nor the line: the house goes on."""
    known = submit(house.kiosk, {"type": "order.created", "data": {"orderDetails": [terminals.LINE]}})
    house.delivered([known])
    house.set_store(new_card_offline_seconds=2)
    house.new_card()
    house.kafka.cut_line()
    house.begin()
    house.ready()
    assert house.attention("maybeStored"), house.health()
    terminal, request, first = known
    twice = terminal.ask(request)
    assert twice["result"] == "stored" and not twice["duplicate"], twice
    marked = submit(house.till, terminals.new_order("marked"))
    house.kafka.mend_line()
    parts.until("it is rebuilt", lambda: house.metric("rebuilding") == 0, limit_s=60)
    house.repeat([(terminal, request, twice), marked])
    events = house.delivered([(terminal, request, twice), marked])
    assert [events[each["eventId"]]["data"].get("maybeStored") for each in (first, twice, marked[2])] == [None, True, True]
    assert house.metric("stored_twice_total") == 1 and house.attention("again"), house.health()
    plain = submit(house.till, terminals.new_order("plain"))
    assert "maybeStored" not in house.delivered([plain])[plain[2]["eventId"]]["data"]
    print("ok without Kafka it goes on after its time, marks what it takes, and is rebuilt later")

    house.set_store(new_card="accept")
    house.new_card()
    house.kafka.cut_line()
    house.begin()
    house.ready(limit_s=2)
    house.kafka.mend_line()
    parts.until("it is rebuilt", lambda: house.metric("rebuilding") == 0, limit_s=60)
    print("ok by a setting it goes on at once")


def says_it_lives(house):
    """The gateway's sign of life, before the minute is over: what waits for the line is part of it."""
    house.kafka.cut_line()
    waiting = submit(house.till, terminals.new_order(f"waiting-{len(house.till.answered)}"))
    parts.until("it waits", lambda: house.health()["queued"] > 0)
    house.kafka.mend_line()
    house.delivered([waiting])


def second_gateway(house):
    """The old one was only put aside, and somebody plugs it in again."""
    says_it_lives(house)
    assert house.metric("another_gateway") == 0 and not house.attention("another gateway"), house.health()
    lives = lambda: {json.loads(record["value"])["boot"] for record in sarama.read(house.kafka.brokers(), "gateway-status")}
    before = lives()
    with parts.Gateway(f'[kafka]\nbrokers = "{house.kafka.brokers()}"\n'):
        parts.until("the other one lives", lambda: lives() - before)
        says_it_lives(house)
        parts.until("the alarm", lambda: house.metric("another_gateway") == 1, limit_s=70)
        assert house.attention("another gateway is at work under the id store-042"), house.health()
        assert house.gateway.ask("GET", "/api/v1/state")[1]["attention"] == house.health()["attention"]
    print("ok a second gateway of the same id is an alarm")


class Kiosk(terminals.MqttTerminal):
    """It also hears what the gateway says of itself."""

    def __init__(self, name, gateway, port):
        self.state = {}
        super().__init__(name, gateway, port)
        own = f"ord/v1/{gateway.gateway}/gateway"
        connected, heard = self._client.on_connect, self._client.on_message
        self._client.on_connect = lambda client, *about: (connected(client, *about), client.subscribe(own, 1))

        def on_message(client, about, message):
            if message.topic == own:
                self.state = json.loads(message.payload)
            else:
                heard(client, about, message)

        self._client.on_message = on_message
        # It may have been connected before it heard that it should subscribe.
        self._client.subscribe(own, 1)


def main():
    with kafka_cluster.Cluster() as kafka, tempfile.TemporaryDirectory(prefix="new-card-") as folder, contextlib.ExitStack() as stack:
        for topic in (TOPIC, "order-events-dlq", "order-status", "gateway-status"):
            kafka.create_topic(topic, 3)
        broker = stack.enter_context(parts.Mosquitto(["dumbwaiter", "kiosk-1"], folder))
        secret = pathlib.Path(folder) / "gateway.password"
        secret.write_text(parts.password("dumbwaiter"))
        config = (
            f'[kafka]\nbrokers = "{kafka.lines()}"\n[[downlink]]\ntopic = "order-status"\n'
            f'[mqtt]\nurl = "mqtt://127.0.0.1:{broker.port}"\nusername = "dumbwaiter"\npassword_file = "{secret}"\n'
        )
        store = 'new_card = "rebuild"\nnew_card_offline_seconds = 60\nnew_card_minutes = 2\n'
        gateway = stack.enter_context(parts.Gateway(config, store=store))
        house = House(kafka, gateway, Kiosk("kiosk-1", gateway, broker.port))
        answered = fill(house)
        card_dead(house, answered)
        restart(house)
        exported_then_rebuilt(house)
        rebuilt_then_exported(house)
        kafka_away(house)
        assert not gateway.errors(), gateway.errors()
        second_gateway(house)
    print("8 passed, 0 failed")


if __name__ == "__main__":
    main()
