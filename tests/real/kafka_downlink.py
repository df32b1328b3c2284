#!/usr/bin/env python3
"""What becomes of a status topic on a real Apache Kafka while a gateway reads it, or is away: records expire, partitions are added, it is
made anew, it is compacted, a hundred thousand statuses come at once.

    kafka_downlink.py             all cases
    kafka_downlink.py PART...     those whose name contains a part
"""

import concurrent.futures
import json
import sys
import time
import uuid

import kafka_cluster
import parts
import sarama
from kafka_errors import House

BURST = 100_000
# Records before the end of a partition that a new store reads at most.
FIRST_RECORDS_MAX = 10_000
MEMORY_GROWTH_MAX = 48 << 20


class Away:
    """A house that reads a status topic of its own, with what it needs to be told things."""

    def __init__(self, kafka, name, partitions=1, select="partition = 0", **config):
        self.kafka, self.name, self.topic = kafka, name, f"{name}-statuses"
        for topic in (f"{name}-events", f"{name}-life"):
            kafka.create_topic(topic)
        kafka.create_topic(self.topic, partitions, **config)
        way = 'select = "all"' if select == "all" else f'select = "partition"\n{select}'
        self.house = House(name, kafka.brokers(), more=f'[[downlink]]\ntopic = "{self.topic}"\n{way}\n')

    def __enter__(self):
        self.house.__enter__()
        return self

    def __exit__(self, *failure):
        self.house.__exit__(*failure)

    def orders(self, count=1):
        return [self.house.gateway.order()["orderId"] for _ in range(count)]

    def assign(self, shippers, key=None):
        """The centre names a shipper for each order, in this order: [(order, shipper)]."""
        lines = []
        for order, shipper in shippers:
            status = {"id": str(uuid.uuid4()), "type": "order.shipper_assigned", "orderId": order, "data": {"shipperId": shipper}}
            status |= {"occurredAt": "2026-01-01T12:00:00Z", "version": "1.0"}
            lines.append(f"{key or self.name}\t{json.dumps(status)}")
        sarama.produce(self.kafka.brokers(), self.topic, lines)

    def shipper(self, order):
        return self.house.gateway.ask("GET", f"/api/v1/orders/{order}")[1].get("shipper")

    def hears(self, order, shipper, limit_s=60):
        parts.until(f"{self.name}: {order} has {shipper}", lambda: self.shipper(order) == shipper, limit_s)

    def stop(self):
        """In good order: offsets are written down."""
        assert self.house.gateway.stop() == 0

    def start(self):
        self.house.gateway.start()


def a_log_made_anew_while_the_gateway_was_away_is_noticed_at_its_start(kafka):
    with Away(kafka, "anew") as away:
        (order,) = away.orders()
        away.assign([(order, f"s-{n}") for n in range(5)])
        away.hears(order, "s-4")
        away.stop()
        kafka.delete_topic(away.topic)
        kafka.create_topic(away.topic)
        # It is longer than the offset, which would go on inside it as if nothing had happened.
        away.assign([(order, f"t-{n}") for n in range(4)] + [("elsewhere", "x")] * 10)
        away.start()
        away.house.says("a topic was made anew under the same name; what was in it is gone", away.topic)
        away.hears(order, "t-3")
        away.stop()
        away.start()
        away.assign([(order, "u")])
        away.hears(order, "u")
        said = [line for line in away.house.lines() if line["message"].startswith("a topic was made anew")]
        assert len(said) == 1, said


def records_that_expired_unread_are_told_and_what_is_left_is_read(kafka):
    with Away(kafka, "expired") as away:
        first, second = away.orders(2)
        away.assign([(first, "s-1")])
        away.hears(first, "s-1")
        away.stop()
        away.assign([(first, f"s-{n}") for n in range(2, 9)] + [(second, "s-9")])
        kafka.delete_records(away.topic, 0, before=8)
        away.start()
        line = away.house.says("status records expired before they were read", away.topic)
        assert (line["skipped"], line["next"]) == (7, 8), line
        away.hears(second, "s-9")
        assert away.shipper(first) == "s-1"
        # The same while it reads: the broker says so, and it goes on.
        away.assign([(second, "s-10")])
        away.hears(second, "s-10")


