#!/usr/bin/env python3
"""The MQTT ingress and the terminals against a real mosquitto.

The tests themselves are in the daemon (daemon/src/ingress/mqtt/tests/mosquitto.rs), where they reach the ingress without the rest; each
starts a broker of its own. They are ignored by `cargo test`, which needs nothing installed.
"""

import subprocess

import parts

for program in ["mosquitto", "mosquitto_passwd", "openssl"]:
    parts.tool(program)
# One at a time: they measure.
command = ["cargo", "test", "--locked", "-p", "dumbwaiter", "--bin", "dumbwaiter", "mqtt::tests::mosquitto"]
result = subprocess.run(
    [*command, "--", "--ignored", "--nocapture", "--test-threads=1"], cwd=parts.ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
)
print(result.stdout)
assert result.returncode == 0, "a test failed"
assert "test result: ok. 0 passed" not in result.stdout, "there were no tests to run"
