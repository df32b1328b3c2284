#!/usr/bin/env python3
"""Every figure that the gateway is held to, measured on real parts in one run, each beside its target.

    bench.py                        builds for release, measures everything, prints a table; takes about ten minutes
    bench.py --only chain,drain     these sections alone: store, chain, drain, outage, answers, memory, wear
    bench.py --fast                 builds without link-time optimisation: sooner, slower, and 21 MB larger in memory
    bench.py --smoke                small counts and the debug build: shows that this still works; the figures mean nothing

Rates and times depend on the machine, and on who else uses it: what counts are the ratios, which are taken in turns within the run. A
target that is missed is said, and is no failure of this command.

DUMBWAITER names a binary to measure instead of building one, with `alone` beside it.

What the gateway is measured against is tests/alone: the same messages through mosquitto and librdkafka alone. When an event was
delivered the broker says: the topics' timestamps are LogAppendTime.
"""

import argparse
import collections
import contextlib
import dataclasses
import datetime
import getpass
import json
import os
import pathlib
import re
import select
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
import tty

import kafka_cluster
import parts

GATEWAY = "store-042"
# As long as the gateway's id, so that the topics are.
ECHO = "alone-042"
TERMINALS = 64
PARTITIONS = 3
# The database starts threads of its own.
STORE_THREADS = ("store", "sled-io")
STATUS_TOPICS = ("order-events-dlq", "order-status", "gateway-status")
# A record of an order: what one sync is measured with.
SYNC_BYTES = 2_000
FIRST_READY_POLL_S = 0.002


@dataclasses.dataclass
class Counts:
    """How much is measured."""

    orders: int = 50_000
    rounds: int = 3
    # Rounds that warm Kafka up and do not count.
    warming: int = 1
    queued: int = 100_000
    deep: int = 200_000
    shallow: int = 1_000
    answers: int = 500
    syncs: int = 200
    outages_s: tuple = (1, 3, 10)
    # Orders one by one, at 100 a second, and with five statuses at one a second.
    worn: tuple = (40, 2_000, 30)
    # By then what was delivered is also forgotten: the gateway writes it down within 5 s.
    settled_after_s: int = 6


SMOKE = Counts(
    orders=500, rounds=1, warming=0, queued=400, deep=400, shallow=200, answers=20, syncs=5, outages_s=(1,), worn=(3, 50, 2),
    settled_after_s=0,
)


class Figure:
    """Something measured. `met` is None where there is no target."""

    def __init__(self, what, measured, target="", met=None):
        self.what, self.measured, self.target, self.met = what, measured, target, met

    def __str__(self):
        verdict = {True: "met", False: "MISSED", None: ""}[self.met]
        return f"  {self.what:<62} {self.measured:>12}  {self.target:<24} {verdict}".rstrip()


def at_most(what, value, limit, unit, digits=1, target=None):
    return Figure(what, f"{value:.{digits}f} {unit}", target or f"<= {limit:g} {unit}", value <= limit)


def at_least(what, value, limit, unit="", digits=0):
    return Figure(what, f"{value:,.{digits}f} {unit}".rstrip(), f">= {limit:,g} {unit}".rstrip(), value >= limit)


class Broker(parts.Part):
    """mosquitto as systemd/mosquitto/ configures it, but for its users: anyone may come."""

    def __init__(self, folder):
        self.port = parts.free_port()
        shipped = (parts.ROOT / "systemd" / "mosquitto" / "dumbwaiter.conf").read_text().splitlines()
        ours = [line for line in shipped if not line.startswith(("listener", "allow_anonymous", "password_file", "acl_file"))]
        config = pathlib.Path(folder) / "mosquitto.conf"
        own = [f"listener {self.port} 127.0.0.1", "allow_anonymous true", f"user {getpass.getuser()}"]
        config.write_text("\n".join([*ours, *own, ""]))
        super().__init__("mosquitto", [parts.tool("mosquitto"), "-c", config], folder)

    @property
    def url(self):
        return f"mqtt://127.0.0.1:{self.port}"


