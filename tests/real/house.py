"""A whole house on real parts: terminals on every kind of line, mosquitto, the daemon and Apache Kafka behind a line that can fail. And the
ledger: what the terminals heard against what a reader of Kafka got."""

import collections
import contextlib
import json
import tempfile

import kafka_cluster
import parts

parts.with_packages("mqtt")
import sarama  # noqa: E402
import terminals  # noqa: E402

TOPIC = "order-events"
PARTITIONS = 3
# What a terminal submits of each order.
TRIP = ["order.created", "PREPARING", "READY", "order.delivered"]
# Findings of a ledger that must not be.
WRONG = ("lost", "doubled", "outOfOrder", "unknown", "missingSeqs", "halfTrips", "unlike")


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

    def close(self):
        """Lets the terminals finish and the backlog drain. The ledger of it all."""
        for terminal in self.terminals:
            terminal.stop()
        self.backlog_is_gone()
        return ledger(sarama.read(self.kafka.brokers(), TOPIC), self.terminals)


@contextlib.contextmanager
def house(serial=1, http=1, mqtt=2):
    """A house with so many terminals on each kind of line, which submit one order after the other."""
    tills = [terminals.SerialTerminal(f"till-{n + 1}") for n in range(serial)]
    names = [f"kiosk-{n + 1}" for n in range(mqtt)]
    with tempfile.TemporaryDirectory(prefix="house-") as folder, kafka_cluster.Cluster() as kafka:
        for topic in (TOPIC, "order-events-dlq", "order-status", "gateway-status"):
            kafka.create_topic(topic, PARTITIONS)
        broker = parts.Mosquitto(["dumbwaiter", *names], folder)
        secret = broker.folder / "gateway.password"
        secret.write_text(parts.password("dumbwaiter"))
        config = (
            f'[kafka]\nbrokers = "{kafka.lines()}"\n'
            f'[[downlink]]\ntopic = "order-status"\n'
            f'[mqtt]\nurl = "mqtt://127.0.0.1:{broker.port}"\nusername = "dumbwaiter"\npassword_file = "{secret}"\n'
        )
        config += "".join(f'[[serial]]\nterminal = "{each.name}"\npath = "{each.path}"\nframing = "json"\n' for each in tills)
        centre = parts.Part("centre", [parts.daemon(), "centre", "--brokers", kafka.brokers()], folder)
        with broker, centre, parts.Gateway(config) as gateway:
            apps = [terminals.HttpTerminal(f"app-{n + 1}", gateway) for n in range(http)]
            kiosks = [terminals.MqttTerminal(name, gateway, broker.port) for name in names]
            everyone = [*tills, *apps, *kiosks]
            for terminal in everyone:
                terminal.start()
            yield House(kafka, broker, gateway, everyone)


def ledger(records, everyone):
    """What Kafka has against what the terminals heard. An event's name is its (epoch, seq): a record under a known name is a repeat, and must be
    the same event; a request under two names is doubled; the order of a key is judged on first appearances."""
    stored = {(t.name, request["requestId"]): answer for t in everyone for request, answer in t.answered}
    names = collections.defaultdict(set)
    sequences = collections.defaultdict(list)
    first = {}
    repeats = unlike = 0
    for record in records:
        headers = record["headers"]
        name = (headers["gateway-epoch"], int(headers["gateway-seq"]))
        request = headers["terminal"], headers["request-id"]
        event = json.loads(record["value"])["id"]
        if name in first:
            repeats += 1
            unlike += first[name] != (request, event)
            continue
        first[name] = request, event
        names[request].add(name)
        # What the terminal was told is what went out.
        answer = stored.get(request)
        unlike += answer is not None and (answer["eventId"], answer["seq"]) != (event, name[1])
        sequences[record["key"]].append((record["partition"], record["offset"], name[1]))
    in_order = lambda of_order: [seq for *_, seq in of_order] == sorted(seq for *_, seq in of_order)
    seqs = sorted(seq for _, seq in first)
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
        "unlike": unlike,
    }


def wrong(found):
    """What of a ledger must not be."""
    return {what: found[what] for what in WRONG if found[what]}
