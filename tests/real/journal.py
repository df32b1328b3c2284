#!/usr/bin/env python3
"""The journal on a real Kafka: what `order ID --history` says is where Kafka has it, and `replay` sends the same again, marked."""

import contextlib
import datetime
import json
import subprocess

import kafka_cluster
import parts
import sarama

TOPIC = "order-events"
STATUSES = ["PREPARING", "READY", "DELIVERED"]


def ask(gateway, *line):
    """What the command line says of a running daemon, as JSON."""
    command = [parts.daemon(), *line, "--json", "--url", gateway.url("")]
    return json.loads(subprocess.run([str(each) for each in command], stdout=subprocess.PIPE, text=True, check=True).stdout)


def now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat()


def events(gateway, order):
    return [each for each in ask(gateway, "order", order, "--history")["history"] if each["what"] == "event"]


def delivered(gateway, orders):
    """Their histories, once all of it is in Kafka and written down."""

    def known():
        histories = {order: events(gateway, order) for order in orders}
        all_known = all("offset" in event for history in histories.values() for event in history)
        return histories if all_known else None

    return parts.until("the journal knows where all went", known, limit_s=30)


def name(record):
    return tuple(record["headers"][key] for key in ("gateway-id", "gateway-epoch", "gateway-seq"))


def main():
    with kafka_cluster.Cluster() as kafka, contextlib.ExitStack() as stack:
        kafka.create_topic(TOPIC, 3)
        gateway = stack.enter_context(parts.Gateway(f'[kafka]\nbrokers = "{kafka.brokers()}"\n'))
        began = now()
        orders = [gateway.order()["orderId"] for _ in range(5)]
        for status in STATUSES:
            for order in orders:
                gateway.set_status(order, status)
        histories = delivered(gateway, orders)
        first = sarama.read(kafka.brokers(), TOPIC)
        places = {(record["partition"], record["offset"]): record for record in first}
        for order, history in histories.items():
            assert len(history) == 1 + len(STATUSES), history
            for event in history:
                record = places[event["partition"], event["offset"]]
                assert (record["key"], name(record)[1:]) == (order, (event["epoch"], str(event["seq"]))), f"{event} is not {record}"
        print("ok a history says where Kafka has each event")

        # Across a restart, and beside what is live.
        gateway.stop()
        gateway.start()
        done = ask(gateway, "replay", "--from", began, "--to", now(), "--order", orders[0])
        assert (done["sent"], done["incomplete"]) == (1 + len(STATUSES), False), done
        done = ask(gateway, "replay", "--from", began, "--to", now())
        assert (done["sent"], done["incomplete"]) == (len(first), False), done
        again = sarama.read(kafka.brokers(), TOPIC)[0:]
        repeats = [record for record in again if record["headers"].get("gateway-repeat") == "replay"]
        assert len(again) == 2 * len(first) + 1 + len(STATUSES) and len(repeats) == len(first) + 1 + len(STATUSES), len(again)
        originals = {name(record): (record["key"], record["value"], record["partition"]) for record in first}
        for record in repeats:
            assert (record["key"], record["value"], record["partition"]) == originals[name(record)], record
        for order in orders:
            seqs = [int(name(record)[2]) for record in repeats if record["key"] == order]
            ours = sorted({*seqs})
            assert seqs == (2 * ours if order == orders[0] else ours), f"out of order: {seqs}"
        print("ok what is replayed is the same again, marked and in order")

        commands = [each for each in ask(gateway, "order", orders[0], "--history")["history"] if each["what"] == "command"]
        assert [each["command"] for each in commands] == ["replay"] and commands[0]["by"], commands
        # Whatever is live goes on beside it.
        assert delivered(gateway, [gateway.order()["orderId"]])
        print("ok who replayed is written down")
        assert not gateway.errors(), gateway.errors()
    print("3 passed, 0 failed")


if __name__ == "__main__":
    main()