class SerialLine:
    """A null modem of two pseudo-terminals. It knows no baud rate: bytes take no time on the wire."""

    def __init__(self):
        self._ends = [os.openpty() for _ in range(2)]
        for _, far in self._ends:
            tty.setraw(far)
        self.gateway_path, self.terminal_path = (os.ttyname(far) for _, far in self._ends)
        threading.Thread(target=self._carry, daemon=True).start()

    def _carry(self):
        (one, _), (other, _) = self._ends
        while True:
            for end in select.select([one, other], [], [])[0]:
                os.write(other if end == one else one, os.read(end, 4096))


class Bench:
    """The parts, and what the sections share."""

    def __init__(self, counts, daemon, alone, folder, kafka, broker):
        self.counts, self.daemon, self.alone, self.folder, self.kafka, self.broker = counts, daemon, alone, folder, kafka, broker
        self._stores = {}
        self._topics = 0
        # The default holds 200,000, of which the last tenth takes no new orders.
        os.environ["DUMBWAITER_STORE__MAX_QUEUED"] = str(10 * counts.deep)
        for topic in STATUS_TOPICS:
            kafka.create_topic(topic)

    def topic(self):
        """A new topic, whose timestamps are the broker's."""
        self._topics += 1
        name = f"order-events-{self._topics}"
        self.kafka.create_topic(name, PARTITIONS, message_timestamp_type="LogAppendTime")
        return name

    def config(self, topic, brokers=None, more=""):
        """All that a house has."""
        return (
            f'[kafka]\nbrokers = "{brokers or self.kafka.brokers()}"\ntopic = "{topic}"\n'
            f'[[downlink]]\ntopic = "order-status"\n[mqtt]\nurl = "{self.broker.url}"\n{more}'
        )

    def load(self, count, *line, terminals=1, rate=None):
        """What `dumbwaiter terminal` says of a load; fails if anything was lost, doubled or refused."""
        command = [self.daemon, "terminal", *line, "--count", count, "--terminals", terminals, "--json"]
        command += ["--rate", rate] if rate else []
        return json.loads(run(*command))

    def mqtt_load(self, count, gateway=GATEWAY, **how):
        return self.load(count, "mqtt", self.broker.url, "--gateway", gateway, **how)

    def settings(self, topic):
        """What the gateway gives librdkafka."""
        config = pathlib.Path(self.folder) / "librdkafka.toml"
        config.write_text(f'[gateway]\nid = "{GATEWAY}"\n{self.config(topic)}')
        return run(self.daemon, "check", "--config", config, "--librdkafka")

    def read(self, topic, since_ms=0):
        """What Kafka holds."""
        return json.loads(run(self.alone, "count", "--topic", topic, "--since-ms", since_ms, stdin=self.settings(topic)))

    def store_with(self, queued):
        """A data folder with so many events in it, made once; and what the gateway took of memory once they were in."""
        if queued not in self._stores:
            kept = pathlib.Path(self.folder) / f"queued-{queued}"
            with Line(self.kafka) as line, parts.Gateway(self.config(self.topic(), line.brokers)) as gateway:
                if queued:
                    self.mqtt_load(queued, terminals=TERMINALS)
                memory = rss_mb(gateway)
                gateway.stop()
                shutil.copytree(gateway.folder / "data", kept)
            self._stores[queued] = kept, memory
        return self._stores[queued]

    def gateway_with(self, queued, config):
        """A gateway, not started yet, that finds so many events queued."""
        gateway = parts.Gateway(config)
        shutil.copytree(self.store_with(queued)[0], gateway.folder / "data")
        return gateway


class Line:
    """A way to Kafka that is cut at first. Only the first question goes over it: what follows goes straight to the brokers."""

    def __init__(self, kafka):
        self._proxy = kafka_cluster.Proxy(kafka.nodes[1].direct)
        self._proxy.set("down")
        self.brokers = f"127.0.0.1:{self._proxy.port}"

    def mend(self):
        self._proxy.set("pass")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._proxy.close()


