#!/usr/bin/env python3
"""A real Apache Kafka (KRaft) for tests: one or three nodes on free ports, in a folder that is thrown away.

    kafka_cluster.py fetch                                  fetches what is needed, and says where it lies
    kafka_cluster.py up [--nodes N] [--topic NAME:PARTITIONS]...
                                                            starts a cluster, prints its brokers, runs until SIGTERM or SIGINT

As a library:

    with Cluster(nodes=1) as kafka:
        kafka.create_topic("order-events", 3)
        run("--brokers", kafka.brokers())                   # straight to the nodes
        run("--brokers", kafka.lines())                     # through a proxy that can fail
        kafka.cut_line(); kafka.mend_line(); kafka.kill(1); kafka.start_node(1)

    with Cluster(listeners={"TLS": "SSL"}, properties={...}) as kafka:
        run("--brokers", kafka.brokers("TLS"))              # another listener of the nodes

Needs Java 17; Maven only to fetch. Nothing but Python's standard library.
"""

import argparse
import base64
import contextlib
import hashlib
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid

VERSION = "4.1.0"
PARTS = pathlib.Path(__file__).resolve().parents[2] / "target" / "test-parts" / f"kafka-{VERSION}"

# What a broker loads of Kafka's dependency tree; Connect, Jetty, Jersey and the rest of the 120 jars are left away.
JARS = """
    kafka-clients kafka_2.13 kafka-metadata kafka-server kafka-server-common kafka-raft kafka-storage kafka-storage-api
    kafka-group-coordinator kafka-group-coordinator-api kafka-coordinator-common kafka-share-coordinator
    kafka-transaction-coordinator kafka-tools-api scala-library scala-logging_2.13 log4j-core log4j-api jackson-databind
    jackson-core jackson-annotations jackson-dataformat-yaml jackson-datatype-jdk8 snakeyaml metrics-core jopt-simple
    HdrHistogram hash4j pcollections slf4j-api slf4j-simple commons-validator re2j jakarta.servlet-api caffeine argparse4j
    lz4-java snappy-java zstd-jni jose4j
""".split()

POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>test</groupId><artifactId>parts</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{version}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""

# Small and quick: little memory, few threads, no waiting for a second consumer or for a dead broker's session.
JAVA = """
    java -Xmx{heap} -Xms32m -Xss512k -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData -Dlog4j2.disableJmx=true
    -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info
""".split()
SMALL = {
    "auto.create.topics.enable": "false",
    "background.threads": "2",
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "2000",
    "group.initial.rebalance.delay.ms": "0",
    "log.cleaner.dedupe.buffer.size": "2097152",
    "num.io.threads": "2",
    "num.network.threads": "2",
    "num.replica.fetchers": "1",
    "offsets.topic.num.partitions": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "transaction.state.log.num.partitions": "1",
}
STARTED = b"Kafka Server started"
START_LIMIT_S = 60
STOP_LIMIT_S = 20


def fetch(parts=PARTS):
    """Fetches the jars once, and returns the folder where they lie."""
    if parts.is_dir():
        return parts
    parts.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parts.parent) as scratch:
        scratch = pathlib.Path(scratch)
        (scratch / "pom.xml").write_text(POM.format(version=VERSION))
        maven = ["mvn", "--quiet", "--batch-mode", "dependency:copy-dependencies", "-DoutputDirectory=all"]
        subprocess.run(maven, cwd=scratch, check=True, stdin=subprocess.DEVNULL)
        needed = scratch / "needed"
        needed.mkdir()
        for jar in (scratch / "all").iterdir():
            if re.sub(r"-\d.*$", "", jar.name) in JARS:
                jar.rename(needed / jar.name)
        # Whole or not at all: a folder that is there can be used.
        needed.rename(parts)
    return parts


def free_ports(count):
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def kafka_uuid():
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "a")


