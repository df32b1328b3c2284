#!/usr/bin/env python3
"""`kill -9` of the daemon under load at any moment, while Kafka is up, down, flapping or killed itself.

    kills.py [--kills N] [--seed N]

Terminals over HTTP, MQTT and serial lines submit all the while, and submit again what was not answered. At the end Kafka is read from its
beginning and compared with what they heard: nothing stored is lost, no request is under two events, a repeat has the name and the id of
the first copy, and each order's events are in their sequence.
"""

import argparse
import collections
import contextlib
import random
import threading
import time

import house as houses
import parts

# So many kills, and Kafka changes.
KILLS_A_TURN = 6
# The daemon lives no longer than this. A third of its lives end within a tenth of it: while it starts, and reads its store.
LIFE_MAX_S = 1.5
# A daemon that is told to stop is killed within this time.
STOPPING_MAX_S = 0.3
ANSWERS_A_TURN = 4


@contextlib.contextmanager
def up(kafka, dice):
    yield


@contextlib.contextmanager
def down(kafka, dice):
    kafka.cut_line()
    yield
    kafka.mend_line()


@contextlib.contextmanager
def deaf(kafka, dice):
    """Kafka takes what comes, and nobody hears that it did."""
    kafka.eat_answers()
    yield
    # What was swallowed never comes: those connections have to end.
    kafka.cut_line()
    kafka.mend_line()


@contextlib.contextmanager
def flapping(kafka, dice):
    enough = threading.Event()
    moments = random.Random(dice.random())

    def flap():
        while not enough.wait(moments.uniform(0.05, 0.8)):
            moments.choice([kafka.cut_line, kafka.eat_answers, kafka.mend_line, kafka.mend_line])()

    flapper = threading.Thread(target=flap)
    flapper.start()
    try:
        yield
    finally:
        enough.set()
        flapper.join()
        kafka.cut_line()
        kafka.mend_line()


@contextlib.contextmanager
def killed(kafka, dice):
    """Kafka dies once within the turn."""
    kafka.kill(1)
    yield
    kafka.start_node(1)


KAFKA = [up, flapping, down, deaf, killed]


def kill(gateway, dice):
    """One life of the daemon, from its start to its end at any moment."""
    if not gateway.is_running():
        parts.Part.start(gateway)
    brief = dice.random() < 1 / 3
    time.sleep(dice.uniform(0, LIFE_MAX_S / 10 if brief else LIFE_MAX_S))
    assert gateway.is_running(), f"the gateway ended by itself with {gateway.process.returncode}"
    if dice.random() < 0.1:
        gateway.process.terminate()
        time.sleep(dice.uniform(0, STOPPING_MAX_S))
    gateway.kill()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    dice = random.Random(arguments.seed)
    done = collections.Counter()
    with houses.house(serial=2, http=2, mqtt=2) as house:
        while (kills := done.total()) < arguments.kills:
            turn = KAFKA[kills // KILLS_A_TURN % len(KAFKA)]
            with turn(house.kafka, dice):
                for _ in range(min(KILLS_A_TURN, arguments.kills - kills)):
                    kill(house.gateway, dice)
                    done[turn.__name__] += 1
                # No turn is idle: every terminal is served between kills.
                house.gateway.start()
                house.progress(ANSWERS_A_TURN)
            print(f"ok {turn.__name__}: {done.total()} kills, {sum(len(t.answered) for t in house.terminals)} stored", flush=True)
        found = house.close()
        errors = house.gateway.errors()
    print(dict(done), found)
    assert not errors, errors
    assert found["stored"] >= arguments.kills * ANSWERS_A_TURN, "there was no load"
    assert not houses.wrong(found), houses.wrong(found)
    print(f"{done.total()} passed, 0 failed")


if __name__ == "__main__":
    main()