def run(*command, stdin=None):
    """The standard output of a program that must succeed."""
    done = subprocess.run([str(each) for each in command], input=stdin or "", text=True, capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def cpu_s(gateway):
    """CPU time of each thread that the daemon has now."""
    used = collections.Counter()
    for task in pathlib.Path(f"/proc/{gateway.process.pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            used[(task / "comm").read_text().strip(), task.name] = int((task / "schedstat").read_text().split()[0]) / 1e9
    return used


def cpu_s_since(gateway, before):
    """What they took since then, by name. A thread that ended meanwhile, as the one that read the store at the start, does not count."""
    used = collections.Counter()
    for (name, task), seconds in cpu_s(gateway).items():
        used[name] += seconds - before[name, task]
    return used


def rss_mb(gateway):
    text = pathlib.Path(f"/proc/{gateway.process.pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def metric(gateway, name):
    return int(re.search(rf"^dumbwaiter_{name} (\d+)", gateway.ask("GET", "/metrics")[1], re.MULTILINE)[1])


def delivered(gateway, events, limit_s=120):
    """Waits until Kafka is reached and acknowledged so many events since the gateway's start."""

    def is_delivered():
        up = gateway.ask("GET", "/health")[1]["kafka"] == "up"
        # A counter, unlike the gauges, is never half a second old.
        counts = re.findall(r"^dumbwaiter_events_published_total\{.*\} (\d+)", gateway.ask("GET", "/metrics")[1], re.MULTILINE)
        return up and sum(map(int, counts)) >= events

    parts.until(f"Kafka has {events} events", is_delivered, limit_s)


# ---- the sections: each gives its figures


def store(bench):
    """Prints its own table."""
    subprocess.run(["cargo", "bench", "--package", "dumbwaiter-store"], cwd=parts.ROOT, check=True, stdin=subprocess.DEVNULL)
    return []


def chain(bench):
    rates, ratios, cpu, store_cpu, all_cpu = [], [], [], [], collections.Counter()
    orders, topic = bench.counts.orders, bench.topic()
    echo = parts.Part("echo", [bench.alone, "echo", "--port", bench.broker.port, "--gateway", ECHO], bench.folder)
    with parts.Gateway(bench.config(topic)) as gateway, echo:
        parts.until("the echo listens", lambda: "ready" in echo.log.read_text())
        for done in range(bench.counts.rounds):
            before = cpu_s(gateway)
            answered = bench.mqtt_load(orders, terminals=TERMINALS)
            began = time.time() - answered["seconds"]
            delivered(gateway, orders * (done + 1))
            used = cpu_s_since(gateway, before)
            found = bench.read(topic)
            rates.append(orders / max(answered["seconds"], found["lastMs"] / 1000 - began))
            all_cpu += used
            cpu.append(used.total() / orders * 1e6)
            store_cpu.append(sum(s for name, s in used.items() if name.startswith(STORE_THREADS)) / orders * 1e6)
            ratios.append(rates[-1] / bench.mqtt_load(orders, gateway=ECHO, terminals=TERMINALS)["ordersPerSecond"])
        expected = orders * bench.counts.rounds
        if (found["records"], found["events"]) != (expected, expected):
            raise AssertionError(f"{expected} orders were stored, Kafka has {found}")
    for name, seconds in all_cpu.most_common(6):
        print(f"  {name:<16} {seconds / expected * 1e6:6.1f} us of CPU an order")
    return [
        at_least(f"{TERMINALS} MQTT terminals: orders stored and in Kafka", statistics.median(rates), 5_000, "/s"),
        Figure("  the same beside mosquitto alone", f"{statistics.median(ratios):.2f}"),
        at_most("CPU of an order, all of the daemon", statistics.median(cpu), 100, "us", 0),
        at_most("  of it the store's threads", statistics.median(store_cpu), 45, "us", 0),
    ]


def rate(found):
    """Events a second, from the first that the broker got to the last."""
    return found["events"] / max(found["lastMs"] - found["firstMs"], 1) * 1000


def drain_once(bench, queued):
    """Drains a queue; the topic it went to, and CPU seconds from the line's return until all is delivered and forgotten."""
    topic = bench.topic()
    with Line(bench.kafka) as line, bench.gateway_with(queued, bench.config(topic, line.brokers)) as gateway:
        before = cpu_s(gateway)
        line.mend()
        delivered(gateway, queued)
        time.sleep(bench.counts.settled_after_s)
        return topic, cpu_s_since(gateway, before).total()


def drain(bench):
    queued, deep, shallow, warming = bench.counts.queued, bench.counts.deep, bench.counts.shallow, bench.counts.warming
    rates, ratios = [], []
    for _ in range(warming + bench.counts.rounds):
        topic, _ = drain_once(bench, queued)
        found = bench.read(topic)
        if found["events"] != queued:
            raise AssertionError(f"{queued} events were queued, Kafka has {found}")
        again = bench.topic()
        run(bench.alone, "copy", "--from", topic, "--to", again, stdin=bench.settings(topic))
        rates.append(rate(found))
        ratios.append(rates[-1] / rate(bench.read(again)))
    cpu = {}
    for depth, rounds in [(0, 2 * bench.counts.rounds - 1), (shallow, 2 * bench.counts.rounds - 1), (deep, 1)]:
        cpu[depth] = statistics.median(drain_once(bench, depth)[1] for _ in range(rounds))
    # What the reconnect costs, and the while after it, is nobody's event.
    cost = {depth: (cpu[depth] - cpu[0]) / depth * 1e6 for depth in (shallow, deep)}
    return [
        at_least(f"drain of {queued:,} queued", statistics.median(rates[warming:]), 27_000, "/s"),
        at_least("  the same beside rdkafka alone, same events and settings", statistics.median(ratios[warming:]), 0.7, digits=2),
        Figure(f"CPU of an event, {shallow:,} queued", f"{cost[shallow]:.1f} us"),
        Figure(f"CPU of an event, {deep:,} queued", f"{cost[deep]:.1f} us"),
        at_most("  the second beside the first", cost[deep] / cost[shallow], 1.2, "x", 2),
    ]


def outage(bench):
    topic, back = bench.topic(), []
    with parts.Gateway(bench.config(topic, bench.kafka.lines())) as gateway:
        bench.mqtt_load(10)
        for done, seconds in enumerate(bench.counts.outages_s, 1):
            delivered(gateway, 10 * done)
            bench.kafka.cut_line()
            time.sleep(seconds)
            bench.mqtt_load(10)
            mended_ms = time.time() * 1000
            bench.kafka.mend_line()
            delivered(gateway, 10 * (done + 1))
            back.append((bench.read(topic, since_ms=int(mended_ms))["firstMs"] - mended_ms) / 1000)
    lengths = ", ".join(f"{seconds} s" for seconds in bench.counts.outages_s)
    return [at_most(f"first event delivered after the line's return; outages of {lengths}", max(back), 2, "s", 2)]


def sync_ms(folder, count):
    """The time that one write with fdatasync takes, into a file that has its size already: one that grows takes longer."""
    taken = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        os.write(file.fileno(), bytes(count * SYNC_BYTES))
        os.fsync(file.fileno())
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        for _ in range(count):
            began = time.perf_counter()
            os.write(file.fileno(), b"x" * SYNC_BYTES)
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - began) * 1000)
    return taken


def answers(bench):
    serial, answered, syncs = SerialLine(), {}, []
    config = f'[[serial]]\nterminal = "till-1"\npath = "{serial.gateway_path}"\n'
    with parts.Gateway(bench.config(bench.topic(), more=config)) as gateway:
        lines = {
            "MQTT, through mosquitto": ["mqtt", bench.broker.url, "--gateway", GATEWAY],
            "HTTP": ["http", gateway.url("")],
            "serial, on a pseudo-terminal": ["serial", serial.terminal_path],
        }
        delivered(gateway, 0)
        for name, line in lines.items():
            syncs += sync_ms(gateway.folder, bench.counts.syncs)
            answered[name] = bench.load(bench.counts.answers, *line)["answerMs"]["p50"]
        syncs += sync_ms(gateway.folder, bench.counts.syncs)
    sync = statistics.median(syncs)
    figure = lambda name, p50: at_most(f"answer over {name}, p50", p50, sync + 3, "ms", 2, f"<= sync + 3 = {sync + 3:.2f} ms")
    return [Figure("one sync of this disk, p50", f"{sync:.2f} ms"), *(figure(name, p50) for name, p50 in answered.items())]


def ready_s(gateway):
    """Starts the gateway; the time until it takes orders."""
    began = time.monotonic()
    parts.Part.start(gateway)
    while True:
        with contextlib.suppress(OSError):
            if gateway.ask("GET", "/ready")[0] == 200:
                return time.monotonic() - began
        if not gateway.is_running() or time.monotonic() - began > 60:
            raise RuntimeError(f"the gateway is not ready:\n{gateway.log.read_text()[-3000:]}")
        time.sleep(FIRST_READY_POLL_S)


def memory(bench):
    queued = bench.counts.queued
    with parts.Gateway(bench.config(bench.topic())) as gateway:
        delivered(gateway, 0)
        time.sleep(bench.counts.settled_after_s)
        idle = rss_mb(gateway)
    _, filled = bench.store_with(queued)
    ready = []
    for _ in range(bench.counts.rounds):
        with Line(bench.kafka) as line, contextlib.ExitStack() as stack:
            gateway = bench.gateway_with(queued, bench.config(bench.topic(), line.brokers))
            stack.push(gateway.__exit__)
            ready.append(ready_s(gateway))
            time.sleep(bench.counts.settled_after_s)
            restarted = rss_mb(gateway)
    return [
        at_most("memory (RSS), idle, Kafka and MQTT connected", idle, 20, "MB"),
        at_most(f"memory once {queued:,} were queued", filled, 40, "MB"),
        at_most(f"memory with {queued:,} queued, after a restart", restarted, 40, "MB"),
        at_most(f"ready with {queued:,} queued", statistics.median(ready), 0.5, "s", 3),
    ]


class Device:
    """A disk of its own for one data folder: an ext4 in a file. Needs root."""

    def __init__(self, image):
        self.folder = image.with_suffix(".mounted")
        with open(image, "wb") as file:
            file.truncate(1 << 30)
        # As on a card: what small file systems get by default has smaller blocks, and what is left for later is left for the bench.
        run(parts.tool("mkfs.ext4"), "-q", "-b", 4096, "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
        self.folder.mkdir()
        run("mount", "-o", "loop", image, self.folder)
        self._name = pathlib.Path(run("findmnt", "--noheadings", "--output", "SOURCE", self.folder).strip()).name

    def written(self):
        """Bytes that reached the device: the kernel's count of sectors, with what it still held back."""
        run("sync", "--file-system", self.folder)
        return int(pathlib.Path(f"/sys/class/block/{self._name}/stat").read_text().split()[6]) * 512

    def __enter__(self):
        return self

    def __exit__(self, *_):
        run("umount", self.folder)


def whole_order(gateway, number, began):
    """An order and its five statuses within a second of their own, evenly."""
    order = gateway.order()["orderId"]
    for step, status in enumerate(("CONFIRMED", "PREPARING", "READY", "OUT_FOR_DELIVERY", "DELIVERED"), 1):
        time.sleep(max(0, began + number + step / 6 - time.monotonic()))
        gateway.set_status(order, status)
    time.sleep(max(0, began + number + 1 - time.monotonic()))


def wear(bench):
    """Bytes on the device, its file system's journal included; beside them what the gateway's metric says of it."""
    lone, busy, whole = bench.counts.worn
    try:
        device = Device(pathlib.Path(bench.folder) / "worn.img")
    except (RuntimeError, OSError) as reason:
        print(f"  not measured: it takes root and a loop device for a file system of its own: {reason}")
        return []
    gateway = parts.Gateway(bench.config(bench.topic()))
    with device, contextlib.ExitStack() as stack:
        (gateway.folder / "data").symlink_to(device.folder)
        stack.enter_context(gateway)
        submit = lambda count, **how: bench.load(count, "http", gateway.url(""), **how)

        def whole_orders():
            began = time.monotonic()
            for number in range(whole):
                whole_order(gateway, number, began)

        def cost(count, work):
            """Of one order, in KB: on the device, and by the metric. What is delivered is also forgotten."""
            before = device.written(), metric(gateway, "disk_written_bytes_total")
            work()
            delivered(gateway, 0)
            time.sleep(bench.counts.settled_after_s)
            after = device.written(), metric(gateway, "disk_written_bytes_total")
            return [(now - then) / count / 1_000 for now, then in zip(after, before)]

        # The store's first segments, and the connections.
        submit(lone, terminals=8)
        quiet = cost(1, lambda: None)
        costs = {
            "a lone order, two a second": (cost(lone, lambda: submit(lone, rate=2)), 14, "<= 14 KB, aim 8"),
            "an order at 100 a second": (cost(busy, lambda: submit(busy, rate=100, terminals=16)), 8, None),
            "an order with five statuses, one a second": (cost(whole, whole_orders), 40, None),
        }
        gateway.stop()
    print(f"  {bench.counts.settled_after_s} s with nothing to do: {quiet[0]:.1f} KB; by the metric {quiet[1]:.1f}")
    for what, (kb, _, _) in costs.items():
        print(f"  {what}: by the metric {kb[1]:.1f} KB")
    return [at_most(f"written to the device for {what}", kb[0], limit, "KB", target=said) for what, (kb, limit, said) in costs.items()]


SECTIONS = {each.__name__: each for each in (store, chain, drain, outage, answers, memory, wear)}


def build(options):
    """The binaries: the daemon's and the counterparts'."""
    if options.smoke or "DUMBWAITER" in os.environ:
        return parts.daemon(), parts.daemon().with_name("alone")
    command = ["cargo", "build", "--release", "--package", "dumbwaiter", "--package", "alone", "--no-default-features"]
    if options.fast:
        command += ["--config", 'profile.release.lto="off"', "--config", "profile.release.codegen-units=4"]
    subprocess.run(command, cwd=parts.ROOT, check=True, stdin=subprocess.DEVNULL)
    os.environ["DUMBWAITER"] = str(parts.ROOT / "target" / "release" / "dumbwaiter")
    return parts.daemon(), parts.daemon().with_name("alone")


def measure(options, daemon, alone):
    """The figures of each section, printed as they come."""
    counts = SMOKE if options.smoke else Counts()
    figures = []
    # Beside the build: a folder of its own may lie in memory, where a sync costs nothing.
    with tempfile.TemporaryDirectory(prefix="bench-", dir=parts.ROOT / "target") as folder, contextlib.ExitStack() as stack:
        # The gateways' folders too.
        tempfile.tempdir = folder
        kafka = stack.enter_context(kafka_cluster.Cluster(heap="256m"))
        broker = stack.enter_context(Broker(folder))
        bench = Bench(counts, daemon, alone, folder, kafka, broker)
        for name in options.only:
            print(f"{name} (load {os.getloadavg()[0]:.1f})", flush=True)
            for figure in SECTIONS[name](bench):
                figure.met = None if options.smoke else figure.met
                figures.append(figure)
                print(figure, flush=True)
    return figures


def sections(text):
    names = text.split(",")
    if unknown := [name for name in names if name not in SECTIONS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: there are {', '.join(SECTIONS)}")
    return names


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=sections, default=list(SECTIONS), metavar="SECTION,…")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    if options.smoke:
        options.only = [name for name in options.only if name != "store"]
    given = "DUMBWAITER" in os.environ
    daemon, alone = build(options)
    built = "debug" if options.smoke else "given" if given else "fast" if options.fast else "release"
    print(f"{datetime.date.today()}, {os.cpu_count()} cores, {os.uname().machine}, {built} build")
    figures = measure(options, daemon, alone)
    if options.smoke:
        print(f"{len(figures)} figures measured, 0 failed")
    elif missed := [figure for figure in figures if figure.met is False]:
        print(f"{len(missed)} targets MISSED (on a machine that others use, look at the ratios, and repeat):", *missed, sep="\n")
    else:
        print("all targets met")


if __name__ == "__main__":
    main()