class Proxy:
    """A line to a port that can fail: "pass", "eat" (it stays up, but nothing that the other end says arrives), "down"."""

    def __init__(self, target_port):
        self.target_port = target_port
        self.mode = "pass"
        self.bytes_per_s = None
        self.accepted = 0
        self._sockets = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def set(self, mode):
        with self._lock:
            self.mode = mode
            doomed = list(self._sockets) if mode == "down" else []
        for each in doomed:
            self._hang_up(each)

    def close(self):
        self.set("down")
        self._hang_up(self._listener)

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            try:
                far = socket.create_connection(("127.0.0.1", self.target_port)) if self.mode != "down" else None
            except OSError:
                far = None
            with self._lock:
                usable = far is not None and self.mode != "down"
                if usable:
                    self._sockets |= {near, far}
            if not usable:
                near.close()
                continue
            threading.Thread(target=self._pump, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, True), daemon=True).start()

    def _pump(self, source, sink, is_answer):
        with contextlib.suppress(OSError):
            while chunk := source.recv(4096 if self.bytes_per_s else 65536):
                if self.bytes_per_s:
                    time.sleep(len(chunk) / self.bytes_per_s)
                if not (is_answer and self.mode == "eat"):
                    sink.sendall(chunk)
        self._hang_up(source)
        self._hang_up(sink)

    def _hang_up(self, each):
        with self._lock:
            self._sockets.discard(each)
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


class Node:
    """One broker and controller."""

    def __init__(self, number, folder, ports, listeners):
        self.number = number
        self.folder = folder
        self.direct, self.behind_line, self.controller, *others = ports
        self.listeners = {"DIRECT": self.direct, **dict(zip(listeners, others))}
        self.line = Proxy(self.behind_line)
        self.process = None
        self.log_read_from = 0

    @property
    def log(self):
        return self.folder / "out.log"


