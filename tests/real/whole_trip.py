#!/usr/bin/env python3
"""The whole trip on real parts: terminals, mosquitto, the daemon and Apache Kafka, through kill -9, dead lines and restarts.

At the end Kafka is read from its beginning and compared with what the terminals heard: nothing stored is lost, nothing is doubled, and
the events of each order are in their sequence.
"""

import collections
import tempfile

import kafka_cluster
import parts

parts.with_packages("mqtt")
import sarama  # noqa: E402
import terminals  # noqa: E402

TOPIC = "order-events"
PARTITIONS = 3
# Which statuses an order goes through, by what its terminal submits.
TRIP = ["order.created", "PREPARING", "READY", "order.delivered"]


class House:
    """What is in the house, and the line out of it."""

    def __init__(self, kafka, broker, gateway, everyone):
        self.kafka, self.broker, self.gateway, self.terminals = kafka, broker, gateway, everyone

    def progress(self, count=30):
        """Every terminal gets so many more answers."""
        aims = [(each, len(each.answered) + count) for each in self.terminals]
        for terminal, aim in aims:
            parts.until(
                f"{terminal.name} gets {count} more answers", lambda: len(terminal.answered) >= aim or terminal.broken, limit_s=60
            )
            if terminal.broken:
                raise terminal.broken

    def queued(self):
        return self.gateway.ask("GET", "/health")[1]["queued"]

    def backlog_grows(self, count=200):
        aim = self.queued() + count
        parts.until(f"{count} more events wait", lambda: self.queued() >= aim, limit_s=60)

    def backlog_is_gone(self):
        parts.until("nothing waits any more", lambda: self.queued() == 0, limit_s=90)


def all_is_well(house):
    house.progress()


def the_line_is_cut(house):
    house.kafka.cut_line()
    house.backlog_grows()
    house.kafka.mend_line()
    house.progress()


def the_gateway_is_killed(house):
    house.gateway.kill()
    house.gateway.start()
    house.progress()


def the_gateway_is_killed_while_the_line_is_cut(house):
    house.kafka.cut_line()
    house.backlog_grows()
    house.gateway.kill()
    house.gateway.start()
    house.progress()
    house.kafka.mend_line()
    house.progress()


def acknowledgements_are_lost_and_the_gateway_is_killed(house):
    # Kafka has the events, and the gateway cannot know: after the kill they come again, marked as what they are.
    house.kafka.eat_answers()
    house.backlog_grows()
    house.gateway.kill()
    house.kafka.mend_line()
    house.gateway.start()
    house.progress()


def kafka_is_killed(house):
    house.kafka.kill(1)
    house.backlog_grows()
    house.kafka.start_node(1)
    house.progress()


def the_broker_is_killed(house):
    house.broker.kill()
    house.broker.start()
    house.progress()


def the_gateway_is_stopped(house):
    code = house.gateway.stop()
    assert code == 0, f"the gateway ended with {code}"
    house.gateway.start()
    house.progress()


def the_centre_answers(house):
    # An order that nobody in the house moves on.
    app = next(each for each in house.terminals if isinstance(each, terminals.HttpTerminal))
    order = app.submit(terminals.new_order("order-123"))["orderId"]

    def paid():
        return house.gateway.ask("GET", f"/api/v1/orders/{order}")[1]["payment"] in ("PAID", "FAILED")

    parts.until("the centre has taken the payment, and the house knows", paid, limit_s=90)


TROUBLE = [
    all_is_well,
    the_line_is_cut,
    the_gateway_is_killed,
    the_gateway_is_killed_while_the_line_is_cut,
    acknowledgements_are_lost_and_the_gateway_is_killed,
    kafka_is_killed,
    the_broker_is_killed,
    the_gateway_is_stopped,
    the_centre_answers,
]


def repeats_get_the_first_answer(everyone):
    for terminal in everyone:
        request, first = terminal.answered[0]
        again = parts.until(f"{terminal.name} is answered again", lambda: terminal.ask(request))
        assert again == {**first, "duplicate": True}, f"{again} is not {first}, marked as a duplicate"


def ledger(records, everyone):
    """What Kafka has against what the terminals heard."""
    stored = {(t.name, request["requestId"]): answer for t in everyone for request, answer in t.answered}
    names = collections.defaultdict(set)
    sequences = collections.defaultdict(list)
    seen = set()
    repeats = 0
    for record in records:
        headers = record["headers"]
        name = (headers["gateway-epoch"], int(headers["gateway-seq"]))
        if name in seen:
            repeats += 1
            continue
        seen.add(name)
        names[headers["terminal"], headers["request-id"]].add(name)
        sequences[record["key"]].append((record["partition"], record["offset"], name[1]))
    in_order = lambda of_order: [seq for *_, seq in of_order] == sorted(seq for *_, seq in of_order)
    seqs = sorted(seq for _, seq in seen)
    return {
        "stored": len(stored),
        "orders": len(sequences),
        "repeats": repeats,
        "lost": len(stored.keys() - names.keys()),
        "doubled": sum(len(each) > 1 for each in names.values()),
        "outOfOrder": sum(not in_order(each) or len({p for p, *_ in each}) > 1 for each in sequences.values()),
        "unknown": len(names.keys() - stored.keys()),
        "missingSeqs": seqs[-1] - len(seqs) if seqs else 0,
        "halfTrips": sum(len(each) != len(TRIP) for order, each in sequences.items() if "/" in order),
    }


def main():
    till = terminals.SerialTerminal("till-1")
    with tempfile.TemporaryDirectory(prefix="whole-trip-") as folder, kafka_cluster.Cluster() as kafka:
        kafka.create_topic(TOPIC, PARTITIONS)
        for topic in ("order-events-dlq", "order-status", "gateway-status"):
            kafka.create_topic(topic, PARTITIONS)
        broker = parts.Mosquitto(["dumbwaiter", "kiosk-1", "kiosk-2"], folder)
        secret = broker.folder / "gateway.password"
        secret.write_text(parts.password("dumbwaiter"))
        config = (
            f'[kafka]\nbrokers = "{kafka.lines()}"\n'
            f'[[downlink]]\ntopic = "order-status"\n'
            f'[mqtt]\nurl = "mqtt://127.0.0.1:{broker.port}"\nusername = "dumbwaiter"\npassword_file = "{secret}"\n'
            f'[[serial]]\nterminal = "till-1"\npath = "{till.path}"\nframing = "json"\n'
        )
        centre = parts.Part("centre", [parts.daemon(), "centre", "--brokers", kafka.brokers()], folder)
        with broker, centre, parts.Gateway(config) as gateway:
            kiosks = [terminals.MqttTerminal(name, gateway, broker.port) for name in ("kiosk-1", "kiosk-2")]
            everyone = [till, terminals.HttpTerminal("app-1", gateway), *kiosks]
            for terminal in everyone:
                terminal.start()
            house = House(kafka, broker, gateway, everyone)
            for trouble in TROUBLE:
                trouble(house)
                print(f"ok {trouble.__name__}", flush=True)
            repeats_get_the_first_answer(everyone)
            for terminal in everyone:
                terminal.stop()
            house.backlog_is_gone()
            found = ledger(sarama.read(kafka.brokers(), TOPIC), everyone)
            print(found)
            assert not gateway.errors(), gateway.errors()
    wrong = {what: found[what] for what in ("lost", "doubled", "outOfOrder", "unknown", "missingSeqs", "halfTrips") if found[what]}
    assert found["stored"] > 1000 and not wrong, wrong
    print(f"{len(TROUBLE)} passed, 0 failed")


if __name__ == "__main__":
    main()
