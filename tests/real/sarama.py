"""The centre as Go services write it: the program in sarama/."""

import functools
import json
import pathlib
import subprocess

import parts


@functools.cache
def program():
    """Its path, built."""
    path = parts.PARTS / "sarama"
    source = pathlib.Path(__file__).with_name("sarama")
    subprocess.run([parts.tool("go"), "build", "-o", path, "."], cwd=source, check=True, stdin=subprocess.DEVNULL)
    return path


def produce(brokers, topic, keys):
    """A record for each key, where Sarama's own partitioner puts it. After a tab a key may be followed by its record's value;
    nothing there makes a tombstone."""
    subprocess.run([program(), "produce", brokers, topic], input="\n".join(keys), text=True, check=True)


def read(brokers, topic, committed=False):
    """All records that are there: partition, offset, key, value, headers; in order within each partition."""
    command = [program(), "committed" if committed else "read", brokers, topic]
    lines = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, check=True).stdout
    return [json.loads(line) for line in lines.splitlines()]