class Cluster:
    """A cluster of `nodes` nodes. `properties` go into each server.properties; `listeners` (name: protocol) are there beside the plain ones;
    `scram` (user: password) can log in by SCRAM-SHA-512."""

    def __init__(self, nodes=1, properties=None, listeners=None, scram=None, heap="128m", folder=None, parts=None):
        self._parts = parts or fetch()
        self._scratch = None if folder else tempfile.TemporaryDirectory(prefix="kafka-")
        self._folder = pathlib.Path(folder or self._scratch.name)
        self._properties = properties or {}
        self._protocols = listeners or {}
        self._scram = scram or {}
        self._heap = heap
        self._cluster_id = kafka_uuid()
        each = 3 + len(self._protocols)
        ports = iter(free_ports(each * nodes))
        of_node = lambda n: Node(n, self._folder / f"node-{n}", [next(ports) for _ in range(each)], self._protocols)
        self.nodes = {n: of_node(n) for n in range(1, nodes + 1)}

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def brokers(self, listener="DIRECT"):
        """The nodes, straight."""
        return ",".join(f"127.0.0.1:{node.listeners[listener]}" for node in self.nodes.values())

    def lines(self):
        """The nodes, each behind a proxy of its own."""
        return ",".join(f"127.0.0.1:{node.line.port}" for node in self.nodes.values())

    def cut_line(self):
        self._set_lines("down")

    def eat_answers(self):
        self._set_lines("eat")

    def mend_line(self):
        self._set_lines("pass")

    def _set_lines(self, mode):
        for node in self.nodes.values():
            node.line.set(mode)

    def start(self):
        try:
            for node in self.nodes.values():
                self._format(node)
                self._launch(node)
            for node in self.nodes.values():
                self._wait_until_started(node)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self):
        """Ends everything at once: nobody needs the data any more."""
        for node in self.nodes.values():
            node.line.close()
            if node.process and node.process.poll() is None:
                node.process.kill()
        for node in self.nodes.values():
            if node.process:
                node.process.wait()
        if self._scratch:
            self._scratch.cleanup()

    def start_node(self, number):
        node = self.nodes[number]
        self._launch(node)
        self._wait_until_started(node)

    def stop_node(self, number):
        """As an operator would."""
        process = self.nodes[number].process
        process.terminate()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self, number):
        """As a power cut would."""
        process = self.nodes[number].process
        process.kill()
        process.wait()

    def wipe(self, number):
        """Takes a stopped node's disk away and gives it an empty one. The cluster's id stays."""
        node = self.nodes[number]
        shutil.rmtree(node.folder / "data")
        self._format(node)

    def _class_path(self):
        return os.pathsep.join(sorted(str(jar) for jar in self._parts.glob("*.jar")))

    def _server_properties(self, node):
        replicas = min(3, len(self.nodes))
        voters = ",".join(f"{n.number}@127.0.0.1:{n.controller}" for n in self.nodes.values())
        listeners = {**node.listeners, "LINE": node.behind_line, "CONTROLLER": node.controller}
        advertised = {**node.listeners, "LINE": node.line.port}
        protocols = {name: self._protocols.get(name, "PLAINTEXT") for name in listeners}
        at = lambda ports: ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())
        return {
            **SMALL,
            "process.roles": "broker,controller",
            "node.id": node.number,
            "controller.quorum.voters": voters,
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "DIRECT",
            "listeners": at(listeners),
            "advertised.listeners": at(advertised),
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            "log.dirs": node.folder / "data",
            "default.replication.factor": replicas,
            "offsets.topic.replication.factor": replicas,
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": max(1, replicas - 1),
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": max(1, replicas - 1),
            **self._properties,
        }

    def _format(self, node):
        node.folder.mkdir(parents=True, exist_ok=True)
        properties = node.folder / "server.properties"
        properties.write_text("".join(f"{key}={value}\n" for key, value in self._server_properties(node).items()))
        logins = [f"SCRAM-SHA-512=[name={user},password={password}]" for user, password in self._scram.items()]
        scram = [word for login in logins for word in ("--add-scram", login)]
        command = self._java("kafka.tools.StorageTool", "format", "-t", self._cluster_id, "-c", str(properties), *scram)
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise RuntimeError(f"node {node.number} could not be formatted:\n{done.stdout}{done.stderr}")

    def _java(self, main_class, *arguments):
        return [each.format(heap=self._heap) for each in JAVA] + ["-cp", self._class_path(), main_class, *arguments]

    def _launch(self, node):
        command = self._java("kafka.Kafka", str(node.folder / "server.properties"))
        with open(node.log, "ab") as log:
            node.log_read_from = log.tell()
            node.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=node.folder)

    def _wait_until_started(self, node):
        until = time.monotonic() + START_LIMIT_S
        while time.monotonic() < until:
            with open(node.log, "rb") as log:
                log.seek(node.log_read_from)
                if STARTED in log.read():
                    return
            if node.process.poll() is not None:
                raise RuntimeError(f"node {node.number} ended:\n{node.log.read_text()[-2000:]}")
            time.sleep(0.02)
        raise TimeoutError(f"node {node.number} did not start in {START_LIMIT_S} s")

    def create_topic(self, name, partitions=1, replicas=None, **config):
        """Makes a topic and waits until every node knows it. `config`: cleanup_policy="compact" and the like."""
        replicas = replicas or min(3, len(self.nodes))
        alive = self._alive()
        until = time.monotonic() + START_LIMIT_S
        while True:
            code = create_topic(alive[0].direct, name, partitions, replicas, config)
            if code in (OK, TOPIC_ALREADY_EXISTS):
                break
            # Just after its start a cluster may not have as many live brokers as replicas.
            if time.monotonic() > until:
                raise RuntimeError(f"topic {name} could not be made: error {code}")
            time.sleep(0.1)
        for node in alive:
            while partition_count(node.direct, name) != partitions:
                if time.monotonic() > until:
                    raise TimeoutError(f"node {node.number} does not know topic {name}")
                time.sleep(0.05)

    def _alive(self):
        return [node for node in self.nodes.values() if node.process.poll() is None]

    def _order(self, what, api, body, at):
        """Sends a request whose answer has its only error code `at` this place."""
        (code,) = struct.unpack_from(">h", ask(self._alive()[0].direct, api, body), at)
        if code != OK:
            raise RuntimeError(f"{what}: error {code}")

    def delete_topic(self, name):
        """Deletes a topic and waits until every node has forgotten it."""
        self._order(f"delete {name}", DELETE_TOPICS, struct.pack(">i", 1) + text(name) + struct.pack(">i", 10_000), 8 + len(text(name)))
        until = time.monotonic() + START_LIMIT_S
        while any(partition_count(node.direct, name) for node in self._alive()):
            if time.monotonic() > until:
                raise TimeoutError(f"topic {name} is still there")
            time.sleep(0.05)

    def add_partitions(self, name, count):
        """Makes it so many, and waits until every node knows them."""
        body = struct.pack(">i", 1) + text(name) + struct.pack(">iii?", count, -1, 10_000, False)
        self._order(f"{count} partitions of {name}", CREATE_PARTITIONS, body, 8 + len(text(name)))
        until = time.monotonic() + START_LIMIT_S
        while any(partition_count(node.direct, name) != count for node in self._alive()):
            if time.monotonic() > until:
                raise TimeoutError(f"not every node knows {count} partitions of {name}")
            time.sleep(0.05)

    def delete_records(self, name, partition, before):
        """As retention does: what lies below this offset is gone."""
        body = struct.pack(">i", 1) + text(name) + struct.pack(">iiqi", 1, partition, before, 10_000)
        self._order(f"delete records of {name}", DELETE_RECORDS, body, 8 + len(text(name)) + 16)

    def set_topic(self, name, **config):
        """Changes settings of a topic: max_message_bytes=2000 and the like."""
        entries = b"".join(text(key.replace("_", ".")) + struct.pack(">b", SET) + text(str(value)) for key, value in config.items())
        body = struct.pack(">ib", 1, TOPIC) + text(name) + struct.pack(">i", len(config)) + entries + struct.pack(">?", False)
        self._order(f"set {config} of {name}", INCREMENTAL_ALTER_CONFIGS, body, 8)

    def allow(self, user, operation, resource, name):
        """Gives a right: allow("gw", WRITE, TOPIC, "order-events")."""
        entry = text(name) + struct.pack(">b", LITERAL) + text(f"User:{user}") + text("*") + struct.pack(">bb", operation, ALLOW)
        self._order(f"allow {user} {name}", CREATE_ACLS, struct.pack(">ib", 1, resource) + entry, 8)

    def change_password(self, user, password):
        """What somebody logs in with by SCRAM-SHA-512 from now on."""
        salt, iterations = b"0123456789abcdef", 4096
        salted = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations)
        short = lambda value: bytes([len(value) + 1]) + value  # of the newer messages: at most 126 bytes
        login = short(user.encode()) + struct.pack(">bi", SHA_512, iterations) + short(salt) + short(salted) + NO_TAGS
        body = NO_TAGS + short(b"") + bytes([2]) + login + NO_TAGS
        self._order(f"password of {user}", ALTER_USER_SCRAM_CREDENTIALS, body, 7 + len(user))

    def limit_producer(self, client, bytes_per_s):
        """A quota on what a client may produce, by its id; `None` lifts it."""
        entity = struct.pack(">i", 1) + text("client-id") + text(client)
        value = struct.pack(">d?", bytes_per_s or 0.0, bytes_per_s is None)
        body = struct.pack(">i", 1) + entity + struct.pack(">i", 1) + text("producer_byte_rate") + value + struct.pack(">?", False)
        self._order(f"quota of {client}", ALTER_CLIENT_QUOTAS, body, 8)

    def leader(self, topic, partition=0):
        """The number of the node that leads a partition, and those in sync with it."""
        return metadata(self._alive()[0].direct, topic)[1][partition]