def partitions_that_were_added_are_read_beside_the_old(kafka):
    with Away(kafka, "added", partitions=2, select="all") as away:
        orders = away.orders(6)
        # The key decides about the partition.
        away.assign([(orders[0], "s-0")], key=orders[0])
        away.hears(orders[0], "s-0")
        kafka.add_partitions(away.topic, 6)
        for n, order in enumerate(orders):
            away.assign([(order, f"t-{n}")], key=order)
        used = {record["partition"] for record in sarama.read(kafka.brokers(), away.topic)}
        assert any(partition > 1 for partition in used), used
        away.stop()
        away.start()
        for n, order in enumerate(orders):
            away.hears(order, f"t-{n}")


def tombstones_of_a_compacted_topic_are_passed_over(kafka):
    with Away(kafka, "compacted", cleanup_policy="compact") as away:
        (order,) = away.orders()
        away.assign([(order, "s-1")])
        sarama.produce(kafka.brokers(), away.topic, [f"{away.name}\t"] * 3)
        away.assign([(order, "s-2")])
        away.hears(order, "s-2")
        assert not [line for line in away.house.lines() if "unreadable" in line["message"]]


def a_burst_of_100000_statuses_ends_in_the_right_projection_within_bounded_memory(kafka):
    with Away(kafka, "burst") as away:
        orders = away.orders(20)
        away.assign([(order, "nobody") for order in orders])
        for order in orders:
            away.hears(order, "nobody")
        before = away.house.metric_of("process_resident_memory_bytes")
        began = time.monotonic()
        away.assign([(orders[n % len(orders)], f"s-{n}") for n in range(BURST)])
        for n, order in enumerate(orders):
            away.hears(order, f"s-{BURST - len(orders) + n}", limit_s=150)
        grown = away.house.metric_of("process_resident_memory_bytes") - before
        print(f"{BURST} statuses in {time.monotonic() - began:.0f} s, memory grew by {grown / (1 << 20):.1f} MiB", flush=True)
        assert grown < MEMORY_GROWTH_MAX, grown
        lines = list(away.house.lines())
        assert len(lines) < 100, f"{len(lines)} lines in the log"

        # A new store, as of a new card, reads the last of them, and says once what it skipped.
        way = f'[[downlink]]\ntopic = "{away.topic}"\nselect = "partition"\npartition = 0\n'
        with House("newcard", kafka.brokers(), topic=away.house.topic, more=way) as fresh:
            line = fresh.says("status partition is new", away.topic, begins=True)
            assert line["skipped"] == BURST + len(orders) - FIRST_RECORDS_MAX, line


CASES = [
    a_log_made_anew_while_the_gateway_was_away_is_noticed_at_its_start,
    records_that_expired_unread_are_told_and_what_is_left_is_read,
    partitions_that_were_added_are_read_beside_the_old,
    tombstones_of_a_compacted_topic_are_passed_over,
    a_burst_of_100000_statuses_ends_in_the_right_projection_within_bounded_memory,
]


def main():
    cases = [case for case in CASES if not sys.argv[1:] or any(part in case.__name__ for part in sys.argv[1:])]
    if not cases:
        raise SystemExit(f"no case is named like {sys.argv[1:]}")
    sarama.program()
    with kafka_cluster.Cluster() as kafka, concurrent.futures.ThreadPoolExecutor(len(cases)) as pool:
        began = time.monotonic()
        running = {pool.submit(case, kafka): case for case in cases}
        failed = []
        for done in concurrent.futures.as_completed(running):
            name = running[done].__name__
            if failure := done.exception():
                print(f"FAILED {name}: {failure!r}", flush=True)
                failed.append(failure)
            else:
                print(f"ok {name} ({time.monotonic() - began:.0f} s)", flush=True)
    if failed:
        raise failed[0]
    print(f"{len(cases)} passed, 0 failed")


if __name__ == "__main__":
    main()
