#!/usr/bin/env python3
"""`[uplink] delivery = "exactly-once"` against a real Apache Kafka: what terminals heard *stored* is what a read_committed reader gets, each
event once and in the order of its key, whatever is killed.

    exactly_once.py                          all cases
    exactly_once.py --kills 300 --seed 7     the kill loop alone, longer
    exactly_once.py PART...                  the cases whose name contains a part
"""

import argparse
import collections
import concurrent.futures
import http.client
import json
import random
import secrets
import threading
import time
import uuid

import kafka_cluster
import parts
import sarama

TERMINALS = 6
PARTITIONS = 3
DELIVERS_WITHIN_S = 60
# An order's life: each event of it must come after the one before.
STEPS = [("order.state_changed", {"status": "PREPARING"}), ("order.state_changed", {"status": "READY"})]


class House:
    """A gateway that delivers exactly once, terminals that submit until they hear *stored*, and what they heard."""

    def __init__(self, name, kafka, more="", topic=None, delivery="exactly-once"):
        self.name, self.kafka, self.topic = name, kafka, topic or f"{name}-events"
        self.gateway = parts.Gateway(
            f'[kafka]\nbrokers = "{kafka.brokers()}"\ntopic = "{self.topic}"\nstatus_topic = ""\n{more}\n'
            f'[uplink]\ndelivery = "{delivery}"\n',
            gateway=name,
        )
        self.stored = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = []

    def __enter__(self):
        self.gateway.__enter__()
        return self

    def __exit__(self, *failure):
        self.rest()
        self.gateway.__exit__(*failure)

    # ---- load ----

    def load(self, terminals=TERMINALS):
        """Terminals submit orders, each the next event only after it heard *stored* for the one before."""
        self._stop.clear()
        self._threads = [threading.Thread(target=self._orders, args=(f"till-{n}",)) for n in range(terminals)]
        for each in self._threads:
            each.start()

    def rest(self):
        self._stop.set()
        for each in self._threads:
            each.join()
        self._threads = []

    def _orders(self, terminal):
        while not self._stop.is_set():
            self.order(terminal)

    def order(self, terminal="till-1", note=""):
        """An order with its events; their seqs."""
        line = {"foodId": "food-001", "foodName": f"Pizza {note}", "price": 12.50, "quantity": 1, "discount": 0}
        first = self._submit(terminal, "/api/v1/orders", {"userId": "user-456", "orderDetails": [line]})
        path = f"/api/v1/orders/{first['orderId']}/events"
        return [first["seq"]] + [self._submit(terminal, path, {"type": kind, "data": data})["seq"] for kind, data in STEPS]

    def _submit(self, terminal, path, body):
        """Until it is stored: the same request again and again, as a terminal must."""
        key = uuid.uuid4().hex
        while True:
            try:
                status, answer = self.gateway.ask("POST", path, body, {"X-Terminal": terminal, "Idempotency-Key": key})
            except (OSError, http.client.HTTPException):
                # The gateway is being killed: the terminal waits a little and asks again.
                if self._stop.is_set() and not self.gateway.is_running():
                    raise
                time.sleep(0.02)
                continue
            if status in (200, 201):
                with self._lock:
                    self.stored[answer["eventId"]] = answer["seq"]
                return answer
            if status not in (429, 503):
                raise AssertionError(f"not stored: {status} {answer}")
            time.sleep(0.02)

    def stores(self, more, limit_s=60):
        """Waits until so many more events were stored."""
        goal = len(self.stored) + more
        parts.until(f"{more} more events are stored", lambda: len(self.stored) >= goal, limit_s)

    # ---- looking ----

    def metric(self, name):
        text = self.gateway.ask("GET", "/metrics")[1]
        values = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.split("{")[0].split(" ")[0] == f"dumbwaiter_{name}"]
        assert values, f"no metric {name}"
        return sum(values)

    def delivers(self, limit_s=DELIVERS_WITHIN_S, but=0):
        """Waits until Kafka has everything `but` so much."""
        last = max(self.stored.values(), default=0)

        def done():
            state = self.gateway.ask("GET", "/api/v1/state")[1]
            return state["lastSeq"] >= last and state["queued"] == but

        parts.until(f"{self.name} delivers what waits", done, limit_s)

    def lines(self):
        for line in self.gateway.log.read_text(errors="replace").splitlines():
            if line.startswith("{"):
                yield json.loads(line)

    def says(self, message, *details, limit_s=45):
        found = lambda line: line["message"] == message and all(part in json.dumps(line) for part in details)
        parts.until(f"{self.name} says {message!r} {details}", lambda: any(map(found, self.lines())), limit_s)

    def ledger(self, without=(), marked=0, doubled=0):
        """What a read_committed reader got is what was stored, in order; so many repeats are `marked`, so many events `doubled` (None: as many
        as there are, but for each a copy that is marked)."""
        came, unmarked, orders, marks = collections.Counter(), collections.Counter(), collections.defaultdict(list), 0
        for record in sarama.read(self.kafka.brokers(), self.topic, committed=True):
            event, headers = json.loads(record["value"]), record["headers"]
            seq = int(headers["gateway-seq"])
            assert self.stored.get(event["id"], seq) == seq, f"{event['id']} came under another seq"
            is_marked = headers.get("gateway-repeat") == "possible"
            marks += is_marked
            unmarked[event["id"]] += not is_marked
            if event["id"] not in came:
                orders[record["key"]].append(seq)
            came[event["id"]] += 1
        expected = set(self.stored) - set(without)
        lost = expected - set(came)
        twice = [event for event, count in came.items() if count > 1]
        unordered = [order for order, seqs in orders.items() if seqs != sorted(seqs)]
        # A request whose answer was cut off may be stored without anybody having heard so; its repeat heard the same event.
        unheard = set(came) - set(self.stored)
        print(
            f"{self.name}: {len(self.stored)} stored, {len(came)} delivered, {len(lost)} lost, {len(twice)} doubled, "
            f"{len(unordered)} orders out of order, {marks} marked as possible repeats",
            flush=True,
        )
        assert not lost, f"lost: {sorted(self.stored[event] for event in lost)}"
        assert not unordered, {order: orders[order] for order in unordered}
        assert not unheard, f"nobody submitted {unheard}"
        assert marked is None or marks == marked, f"{marks} are marked, not {marked}"
        if doubled is None:
            assert all(unmarked[event] <= 1 for event in twice), f"doubled without a mark: {twice}"
        else:
            assert len(twice) == doubled, twice