# ---- just enough of Kafka's protocol: https://kafka.apache.org/protocol ----

OK = 0
TOPIC_ALREADY_EXISTS = 36
METADATA = (3, 4)
CREATE_TOPICS = (19, 4)
DELETE_TOPICS = (20, 3)
DELETE_RECORDS = (21, 0)
CREATE_PARTITIONS = (37, 0)
CREATE_ACLS = (30, 1)
INCREMENTAL_ALTER_CONFIGS = (44, 0)
ALTER_CLIENT_QUOTAS = (49, 0)
ALTER_USER_SCRAM_CREDENTIALS = (51, 0)
SHA_512 = 2
NO_TAGS = b"\0"
SET = 0
# Kinds of resources, operations and so on, by the protocol's numbers.
TOPIC, GROUP, TRANSACTIONAL_ID = 2, 3, 5
READ, WRITE, DESCRIBE, DESCRIBE_CONFIGS = 3, 4, 8, 10
LITERAL, ALLOW = 3, 3


def text(value):
    return struct.pack(">h", len(value)) + value.encode()


def ask(port, api, body):
    """Sends a request and returns the answer after its correlation id."""
    key, version = api
    request = struct.pack(">hhi", key, version, 1) + text("test") + body
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        with connection.makefile("rb") as answer:
            (size,) = struct.unpack(">i", answer.read(4))
            return answer.read(size)[4:]


