#!/usr/bin/env python3
"""House and centre put the events of one order into one partition, whichever of the two a centre is written with: Go's Sarama or Java.

An order's events keep their sequence only within a partition. librdkafka's own partitioner is a third one, so the gateway has to be told.
"""

import pathlib
import subprocess
import tempfile

import kafka_cluster
import parts
import sarama

TOPIC = "order-events"
# A prime, so that no two ways of hashing agree by a common factor.
PARTITIONS = 7
ORDERS = 40
JAVA_TOOLS = parts.PARTS / f"kafka-tools-{kafka_cluster.VERSION}"
POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>test</groupId><artifactId>tools</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{version}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-nop</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""


def java_tools():
    """The class path of Kafka's own command line tools, fetched once."""
    if not JAVA_TOOLS.is_dir():
        with tempfile.TemporaryDirectory(dir=JAVA_TOOLS.parent) as scratch:
            (pathlib.Path(scratch) / "pom.xml").write_text(POM.format(version=kafka_cluster.VERSION))
            maven = [parts.tool("mvn"), "--quiet", "--batch-mode", "-Dstyle.color=never", "dependency:copy-dependencies", "-DoutputDirectory=jars"]
            subprocess.run(maven, cwd=scratch, check=True, stdin=subprocess.DEVNULL)
            # Whole or not at all: a folder that is there can be used.
            (pathlib.Path(scratch) / "jars").rename(JAVA_TOOLS)
    return f"{JAVA_TOOLS}/*"


def produce_with_sarama(brokers, keys):
    sarama.produce(brokers, TOPIC, keys)


def produce_with_java(brokers, keys):
    java = [parts.tool("java"), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", java_tools()]
    tool = ["org.apache.kafka.tools.ConsoleProducer", "--bootstrap-server", brokers, "--topic", TOPIC]
    keyed = ["--property", "parse.key=true", "--property", "key.separator=|"]
    lines = "".join(f"{key}|from the centre\n" for key in keys)
    subprocess.run(java + tool + keyed, input=lines, text=True, check=True, stdout=subprocess.DEVNULL)


def all_of(brokers, count):
    """The records, once there are `count`."""

    def read():
        records = sarama.read(brokers, TOPIC)
        return len(records) >= count and records

    return parts.until(f"{count} records in {TOPIC}", read, limit_s=60)


def partitions_of(partitioner, produce):
    """The partition of each order's event from the house, and of the one from the centre."""
    with kafka_cluster.Cluster() as kafka:
        kafka.create_topic(TOPIC, PARTITIONS)
        for topic in ("order-events-dlq", "gateway-status"):
            kafka.create_topic(topic, 1)
        config = f'[kafka]\nbrokers = "{kafka.brokers()}"\npartitioner = "{partitioner}"\n'
        with parts.Gateway(config) as gateway:
            orders = [gateway.order()["orderId"] for _ in range(ORDERS)]
            records = all_of(kafka.brokers(), ORDERS)
            assert not gateway.errors(), gateway.errors()
        house = {record["key"]: record["partition"] for record in records if "gateway-id" in record["headers"]}
        assert sorted(house) == sorted(orders), "each order arrived under its id"
        produce(kafka.brokers(), orders)
        records = all_of(kafka.brokers(), 2 * ORDERS)
        centre = {record["key"]: record["partition"] for record in records if "gateway-id" not in record["headers"]}
        assert sorted(centre) == sorted(orders), "the centre's producer used the same keys"
    return house, centre


def main():
    cases = [("fnv1a_random", produce_with_sarama), ("murmur2_random", produce_with_java)]
    for partitioner, produce in cases:
        house, centre = partitions_of(partitioner, produce)
        assert len(set(house.values())) > 1, "the orders are spread over partitions"
        apart = [order for order in house if house[order] != centre[order]]
        assert not apart, f"{partitioner}: {len(apart)} of {ORDERS} orders are in two partitions: {apart[:3]}"
        print(f"ok {partitioner}: {produce.__name__}")
    # The test can fail: the other partitioner tears orders apart.
    house, centre = partitions_of("consistent_random", produce_with_sarama)
    assert any(house[order] != centre[order] for order in house), "librdkafka's own partitioner agrees with Sarama's: what is tested?"
    print(f"{len(cases) + 1} passed, 0 failed")


if __name__ == "__main__":
    main()
