#!/usr/bin/env python3
"""What goes wrong between a gateway and a real Apache Kafka, row by row of the table in docs/operations.md.

Each case has a gateway, a topic and a name of its own, so that they run side by side. Each shows that the fault is said in the words that
the page promises, that nothing stored is lost or out of order, that repeats are marked as such, and that it heals by itself within a
bounded time once the cause is gone.

    kafka_errors.py             all cases
    kafka_errors.py PART...     those whose name contains a part
"""

import collections
import concurrent.futures
import json
import pathlib
import secrets
import subprocess
import sys
import tempfile
import time
import uuid

import certificates
import kafka_cluster
import parts
import sarama
from kafka_cluster import DESCRIBE, DESCRIBE_CONFIGS, GROUP, READ, TOPIC, TRANSACTIONAL_ID, WRITE

# A refused client is given up for 30 s, an event that needs a person is tried again after 30 s.
HEALS_WITHIN_S = 60
SAID_WITHIN_S = 45
RIGHT, WRONG, NEWER = "the right one", "a wrong one", "a newer one"


class House:
    """A gateway with a topic of its own, and what it stored."""

    def __init__(self, name, brokers, security="", topic=None, more=""):
        self.name, self.topic = name, topic or f"{name}-events"
        self._brokers, self._security, self._more = brokers, security, more
        self.stored = []
        # Many of them begin with brokers that they cannot use.
        self.gateway = parts.Gateway(self._config(), gateway=name, store='new_card = "accept"')

    def _config(self):
        return (
            f'[kafka]\nbrokers = "{self._brokers}"\ntopic = "{self.topic}"\nstatus_topic = "{self.name}-life"\n'
            f"{self._security}\n{self._more}\n"
        )

    def __enter__(self):
        self.gateway.__enter__()
        return self

    def __exit__(self, *failure):
        self.gateway.__exit__(*failure)

    def configure(self, brokers, security):
        """What a person does about a wrong config: corrects it, and starts the gateway anew."""
        assert self.gateway.stop() == 0
        text = self.gateway.config.read_text().replace(self._config(), "")
        self._brokers, self._security = brokers, security
        self.gateway.config.write_text(text + self._config())
        self.gateway.start()

    def orders(self, count, note=""):
        """Each order has two events, so that there is an order to keep. The seqs of the last one's."""
        for _ in range(count):
            order = self.gateway.order(food=f"Pizza {note}")
            prepared = self.gateway.set_status(order["orderId"], "PREPARING")
            seqs = [order["seq"], prepared["seq"]]
            self.stored += seqs
        return seqs

    def lines(self):
        for line in self.gateway.log.read_text(errors="replace").splitlines():
            if line.startswith("{"):
                yield json.loads(line)

    def says(self, message, *details, limit_s=SAID_WITHIN_S, begins=False):
        """Waits for a line of the log with this message, or that `begins` so, and these parts in its fields."""
        is_it = str.startswith if begins else str.__eq__
        found = lambda line: is_it(line["message"], message) and all(part in json.dumps(line) for part in details)
        return parts.until(f"{self.name} says {message!r} {details}", lambda: [line for line in self.lines() if found(line)], limit_s)[-1]

    def metric(self, name):
        """The sum of a metric of ours over its labels."""
        return self.metric_of(f"dumbwaiter_{name}")

    def metric_of(self, name):
        """The sum of a metric over its labels."""
        text = self.gateway.ask("GET", "/metrics")[1]
        values = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name]
        assert values, f"no metric {name}"
        return sum(values)

    def settled(self):
        """The gateway's figures, once they are younger than the last order."""
        state = self.gateway.ask("GET", "/api/v1/state")[1]
        return state if state["lastSeq"] == self.stored[-1] else None

    def waits(self, count, kafka="down"):
        """So many events are kept, and the gauges say so."""
        shows = lambda: (now := self.settled()) and now["queued"] == count and now["kafka"] == kafka
        parts.until(f"{self.name} shows that {count} events wait and that kafka is {kafka}", shows)
        assert self.metric("outbox_events") == count and self.metric("kafka_up") == (kafka == "up")
        assert self.gateway.ask("GET", "/health")[1]["kafka"] == kafka

    def delivers(self, limit_s=HEALS_WITHIN_S):
        """Waits until Kafka has everything, and returns after how many seconds."""
        began = time.monotonic()
        parts.until(f"{self.name} delivers what waits", lambda: (now := self.settled()) and now["queued"] == 0, limit_s)
        return time.monotonic() - began

    def hears_that_it_is_paid(self, kafka, topic, limit_s=HEALS_WITHIN_S):
        """The centre says that an order is paid, and the house hears it."""
        order = self.gateway.order()
        self.stored.append(order["seq"])
        paid = {"id": str(uuid.uuid4()), "type": "order.payment_processed", "orderId": order["orderId"]}
        paid |= {"data": {"status": "PAID"}, "occurredAt": "2026-01-01T12:00:00Z", "version": "1.0"}
        sarama.produce(kafka.brokers(), topic, [f"{self.name}\t{json.dumps(paid)}"])
        at_home = lambda: self.gateway.ask("GET", f"/api/v1/orders/{order['orderId']}")[1]["payment"] == "PAID"
        parts.until(f"{self.name} hears of the payment", at_home, limit_s)

    def ledger(self, kafka, without=(), committed=False):
        """What Kafka has is what was stored, but `without` some; repeats are counted, for they are marked."""
        seqs, orders, repeats = set(), collections.defaultdict(list), 0
        for record in sarama.read(kafka.brokers(), self.topic, committed):
            headers = record["headers"]
            assert headers["gateway-id"] == self.name, headers
            seq = int(headers["gateway-seq"])
            repeats += seq in seqs
            if seq not in seqs:
                orders[record["key"]].append(seq)
            seqs.add(seq)
        expected = set(self.stored) - set(without)
        assert seqs == expected, f"{self.name}: lost {sorted(expected - seqs)}, unknown {sorted(seqs - expected)}"
        for order, of_order in orders.items():
            assert of_order == sorted(of_order), f"{self.name}: {order} came as {of_order}"
        return repeats