def create_topic(port, name, partitions, replicas, config):
    """The error code of CreateTopics."""
    entries = b"".join(text(key.replace("_", ".")) + text(str(value)) for key, value in config.items())
    topic = text(name) + struct.pack(">ihi", partitions, replicas, 0) + struct.pack(">i", len(config)) + entries
    answer = ask(port, CREATE_TOPICS, struct.pack(">i", 1) + topic + struct.pack(">i?", 10_000, False))
    throttle_and_count = 8
    (code,) = struct.unpack_from(">h", answer, throttle_and_count + len(text(name)))
    return code


def partition_count(port, name):
    """How many partitions with a leader the node knows of a topic."""
    error, partitions = metadata(port, name)
    return sum(leader >= 0 for leader, _ in partitions.values()) if error == OK else 0


def metadata(port, name):
    """What a node knows of a topic: an error code, and by partition its leader and the nodes in sync with it."""
    answer = ask(port, METADATA, struct.pack(">i", 1) + text(name) + struct.pack(">?", False))
    reader = Reader(answer)
    reader.take("i")  # throttle time
    for _ in range(reader.take("i")):  # brokers
        reader.take("i"), reader.text(), reader.take("i"), reader.text()
    reader.text(), reader.take("i"), reader.take("i")  # cluster, controller, topics
    error = reader.take("h")
    reader.text(), reader.take("?")  # name, internal
    partitions = {}
    for _ in range(reader.take("i")):
        _, number, leader = reader.take("h"), reader.take("i"), reader.take("i")
        _, in_sync = ([reader.take("i") for _ in range(reader.take("i"))] for _ in range(2))
        partitions[number] = leader, in_sync
    return error, partitions


class Reader:
    def __init__(self, data):
        self._data, self._at = data, 0

    def take(self, kind):
        (value,) = struct.unpack_from(">" + kind, self._data, self._at)
        self._at += struct.calcsize(">" + kind)
        return value

    def text(self):
        length = self.take("h")
        self._at += max(length, 0)
        return self._data[self._at - length : self._at].decode() if length >= 0 else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch")
    up = commands.add_parser("up")
    up.add_argument("--nodes", type=int, default=1)
    up.add_argument("--topic", action="append", default=[], metavar="NAME:PARTITIONS")
    arguments = parser.parse_args()
    if arguments.command == "fetch":
        print(fetch())
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.suppress(KeyboardInterrupt), Cluster(arguments.nodes) as kafka:
        for topic in arguments.topic:
            name, _, partitions = topic.partition(":")
            kafka.create_topic(name, int(partitions or 1))
        print(kafka.brokers(), flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