# ---- cases -----------------------------------------------------------------------------------------------------------


def what_is_killed_under_load_loses_and_doubles_nothing(kafka, kills=8, seed=None):
    """kill -9 of the gateway at any moment, and a broker that is killed or restarted now and then."""
    seed = seed if seed is not None else random.randrange(1_000_000)
    dice = random.Random(seed)
    print(f"kills {kills} seed {seed}", flush=True)
    kafka.create_topic("kills-events", PARTITIONS)
    with House("kills", kafka) as house:
        house.load()
        for kill in range(1, kills + 1):
            house.stores(dice.randrange(20, 200))
            # Anywhere within a transaction, and between two.
            time.sleep(dice.random() * 0.3)
            broker = kill % 5 == 3
            if broker:
                (kafka.kill if dice.random() < 0.5 else kafka.stop_node)(1)
            house.gateway.kill()
            house.gateway.start()
            if broker:
                house.stores(20)
                kafka.start_node(1)
        house.rest()
        house.delivers()
        house.ledger()
        assert house.metric("repeats_possible_total") == 0
        assert not house.gateway.errors(), house.gateway.errors()[:3]


def the_mode_changes_back_and_forth_with_a_backlog(kafka):
    kafka.create_topic("modes-events", PARTITIONS)
    with House("modes", kafka) as house:
        for mode in ("at-least-once", "exactly-once", "at-least-once", "exactly-once"):
            text = house.gateway.config.read_text()
            for other in ("at-least-once", "exactly-once"):
                text = text.replace(f'"{other}"', f'"{mode}"')
            kafka.stop_node(1)
            house.gateway.stop()
            house.gateway.config.write_text(text)
            house.gateway.start()
            house.load(terminals=2)
            house.stores(60)
            house.rest()
            kafka.start_node(1)
            house.delivers()
        house.ledger()


def one_bad_event_of_a_batch_is_a_dead_letter_and_the_others_arrive(kafka):
    kafka.create_topic("large-events", PARTITIONS, max_message_bytes=4000)
    with House("large", kafka) as house:
        kafka.stop_node(1)
        for _ in range(10):
            house.order()
        too_large = house.order(note=secrets.token_hex(4500))
        for _ in range(10):
            house.order()
        kafka.start_node(1)
        house.says("Kafka can never take this event; kept as a dead letter", "MessageSizeTooLarge", limit_s=60)
        house.delivers()
        assert house.metric("dead_letters") == 1
        # What comes later of the same order is held behind it.
        house.ledger(without=[event for event, seq in house.stored.items() if seq in too_large])


def another_gateway_of_our_id_is_an_alarm_and_costs_no_event(kafka):
    kafka.create_topic("twins-events", PARTITIONS)
    with House("twins", kafka) as house, House("twins", kafka) as twin:
        house.order()
        house.delivers()
        for _ in range(3):
            for each in (twin, house):
                each.order()
                each.delivers()
        house.says("another gateway writes to Kafka under this gateway's id: give each its own, or stop the copy")
        house.stored |= twin.stored
        house.ledger(marked=None, doubled=None)


CASES = [
    what_is_killed_under_load_loses_and_doubles_nothing,
    the_mode_changes_back_and_forth_with_a_backlog,
    one_bad_event_of_a_batch_is_a_dead_letter_and_the_others_arrive,
    another_gateway_of_our_id_is_an_alarm_and_costs_no_event,
]


def run(case):
    began = time.monotonic()
    with kafka_cluster.Cluster() as kafka:
        case(kafka)
    print(f"ok {case.__name__} ({time.monotonic() - began:.0f} s)", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*")
    parser.add_argument("--kills", type=int)
    parser.add_argument("--seed", type=int)
    arguments = parser.parse_args()
    sarama.program()
    if arguments.kills:
        with kafka_cluster.Cluster() as kafka:
            what_is_killed_under_load_loses_and_doubles_nothing(kafka, arguments.kills, arguments.seed)
        return
    cases = [case for case in CASES if not arguments.parts or any(part in case.__name__ for part in arguments.parts)]
    if not cases:
        raise SystemExit(f"no case is named like {arguments.parts}")
    # Side by side, each with a Kafka of its own: they mostly wait.
    with concurrent.futures.ThreadPoolExecutor(len(cases)) as pool:
        for done in [pool.submit(run, case) for case in cases]:
            done.result()
    print(f"{len(cases)} passed, 0 failed")


if __name__ == "__main__":
    main()