def login(module, *users):
    """What a broker has to know of those who log in."""
    known = "".join(f' user_{user}="{RIGHT}"' for user in users)
    return f"org.apache.kafka.common.security.{module} required{known};"


# ---- passwords and certificates --------------------------------------------------------------------------------------


class Secured:
    """One broker that asks who is there, in each of the ways there are."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.authority = certificates.Authority("authority", folder)
        self.other_authority = certificates.Authority("other", folder)
        good = self.authority.sign("broker")[2]
        expired = self.authority.sign("broker", valid=certificates.EXPIRED, file="expired")[2]
        self.kafka = kafka_cluster.Cluster(
            listeners={"PASSWORD": "SASL_SSL", "CERTIFICATE": "SSL", "EXPIRED": "SSL"},
            scram={"scram": RIGHT, "rotated": RIGHT},
            properties={
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                # Whoever comes in over the plain listener: the test itself.
                "super.users": "User:ANONYMOUS;User:super",
                **self._listener("password", good),
                **self._listener("certificate", good),
                **self._listener("expired", expired),
                "listener.name.password.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
                "listener.name.password.plain.sasl.jaas.config": login("plain.PlainLoginModule", "plain", "topic", "status", "check", "once", "group"),
                "listener.name.password.scram-sha-512.sasl.jaas.config": login("scram.ScramLoginModule"),
                "listener.name.certificate.ssl.client.auth": "required",
                "listener.name.certificate.ssl.principal.mapping.rules": "RULE:^CN=([a-z]*)$/$1/",
            },
        )

    def _listener(self, name, store):
        at = f"listener.name.{name}.ssl"
        return {
            f"{at}.keystore.type": "PEM",
            f"{at}.keystore.location": store,
            f"{at}.truststore.type": "PEM",
            f"{at}.truststore.location": self.authority.pem,
        }

    def __enter__(self):
        self.kafka.start()
        return self

    def __exit__(self, *_):
        self.kafka.stop()

    def house(self, name, listener="DIRECT", security="", more="", user=None, made=True):
        """A gateway whose user has the rights on its topics that docs/operations.md asks for. The topics are `made` before."""
        for topic in (f"{name}-events", f"{name}-life") if made else ():
            self.kafka.create_topic(topic)
            if user:
                self.kafka.allow(user, WRITE, TOPIC, topic)
        return House(name, self.kafka.brokers(listener), security, more=more)

    def file(self, name, text):
        file = self.folder / name
        file.write_text(text)
        return file

    def password(self, user, mechanism, secret, name=None):
        """A config by which a user logs in, and the file with its password."""
        file = self.file(f"{name or user}.password", secret + "\n")
        login = f'sasl_mechanism = "{mechanism}"\nusername = "{user}"\npassword_file = "{file}"\n'
        return f'security = "sasl_ssl"\nca_file = "{self.authority.pem}"\n{login}', file


def a_password(secured, user, mechanism):
    security, file = secured.password(user, mechanism, WRONG)
    with secured.house(user, "PASSWORD", security, user=user) as house:
        house.orders(3)
        house.says("kafka refuses this gateway, or cannot prove who it is", "see kafka.username, kafka.password_file")
        house.waits(6)
        file.write_text(RIGHT)
        house.orders(3)
        house.delivers()
        house.ledger(secured.kafka)
        lines = house.gateway.log.read_text()
        assert RIGHT not in lines and WRONG not in lines, "a password is in the log"


def a_wrong_password_is_corrected_in_its_file(secured):
    a_password(secured, "plain", "PLAIN")


def a_wrong_scram_password_is_corrected_in_its_file(secured):
    a_password(secured, "scram", "SCRAM-SHA-512")


def a_changed_password_is_taken_over_by_a_reload(secured):
    security, file = secured.password("rotated", "SCRAM-SHA-512", RIGHT)
    with secured.house("rotated", "PASSWORD", security, user="rotated") as house:
        house.orders(3)
        house.delivers()
        process = house.gateway.process.pid
        file.write_text(WRONG)
        house.gateway.reload()
        house.says("the config was not reloaded: all stays as it was", "see kafka.username, kafka.password_file")
        house.orders(3)
        house.delivers()
        secured.kafka.change_password("rotated", NEWER)
        file.write_text(NEWER)
        house.gateway.reload()
        house.says("the config was reloaded", "kafka.username and its password")
        house.orders(3)
        house.delivers()
        assert house.gateway.process.pid == process and house.gateway.is_running()
        assert house.ledger(secured.kafka) == 0, "a reload sends nothing twice"
        lines = house.gateway.log.read_text()
        assert not any(secret in lines for secret in (RIGHT, WRONG, NEWER)), "a password is in the log"


def an_unknown_authority_is_corrected_in_its_file(secured):
    ca = secured.file("ca.pem", secured.other_authority.pem.read_text())
    certificate, key, _ = secured.authority.sign("authority")
    security = f'security = "ssl"\nca_file = "{ca}"\ncert_file = "{certificate}"\nkey_file = "{key}"\n'
    with secured.house("authority", "CERTIFICATE", security, user="authority") as house:
        house.orders(3)
        house.says("kafka refuses this gateway, or cannot prove who it is", "certificate verify failed", "not signed by kafka.ca_file")
        house.waits(6)
        ca.write_text(secured.authority.pem.read_text())
        house.delivers()
        house.ledger(secured.kafka)


def an_expired_certificate_of_ours_is_replaced_in_its_files(secured):
    expired = secured.authority.sign("expired", valid=certificates.EXPIRED, file="gateway")
    good = secured.authority.sign("expired", file="renewed")
    security = f'security = "ssl"\nca_file = "{secured.authority.pem}"\ncert_file = "{expired[0]}"\nkey_file = "{expired[1]}"\n'
    with secured.house("expired", "CERTIFICATE", security, user="expired") as house:
        house.orders(3)
        house.says("kafka refuses this gateway, or cannot prove who it is", "another certificate than kafka.cert_file gives")
        house.waits(6)
        # As a renewal does it: whoever reads between the two finds a pair that does not fit, and tries again.
        for old, new in zip(expired, good):
            old.write_text(new.read_text())
        house.delivers(limit_s=2 * HEALS_WITHIN_S)
        house.ledger(secured.kafka)


def an_expired_certificate_of_the_broker_is_said(secured):
    security = f'security = "ssl"\nca_file = "{secured.authority.pem}"\n'
    with secured.house("brokers-expired", "EXPIRED", security) as house:
        house.orders(3)
        house.says("kafka refuses this gateway, or cannot prove who it is", "certificate has expired", "certificate verify failed")
        house.waits(6)
        house.configure(secured.kafka.brokers(), "")
        house.delivers()
        house.ledger(secured.kafka)


def tls_towards_a_plain_port_is_said(secured):
    with secured.house("tls-to-plain", "DIRECT", f'security = "ssl"\nca_file = "{secured.authority.pem}"\n') as house:
        house.orders(3)
        house.says("kafka is out of reach", "the port may speak no TLS")
        house.waits(6)
        house.configure(secured.kafka.brokers(), "")
        house.delivers()
        house.ledger(secured.kafka)


def a_plain_line_towards_a_tls_port_is_said(secured):
    with secured.house("plain-to-tls", "CERTIFICATE") as house:
        house.orders(3)
        house.says("kafka is out of reach", "the port may speak TLS")
        house.waits(6)
        house.configure(secured.kafka.brokers(), "")
        house.delivers()
        house.ledger(secured.kafka)


# ---- rights ----------------------------------------------------------------------------------------------------------


def a_topic_that_is_denied_is_said_and_taken_once_it_is_allowed(secured):
    security, _ = secured.password("topic", "PLAIN", RIGHT)
    with secured.house("topic", "PASSWORD", security) as house:
        house.orders(3)
        house.says("Kafka does not take events; they wait in the outbox", "TopicAuthorizationFailed")
        house.waits(6, kafka="up")
        assert house.metric("events_failed_total") > 0
        secured.kafka.allow("topic", WRITE, TOPIC, house.topic)
        house.orders(3)
        house.delivers()
        house.ledger(secured.kafka)


def exactly_once(secured, name, allowed, missing, error, advice):
    """A gateway whose user has not yet all the rights that transactions take: it says so, waits, and never falls back."""
    security, _ = secured.password(name, "PLAIN", RIGHT)
    with secured.house(name, "PASSWORD", security, '[uplink]\ndelivery = "exactly-once"', user=name) as house:
        secured.kafka.allow(name, *allowed)
        house.orders(3)
        house.says("Kafka does not take events; they wait in the outbox", error, advice)
        house.waits(6, kafka="up")
        attention = house.gateway.ask("GET", "/health")[1]["attention"]
        assert any(advice in sentence for sentence in attention), attention
        secured.kafka.allow(name, *missing)
        # The progress is kept under the topic: so it may be read as well.
        house.says("Kafka does not take events; they wait in the outbox", f"let this gateway's user READ the topic {house.topic}")
        secured.kafka.allow(name, READ, TOPIC, house.topic)
        house.orders(3)
        house.delivers()
        assert house.ledger(secured.kafka, committed=True) == 0, "an event came twice"
        assert house.gateway.ask("GET", "/health")[1]["attention"] == []


def a_transactional_id_that_is_denied_is_said_and_taken_once_it_is_allowed(secured):
    allowed, missing = (READ, GROUP, "dumbwaiter-once:uplink"), (WRITE, TRANSACTIONAL_ID, "dumbwaiter-once")
    advice = "let this gateway's user WRITE to the transactional id dumbwaiter-once"
    exactly_once(secured, "once", allowed, missing, "TransactionalIdAuthorizationFailed (53)", advice)


def a_group_that_is_denied_is_said_and_taken_once_it_is_allowed(secured):
    allowed, missing = (WRITE, TRANSACTIONAL_ID, "dumbwaiter-group"), (READ, GROUP, "dumbwaiter-group:uplink")
    advice = "let this gateway's user READ the group dumbwaiter-group:uplink"
    exactly_once(secured, "group", allowed, missing, "GroupAuthorizationFailed (30)", advice)


def statuses_are_read_without_a_right_on_the_group_and_said_to_be_denied_without_one_on_the_topic(secured):
    security, _ = secured.password("status", "PLAIN", RIGHT)
    topic = "status-statuses"
    secured.kafka.create_topic(topic)
    more = f'[[downlink]]\ntopic = "{topic}"\nselect = "partition"\npartition = 0\n'
    with secured.house("status", "PASSWORD", security, more, user="status") as house:
        house.says("status topic cannot be read yet; it is tried again", "TopicAuthorizationFailed")
        secured.kafka.allow("status", DESCRIBE, TOPIC, topic)
        house.says("status records cannot be fetched; it is tried again", "TopicAuthorizationFailed")
        secured.kafka.allow("status", READ, TOPIC, topic)
        house.hears_that_it_is_paid(secured.kafka, topic)
        house.ledger(secured.kafka)


# ---- topics ----------------------------------------------------------------------------------------------------------


def a_missing_topic_is_said_and_taken_once_it_is_there(secured):
    with secured.house("missing", made=False) as house:
        house.orders(3)
        house.says("kafka does not take events for this topic", "UnknownTopicOrPartition")
        house.waits(6, kafka="up")
        house.says("Kafka does not take events; they wait in the outbox", "UnknownTopic")
        secured.kafka.create_topic(house.topic)
        house.orders(3)
        house.delivers()
        house.ledger(secured.kafka)


def a_topic_made_anew_under_its_name_is_noticed(secured):
    topic = "anew-statuses"
    secured.kafka.create_topic(topic)
    more = f'[[downlink]]\ntopic = "{topic}"\nselect = "partition"\npartition = 0\n'
    with secured.house("anew", more=more) as house:
        house.orders(3)
        house.delivers()
        house.hears_that_it_is_paid(secured.kafka, topic)
        house.ledger(secured.kafka)
        gone = list(house.stored)
        for each in (house.topic, topic):
            secured.kafka.delete_topic(each)
            secured.kafka.create_topic(each)
        house.orders(3)
        house.delivers()
        house.ledger(secured.kafka, without=gone)
        house.hears_that_it_is_paid(secured.kafka, topic, limit_s=90)
        house.says("a topic was made anew under the same name; what was in it is gone", topic)


def what_is_too_large_becomes_a_dead_letter_and_the_rest_of_its_batch_goes_through(secured):
    with secured.house("large", more='dead_letter_topic = "large-dead"\n', made=False) as house:
        house.orders(20)
        too_large = house.orders(1, note=secrets.token_hex(4500))
        house.orders(20)
        # All of it waits, so that it goes out in batches.
        secured.kafka.create_topic(house.topic, max_message_bytes=4000)
        house.says("Kafka can never take this event; kept as a dead letter", "MessageSizeTooLarge")
        house.delivers()
        assert house.metric("dead_letters") == 1
        # What comes later of the same order is held behind it.
        house.ledger(secured.kafka, without=too_large)
        alone = house.orders(1, note=secrets.token_hex(4500))
        parts.until("the second is a dead letter as well", lambda: house.metric("dead_letters") == 2)
        house.orders(2)
        house.delivers()
        house.ledger(secured.kafka, without=too_large + alone)
        what_is_kept_is_told(secured.kafka, house, too_large + alone)


def what_is_kept_is_told(kafka, house, kept):
    """To the dead letter topic, which is missing so far, and takes no more than the other."""
    house.says("dead letters wait for their topic", "large-dead")
    kafka.create_topic("large-dead", max_message_bytes=4000)
    told = lambda: sorted(int(record["headers"]["gateway-seq"]) for record in sarama.read(kafka.brokers(), "large-dead"))
    parts.until("dead and held events are told", lambda: set(told()) == set(kept), HEALS_WITHIN_S)
    before = told()
    first, held = sarama.read(kafka.brokers(), "large-dead")[:2]
    if "dead-letter-behind" in first["headers"]:
        first, held = held, first  # it went out once more, without its value
    why = {name.removeprefix("dead-letter-"): value for name, value in first["headers"].items()}
    assert (why["topic"], why["state"], first["value"]) == (house.topic, "dead", ""), first
    assert "MessageSizeTooLarge" in why["reason"] and why["since"].startswith("20") and int(why["attempts"]) > 0, first
    assert held["headers"]["dead-letter-behind"] == why["gateway-seq"], held
    assert json.loads(held["value"])["orderId"] == held["key"] == first["key"] == why["key"], held
    parts.until("all is well with the topic", lambda: "large-dead" not in str(house.gateway.ask("GET", "/health")[1]["attention"]))
    house.gateway.kill()
    house.gateway.start()
    for letter in house.gateway.ask("GET", "/api/v1/dead-letters")[1]["deadLetters"]:
        decision = lambda: house.gateway.ask("POST", f"/api/v1/dead-letters/{letter['seq']}", {"decision": "discard"})[0] == 200
        parts.until("it is discarded", decision, HEALS_WITHIN_S)
    assert told() == before, "a crash repeats nothing that was told, and a decision loses nothing"


def a_quota_only_delays(secured):
    with secured.house("quota") as house:
        house.orders(1)
        house.delivers()
        before_s = house.metric("publish_seconds_sum")
        secured.kafka.limit_producer("dumbwaiter-quota", 300)
        house.orders(20)
        parts.until("events take longer", lambda: house.metric("publish_seconds_sum") > before_s + 5, HEALS_WITHIN_S)
        secured.kafka.limit_producer("dumbwaiter-quota", None)
        house.orders(3)
        house.delivers()
        assert house.ledger(secured.kafka) == 0, "a quota doubles nothing"


# ---- check --online ---------------------------------------------------------------------------------------------------


def check(house):
    """What `dumbwaiter check --online` says: its exit code, and all its lines."""
    command = [parts.daemon(), "check", "--online", "--config", house.gateway.config]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    return done.returncode, done.stdout + done.stderr


def checked(house, code, *sentences):
    found = check(house)
    missing = [sentence for sentence in sentences if sentence not in found[1]]
    assert found[0] == code and not missing, f"{found[0]}, without {missing}:\n{found[1]}"


def what_check_says_of_connections(secured):
    right = secured.authority.sign("checked", file="checked")
    tls = f'security = "ssl"\nca_file = "{secured.authority.pem}"\n'
    ours = f'cert_file = "{right[0]}"\nkey_file = "{right[1]}"\n'
    wrong_password, file = secured.password("plain", "PLAIN", WRONG, name="checked")
    elsewhere = tls.replace(str(secured.authority.pem), str(secured.other_authority.pem))
    cases = [
        ("PASSWORD", wrong_password, "see kafka.username, kafka.password_file"),
        ("CERTIFICATE", elsewhere + ours, "self-signed certificate in certificate chain"),
        ("EXPIRED", tls, "(certificate has expired)"),
        ("CERTIFICATE", tls, "the brokers want another certificate than kafka.cert_file gives"),
        ("DIRECT", tls, "the port may speak no TLS"),
        ("CERTIFICATE", "", "the port may speak TLS"),
    ]
    for listener, security, sentence in cases:
        house = House("checked", secured.kafka.brokers(listener), security)
        checked(house, 2, "kafka: the brokers cannot be used", sentence)
    file.write_text(RIGHT)
    checked(House("checked", secured.kafka.brokers("PASSWORD"), wrong_password), 2, "kafka.topic: checked-events is denied, or is not there")


def what_check_says_of_topics_and_rights(secured):
    kafka = secured.kafka
    security, _ = secured.password("check", "PLAIN", RIGHT)
    more = '[[downlink]]\ntopic = "check-statuses"\nselect = "partition"\npartition = 3\n'
    house = House("check", kafka.brokers("PASSWORD"), security, more=more)
    for topic in ("check-events", "check-life", "check-statuses"):
        kafka.create_topic(topic, 3)
        kafka.allow("check", DESCRIBE, TOPIC, topic)
    denied = ["check-events may not be written; grant WRITE", "check-life may not be written", "check-statuses may not be read"]
    checked(house, 2, *denied, "order-events-dlq is denied, or is not there")
    kafka.allow("check", READ, TOPIC, "check-statuses")
    for topic in ("check-events", "check-life"):
        kafka.allow("check", WRITE, TOPIC, topic)
    checked(house, 2, "check-events has 3 partitions, and may be written", "check-statuses has 3 partitions, and none is number 3")
    kafka.create_topic("check-statuses-2", 4)
    kafka.allow("check", READ, TOPIC, "check-statuses-2")
    house.gateway.config.write_text(house.gateway.config.read_text().replace("check-statuses", "check-statuses-2"))
    # How large a record may be is a right of its own: without it, it is only noted.
    checked(house, 0, "it needs DESCRIBE_CONFIGS", "everything that it names answers")
    kafka.allow("check", DESCRIBE_CONFIGS, TOPIC, "check-events")
    checked(house, 0, "check-events takes records and batches of 1048588 bytes")
    kafka.set_topic("check-events", max_message_bytes=40_000)
    checked(house, 0, "after an outage events go one by one")
    kafka.set_topic("check-events", max_message_bytes=4_000)
    checked(house, 2, "larger ones become dead letters; raise its max.message.bytes")


# ---- brokers ---------------------------------------------------------------------------------------------------------


def a_broker_that_comes_back_with_an_empty_disk_is_noticed(_):
    with kafka_cluster.Cluster() as kafka:
        kafka.create_topic("wiped-events")
        with House("wiped", kafka.brokers()) as house:
            house.orders(3)
            house.delivers()
            house.ledger(kafka)
            gone = list(house.stored)
            kafka.stop_node(1)
            house.orders(3)
            house.waits(6)
            kafka.wipe(1)
            kafka.start_node(1)
            kafka.create_topic(house.topic)
            house.orders(3)
            house.delivers()
            house.ledger(kafka, without=gone)


def a_killed_leader_is_replaced_and_too_few_replicas_are_waited_for(_):
    with kafka_cluster.Cluster(nodes=3) as kafka:
        kafka.create_topic("leader-events", min_insync_replicas=2)
        kafka.create_topic("replicas-events", min_insync_replicas=3)
        with House("leader", kafka.brokers()) as leader, House("replicas", kafka.brokers()) as replicas:
            for house in (leader, replicas):
                house.orders(3)
                house.delivers()
            victim, in_sync = kafka.leader(leader.topic)
            assert len(in_sync) == 3, in_sync
            kafka.kill(victim)
            for house in (leader, replicas):
                house.orders(3)
            took_s = leader.delivers(limit_s=30)
            # A broker that waits for its replicas answers nothing else on that connection, for up to half a minute.
            replicas.says("kafka answers, but acknowledges nothing; it is waited for", "2 of 3 replicas are in sync", limit_s=90)
            replicas.waits(6, kafka="up")
            kafka.start_node(victim)
            replicas.delivers()
            for house in (leader, replicas):
                house.ledger(kafka)
    print(f"a killed leader was replaced after {took_s:.1f} s", flush=True)


CASES = [
    a_wrong_password_is_corrected_in_its_file,
    a_wrong_scram_password_is_corrected_in_its_file,
    a_changed_password_is_taken_over_by_a_reload,
    an_unknown_authority_is_corrected_in_its_file,
    an_expired_certificate_of_ours_is_replaced_in_its_files,
    an_expired_certificate_of_the_broker_is_said,
    tls_towards_a_plain_port_is_said,
    a_plain_line_towards_a_tls_port_is_said,
    a_topic_that_is_denied_is_said_and_taken_once_it_is_allowed,
    a_transactional_id_that_is_denied_is_said_and_taken_once_it_is_allowed,
    a_group_that_is_denied_is_said_and_taken_once_it_is_allowed,
    statuses_are_read_without_a_right_on_the_group_and_said_to_be_denied_without_one_on_the_topic,
    what_check_says_of_connections,
    what_check_says_of_topics_and_rights,
    a_missing_topic_is_said_and_taken_once_it_is_there,
    a_topic_made_anew_under_its_name_is_noticed,
    what_is_too_large_becomes_a_dead_letter_and_the_rest_of_its_batch_goes_through,
    a_quota_only_delays,
    a_broker_that_comes_back_with_an_empty_disk_is_noticed,
    a_killed_leader_is_replaced_and_too_few_replicas_are_waited_for,
]


# ---- all of it -------------------------------------------------------------------------------------------------------


def side_by_side(cases, secured):
    """Runs the cases at once: they mostly wait. Each failure is told."""

    def run(case):
        began = time.monotonic()
        case(secured)
        print(f"ok {case.__name__} ({time.monotonic() - began:.0f} s)", flush=True)

    failed = []
    with concurrent.futures.ThreadPoolExecutor(len(cases)) as pool:
        running = {pool.submit(run, case): case for case in cases}
        for done in concurrent.futures.as_completed(running):
            if failure := done.exception():
                print(f"FAILED {running[done].__name__}: {failure!r}", flush=True)
                failed.append(failure)
    if failed:
        raise failed[0]


def main():
    cases = [case for case in CASES if not sys.argv[1:] or any(part in case.__name__ for part in sys.argv[1:])]
    if not cases:
        raise SystemExit(f"no case is named like {sys.argv[1:]}")
    sarama.program()
    with tempfile.TemporaryDirectory(prefix="kafka-errors-") as folder, Secured(folder) as secured:
        side_by_side(cases, secured)
    print(f"{len(cases)} passed, 0 failed")


if __name__ == "__main__":
    main()
